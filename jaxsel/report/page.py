"""The page of a report: one HTML file that holds its data and its scripts, and loads nothing from elsewhere."""

import functools
import json
import pkgutil
from html import escape
from typing import Any

import numpy as np

from jaxsel.integrations._extras import extra
from jaxsel.report.cells import PARTS
from jaxsel.report.charts.common import parameters
from jaxsel.report.charts.draw import charts
from jaxsel.report.tables import KINDS, Table, Tables
from jaxsel.report.verdict import Finding, verdict
from jaxsel.report.wording import CARDS, COLOUR_NAMES, SCORE_NAMES, WORDS

_SHOWN = 4  # sentences of a finding that are shown at once


def page(found: Tables, *, title: str) -> str:
    """Return the page as HTML."""
    # the tests check the specifications against Altair's schema, which takes a second
    drawn = {name: chart.to_dict(validate=False) for name, chart in charts(found).items()}
    return template(
        "page.html",
        title=escape(title),
        style=_file("page.css"),
        lead=_lead(found),
        verdict="\n".join(map(_finding, verdict(found))),
        how=_how(found),
        controls=_controls(found),
        cards="\n".join(_card(name, found) for name in drawn),
        words="<dl>" + "".join(f"<dt>{escape(w)}</dt><dd>{escape(said)}</dd>" for w, said in WORDS.items()) + "</dl>",
        footer=_footer(),
        data=_json(_data(found, drawn)),
        bundle=bundle(),
        script=_file("page.js"),
    )


@functools.cache
def bundle() -> str:
    """Return the JavaScript of Vega, Vega-Lite and Vega-Embed, which defines the function `vegaEmbed`."""
    with extra("explore"):
        import vl_convert
    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return code.replace("</script", "<\\/script")


def template(name: str, **parts: str) -> str:
    """Return the template with each @name@ replaced, in one pass, so that a part may hold such a name."""
    pieces = _file(name).split("@")
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def _file(name: str) -> str:
    data = pkgutil.get_data("jaxsel.report", name)
    assert data is not None  # the loader of a package on disk or in an archive always returns its files
    return data.decode()


def _lead(found: Tables) -> str:
    material = found.material
    parts = [f"{material.num_prompts:,} prompts"]
    if len(material.history.step):
        rollouts = int(material.history.group_size.sum())
        parts.append(f"{material.history.num_steps:,} training steps with {rollouts:,} rollouts")
        probes = int(material.probes["group_size"].sum())
        parts.append(f"{probes:,} more rollouts in probes" if probes else "no probes")
        if material.chosen_by:
            parts.append(f"batches chosen by {material.chosen_by}")
    said = (
        " A group is one prompt's rollouts in one step. It is mixed if some of them are correct and some are wrong; "
        "only mixed groups teach. Before each step a method predicts how likely each prompt is to give a mixed group."
    )
    return escape("; ".join(parts) + "." + said)


def _how(found: Tables) -> str:
    if not found.judged:
        return "Drag on the map to choose prompts. The table below shows them."
    return (
        "The charts are linked. Drag or click in the first chart to choose predictions, and in the scores to choose "
        "steps: the other charts, the map and the table then show these alone. Drag on the map to choose prompts for "
        "the table."
    )


def _finding(finding: Finding) -> str:
    items = [f"<li>{escape(sentence)}</li>" for sentence in finding.details]
    shown = f"<ul>{''.join(items[:_SHOWN])}</ul>" if items else ""
    rest = items[_SHOWN:]
    more = f"<details><summary>{len(rest)} more</summary><ul>{''.join(rest)}</ul></details>" if rest else ""
    return (
        f'<article class="finding"><h3>{escape(finding.question)}</h3><p class="answer">{escape(finding.answer)}</p>'
        f"{shown}{more}</article>"
    )


def _select(name: str, label: str, options: dict[str, str], chosen: str) -> str:
    items = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(said)}</option>'
        for value, said in options.items()
    )
    return f'<label>{escape(label)} <select id="{name}">{items}</select></label>'


def _controls(found: Tables) -> str:
    first = parameters(found)
    made = [_select("method", "Method in detail", {name: name for name in found.methods}, first["method"])]
    if found.kinds:
        made.insert(0, _select("kind", "Judged on", {kind: KINDS[kind] for kind in found.kinds}, first["kind"]))
    parts = {"-1": "all"} | {str(number): said for number, said in enumerate(PARTS.values())}
    made.append(_select("part", "Prompts", parts, "-1"))
    return "\n".join(made)


def _card(name: str, found: Tables) -> str:
    title, text = CARDS[name]
    colours = COLOUR_NAMES | ({} if found.strata is None else {"stratum": "label of the prompt"})
    menus = {
        "scores": ("score", "Score", SCORE_NAMES, "states"),
        "map": ("colour", "Colour", colours, "prompts"),
        "meaning": ("meaning_colour", "Colour", colours, "rate"),
    }
    menu = _select(*menus[name]) if name in menus else ""
    heading = f' id="{name}-title"' if name == "trajectory" else ""
    width = " wide" if name == "trajectory" else ""
    return (
        f'<article class="card{width}"><h3{heading}>{title}</h3><p>{text}</p>{menu}'
        f'<div class="chart" id="{name}" role="img" aria-label="{title}"></div></article>'
    )


def _footer() -> str:
    import altair

    made = f"Made by jaxsel.explore with Altair {altair.__version__}."
    return f"{made} The file holds its data and scripts, and works offline."


def _data(found: Tables, drawn: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "charts": {name: _styled(spec) for name, spec in drawn.items()},
        "tables": {name: columns_of(table) for name, table in found.tables.items()},
        "parameters": parameters(found),
        "num_prompts": found.material.num_prompts,
        "texts": found.material.texts is not None,
        "judged": bool(found.judged),
        "scores": SCORE_NAMES,
    }


def _styled(spec: dict[str, Any]) -> dict[str, Any]:
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


def columns_of(table: Table) -> dict[str, Any]:
    """Return a table for the page: strings as numbers, floats with four digits after the point, and NaN as null."""
    columns = {name: np.asarray(column) for name, column in table.items()}
    made: dict[str, Any] = {}
    for name, column in columns.items():
        if column.dtype.kind in "OU":
            levels, values = np.unique(column.astype(str), return_inverse=True)
            made[name] = {"values": values.tolist(), "levels": levels.tolist()}
        elif column.dtype.kind == "f":
            made[name] = {"values": _numbers(column)}
        else:
            made[name] = {"values": column.astype(int).tolist()}
    return {"length": len(next(iter(columns.values()))), "columns": made}


def _numbers(column: np.ndarray) -> list[float | None]:
    """Return the floats for JSON, with four digits after the point; whole numbers without a point; NaN as null."""
    rounded = np.round(column.astype(np.float64), 4)
    known = np.isfinite(rounded)
    if not known.all():
        return [value if is_known else None for value, is_known in zip(rounded.tolist(), known.tolist(), strict=True)]
    return rounded.astype(np.int64).tolist() if (rounded == np.trunc(rounded)).all() else rounded.tolist()


def _json(value: Any) -> str:
    """Return JSON that may stand inside of a script element."""
    return json.dumps(value, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\u0021--")
