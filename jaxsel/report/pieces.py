"""Pieces of which the pages of jaxsel are made: scripts, styles, templates, menus, and tables as JSON."""

import functools
import json
import pkgutil
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from jaxsel.integrations._extras import extra
from jaxsel.report.cells import PARTS

Table = Mapping[str, Any]


@functools.cache
def bundle() -> str:
    """Return the JavaScript of Vega, Vega-Lite and Vega-Embed, which defines the function `vegaEmbed`."""
    with extra("explore"):
        import vl_convert
    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return code.replace("</script", "<\\/script")


def filled(template: str, **parts: str) -> str:
    """Return the template with each @name@ replaced, in one pass, so that a part may hold such a name."""
    pieces = template.split("@")
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def text_of(name: str, package: str = "jaxsel.report") -> str:
    """Return the text of a file of a package: a template, a style sheet or a script."""
    data = pkgutil.get_data(package, name)
    assert data is not None  # the loader of a package on disk or in an archive always returns its files
    return data.decode()


def document(*, title: str, style: str, body: str, data: Any, script: str, connect: str = "") -> str:
    """Return a page as HTML that holds its style, data and scripts.

    Args:
        title: Title of the page.
        style: Its style sheet.
        body: Its content as HTML.
        data: What the script reads, as `as_json` takes it.
        script: What draws the page, after the scripts of Vega.
        connect: More of the page's policy of security, for a page that asks a server; it begins with a semicolon.
    """
    parts = {"style": style, "body": body, "data": as_json(data), "script": script, "connect": connect}
    return filled(text_of("shell.html"), title=escape(title), bundle=bundle(), **parts)


def definitions(words: Mapping[str, str]) -> str:
    """Return a glossary as HTML."""
    return "<dl>" + "".join(f"<dt>{escape(w)}</dt><dd>{escape(said)}</dd>" for w, said in words.items()) + "</dl>"


def part_menu() -> str:
    """Return the menu that chooses prompts by their earlier visits, as HTML."""
    parts = {"-1": "all"} | {str(number): said for number, said in enumerate(PARTS.values())}
    return select("part", "Prompts", parts, "-1")


def select(name: str, label: str, options: Mapping[str, str], chosen: str) -> str:
    """Return a menu as HTML: its options are values with what is said of them."""
    items = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(said)}</option>'
        for value, said in options.items()
    )
    return f'<label>{escape(label)} <select id="{name}">{items}</select></label>'


def card(name: str, title: str, text: str, *, menu: str = "", heading: str = "", wide: bool = False) -> str:
    """Return the place of a chart as HTML: its title, a caption and perhaps a menu; title and caption are HTML."""
    mark = f' id="{heading}"' if heading else ""
    return (
        f'<article class="card{" wide" if wide else ""}"><h3{mark}>{title}</h3><p>{text}</p>{menu}'
        f'<div class="chart" id="{name}" role="img" aria-label="{title}"></div></article>'
    )


def styled(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a chart's specification with the fonts and colours of the page, which are large enough for a phone."""
    font = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
    config = {
        "font": font,
        "background": None,
        "axis": {
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "gridColor": "#eceeec",
            "titlePadding": 8,
        },
        "legend": {"labelFontSize": 12, "titleFontSize": 12},
        "view": {"stroke": "#d5d9d5"},
    }
    fitted = {"autosize": {"type": "fit-x", "contains": "padding"}, "config": config}
    return {name: value for name, value in spec.items() if name != "$schema"} | fitted


def as_columns(table: Table, *, digits: int = 4) -> dict[str, Any]:
    """Return a table for the page: strings as numbers, floats with so many digits after the point, and NaN as null.

    A column of few distinct floats is held as these floats and their numbers.
    """
    arrays = {name: np.asarray(column) for name, column in table.items()}
    made: dict[str, Any] = {}
    for name, column in arrays.items():
        if column.dtype.kind in "OU":
            levels, values = np.unique(column.astype(str), return_inverse=True)
            made[name] = {"values": values.tolist(), "levels": levels.tolist()}
        elif column.dtype.kind == "f":
            made[name] = _floats(np.round(column.astype(np.float64), digits))
        else:
            made[name] = {"values": column.astype(int).tolist()}
    return {"length": len(next(iter(arrays.values()))), "columns": made}


def _floats(column: np.ndarray) -> dict[str, Any]:
    levels, values = np.unique(column, return_inverse=True)
    few = 20 * len(levels) < len(column)
    return {"values": values.tolist(), "levels": _numbers(levels)} if few else {"values": _numbers(column)}


def _numbers(column: np.ndarray) -> list[float | None]:
    """Return the floats for JSON: whole numbers without a point, and NaN as null."""
    known = np.isfinite(column)
    if not known.all():
        return [value if is_known else None for value, is_known in zip(column.tolist(), known.tolist(), strict=True)]
    return column.astype(np.int64).tolist() if (column == np.trunc(column)).all() else column.tolist()


def as_json(value: Any) -> str:
    """Return JSON that may stand inside of a script element."""
    return json.dumps(value, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\u0021--")
