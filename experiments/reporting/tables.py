"""Tables for the terminal."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table


def terminal_table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]], *, labels: int = 1) -> Table:
    """Rows of text under a title.

    Args:
        title: above, to the left.
        columns: their names.
        rows: a cell a column.
        labels: how many columns on the left name what the rows are of; the others are numbers, to the right.
    """
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        is_label = number < labels
        made.add_column(name, justify="left" if is_label else "right", no_wrap=is_label)
    for row in rows:
        made.add_row(*row)
    return made
