"""A report as one HTML file: text, figures and tables, read on a laptop or a phone, in light or dark, without network.

Nothing is loaded from elsewhere, which the page's content security policy forbids, and no script runs: figures are in
the file as SVG or PNG, fonts are those of the system.
"""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from experiments.reporting.drawing import plt
from experiments.reporting.provenance import write_text

_DPI = 192  # of PNG: two pixels for each of CSS, which has 96 an inch
_WIDE = 6.5  # inches: a figure above has a row of its own
_MINUS, _NOTHING = "\N{MINUS SIGN}", "\N{EN DASH}"
_AROUND = rf"[-+{_MINUS}±0-9.,%()/ e]*"
_NUMBER = re.compile(f"{_AROUND}[0-9]{_AROUND}")


class Drawing(NamedTuple):
    """A figure of a page.

    Attributes:
        figure: of matplotlib, about 4 inches wide if its text is to be read on a phone, which scales it down.
        alt: what it shows, for who cannot see it.
        caption: the text below.
    """

    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        columns: their names.
        rows: of strings and numbers; None and NaN are shown as a dash.
        caption: the text above.
        digits: decimals of floats.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str
    digits: int = 3


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        title: also in the table of contents.
        text: paragraphs, with a blank line between them; `code` stands in backticks.
        figures: shown below the text.
        tables: shown below the figures.
    """

    title: str
    text: str = ""
    figures: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


def write_page(path: Path, *, title: str, lead: str, sections: Sequence[Section], footer: Mapping[str, Any]) -> Path:
    """Writes the page, closes its figures and returns the path; a reader sees the old file or the whole new one.

    Args:
        path: of the HTML file.
        title: of the page.
        lead: what it says, in a few sentences; paragraphs and `code` as in `Section`.
        sections: in order.
        footer: what made the page, above all the command and `provenance(...)`; mappings may be nested.

    Raises:
        ValueError: a figure without `alt`, or a row that has not as many cells as the table has columns.
    """
    for section in sections:
        _check(section)
    html = _template().render(title=title, lead=lead, sections=sections, footer=footer)
    write_text(path, html)
    for section in sections:
        for drawing in section.figures:
            plt.close(drawing.figure)
    return path


def _check(section: Section) -> None:
    for drawing in section.figures:
        if not drawing.alt.strip():
            raise ValueError(f"alt of a figure in {section.title!r} is {drawing.alt!r}; say what the figure shows")
    for table in section.tables:
        for row in table.rows:
            if len(row) != len(table.columns):
                raise ValueError(
                    f"a row of {table.caption!r} is {row!r}; give {len(table.columns)} cells, one a column"
                )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"paragraphs": _paragraphs, "image": _image, "cells": _cells, "numeric": _numeric}
    return environment.get_template("page.html")


def _paragraphs(text: str) -> list[Markup]:
    """Escaped, with code marked."""
    parts = (part.strip() for part in re.split(r"\n\s*\n", text))
    return [Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(part)))) for part in parts if part]


def _image(figure: Figure) -> dict[str, Any]:
    """The figure's address, with its data in it, its size in CSS pixels and whether it is wide."""
    # the same figure gives the same file: no date, no random ids
    with plt.rc_context({"svg.hashsalt": "jaxsel"}):
        svg = _bytes(figure, "svg", metadata={"Date": None})
    png = _bytes(figure, "png", dpi=_DPI)
    kind, data = min(("svg+xml", svg), ("png", png), key=lambda kind_and_data: len(kind_and_data[1]))
    width, height = figure.get_size_inches()
    return {
        "address": f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
        "width": round(96 * width),
        "height": round(96 * height),
        "wide": bool(width > _WIDE),
    }


def _bytes(figure: Figure, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, facecolor="white", **options)
    return file.getvalue()


def _cells(table: Table) -> list[list[str]]:
    return [[_shown(cell, table.digits) for cell in row] for row in table.rows]


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


def _numeric(table: Table) -> list[bool]:
    """Which columns hold numbers, with what may stand around them, and nothing else."""
    columns = zip(*_cells(table), strict=True) if table.rows else [()] * len(table.columns)
    known = [[cell for cell in column if cell != _NOTHING] for column in columns]
    return [bool(column) and all(map(_NUMBER.fullmatch, column)) for column in known]
