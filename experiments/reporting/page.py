"""A report as one HTML file with text, figures and tables, for laptops and phones, in light and dark mode.

The page works without a network: its content security policy forbids scripts and anything loaded from elsewhere. The
file contains its figures as SVG or PNG; the fonts are the system's.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from experiments.reporting.drawing import plt
from experiments.reporting.provenance import write_text
from experiments.reporting.tables import PageTable

_DPI = 192  # resolution of a PNG: an inch has 96 CSS pixels, and each of them gets two pixels
_WIDE = 6.5  # inches; a wider figure gets a row of its own


class Drawing(NamedTuple):
    """A figure of a page.

    Attributes:
        figure: Matplotlib figure. A phone scales it down; at a width of about 4 inches, its text stays readable.
        alt: Description for readers who cannot see the figure.
        caption: Text below the figure.
    """

    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        title: Title, which the table of contents repeats.
        text: Paragraphs, with a blank line between them; `code` stands in backticks.
        figures: Figures below the text.
        tables: Tables below the figures.
    """

    title: str
    text: str = ""
    figures: Sequence[Drawing] = ()
    tables: Sequence[PageTable] = ()


def write_page(path: Path, *, title: str, lead: str, sections: Sequence[Section], footer: Mapping[str, Any]) -> Path:
    """Write the page, close its figures and return the path; a reader sees the old file or the whole new one.

    Args:
        path: Path of the HTML file.
        title: Title of the page.
        lead: Summary in a few sentences, in the format of the text of a `Section`.
        sections: Sections in their order.
        footer: How the page was made: the command, `provenance(...)` and more; mappings may be nested.

    Raises:
        ValueError: A figure has no `alt`, or a row of a table has more or fewer cells than the table has columns.
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
        table.check()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"paragraphs": _paragraphs, "image": _image}
    return environment.get_template("page.html")


def _paragraphs(text: str) -> list[Markup]:
    """Return the escaped paragraphs, with `code` marked up."""
    parts = (part.strip() for part in re.split(r"\n\s*\n", text))
    return [Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(part)))) for part in parts if part]


def _image(figure: Figure) -> dict[str, Any]:
    """Return the figure as a `data:` URL, its size in CSS pixels, and whether it is wide."""
    # without a date and random ids, the same figure gives the same file
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
