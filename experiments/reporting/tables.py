"""Tables: for a terminal or a log, and for a page."""

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNLIMITED = 10_000  # characters per line
_MINUS, _NOTHING = "\N{MINUS SIGN}", "\N{EN DASH}"
_AROUND = rf"[-+{_MINUS}±0-9.,%()/ e]*"
_NUMBER = re.compile(f"{_AROUND}[0-9]{_AROUND}")


def terminal_table(
    title: str,
    columns: Iterable[str],
    rows: Iterable[Sequence[str]],
    *,
    labels: int = 1,
    fold: bool = False,
    gap: int = 1,
) -> Table:
    """Return a table of text under a title; the terminal's width limits it when it is printed.

    Args:
        title: Title above the table, on the left.
        columns: Names of the columns.
        rows: Rows with one cell per column.
        labels: Number of columns on the left that name the rows; the other columns are numbers, aligned to the right.
        fold: Whether long cells continue on the next line, where a narrow terminal would cut them off.
        gap: Blanks between two columns, in addition to one.
    """
    heading = Text(title, style="table.title")  # plain text: square brackets are not markup
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0))
    for number, name in enumerate(columns):
        is_label = number < labels
        table.add_column(
            Text(name),
            justify="left" if is_label else "right",
            overflow="fold" if fold else "ellipsis",
            min_width=len(name) if fold else None,
            no_wrap=is_label and not fold,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def text_table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]], *, labels: int = 1) -> str:
    """Return `terminal_table` as plain text that is as wide as its cells need."""
    table = terminal_table("", columns, rows, labels=labels)
    table.title, table.show_edge = None, False
    console = Console(file=io.StringIO(), width=_UNLIMITED, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join([title, *(line.rstrip() for line in capture.get().splitlines())])


@dataclass(frozen=True)
class PageTable:
    """A table of a page.

    Attributes:
        columns: Names of the columns.
        rows: Rows of strings and numbers; None and NaN appear as a dash.
        caption: Text above the table.
        digits: Decimals of floats.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str
    digits: int = 3

    def check(self) -> None:
        """Raise a ValueError if a row has more or fewer cells than there are columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row of {self.caption!r} is {row!r}; give {len(self.columns)} cells, one per column"
                )

    def cells(self) -> list[list[str]]:
        """Return the cells as text."""
        return [[_shown(cell, self.digits) for cell in row] for row in self.rows]

    def numeric(self) -> list[bool]:
        """Return for every column whether all of its cells are numbers, with signs, brackets or units around them."""
        columns = zip(*self.cells(), strict=True) if self.rows else [()] * len(self.columns)
        known = [[cell for cell in column if cell != _NOTHING] for column in columns]
        return [bool(column) and all(map(_NUMBER.fullmatch, column)) for column in known]


def _shown(cell: Any, digits: int) -> str:
    if cell is None:
        return _NOTHING
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    if isinstance(cell, int | np.integer):
        return f"{cell:,}"
    if isinstance(cell, str):
        return _NOTHING if cell == "-" else cell
    number = float(cell)
    return _NOTHING if math.isnan(number) else f"{number:,.{digits}f}".replace("-", _MINUS)
