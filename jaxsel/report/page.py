"""The page of a report: one HTML file that holds its data and its scripts, and loads nothing from elsewhere."""

from html import escape
from typing import Any

from jaxsel.report.charts.common import parameters
from jaxsel.report.charts.draw import charts
from jaxsel.report.pieces import as_columns, card, definitions, document, filled, part_menu, select, styled, text_of
from jaxsel.report.tables import KINDS, Tables
from jaxsel.report.verdict import Finding, verdict
from jaxsel.report.wording import CARDS, COLOUR_NAMES, METHOD_WORDS, REPORT_WORDS, SCORE_NAMES, WORDS

_SHOWN = 4  # sentences of a finding that are shown at once
_DIGITS = {"beliefs": 3, "gold": 3}  # after the point: as fine as a chart of probabilities can show


def page(found: Tables, *, title: str) -> str:
    """Return the page as HTML."""
    # the tests check the specifications against Altair's schema, which takes a second
    drawn = {name: chart.to_dict(validate=False) for name, chart in charts(found).items()}
    body = filled(
        text_of("page.html"),
        title=escape(title),
        lead=_lead(found),
        verdict="\n".join(map(_finding, verdict(found))),
        how=_how(found),
        controls=_controls(found),
        cards="\n".join(_card(name, found) for name in drawn),
        words=definitions(WORDS | REPORT_WORDS | METHOD_WORDS),
        footer=_footer(),
    )
    script = text_of("linked.js") + text_of("page.js")
    return document(title=title, style=text_of("page.css"), body=body, data=_data(found, drawn), script=script)


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
        return "Drag on the map to choose beliefs. The table below shows the prompts."
    return (
        "The charts are linked. Drag or click in the first chart to choose predictions of a mixed group, in the scores "
        "to choose steps, and drag on the map of the pool to choose predicted success rates and how sure they are: the "
        "other charts and the table then show these groups alone. The answers above do not change with these choices."
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


def _controls(found: Tables) -> str:
    first = parameters(found)
    made = [select("method", "Method in detail", {name: name for name in found.methods}, first["method"])]
    if found.kinds:
        made.insert(0, select("kind", "Judged on", {kind: KINDS[kind] for kind in found.kinds}, first["kind"]))
    made.append(part_menu())
    return "\n".join(made)


def _card(name: str, found: Tables) -> str:
    title, text = CARDS[name]
    colours = COLOUR_NAMES | ({} if found.strata is None else {"stratum": "label of the prompt"})
    menus = {
        "scores": ("score", "Score", SCORE_NAMES, "states"),
        "map": ("colour", "Colour", colours, "prompts"),
        "meaning": ("meaning_colour", "Colour", colours, "rate"),
    }
    menu = select(*menus[name]) if name in menus else ""
    followed = name == "trajectory"
    return card(name, title, text, menu=menu, heading=f"{name}-title" if followed else "", wide=followed)


def _footer() -> str:
    import altair

    made = f"Made by jaxsel.explore with Altair {altair.__version__}."
    return f"{made} The file holds its data and scripts, and works offline."


def _data(found: Tables, drawn: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "charts": {name: styled(spec) for name, spec in drawn.items()},
        "tables": {name: as_columns(table, digits=_DIGITS.get(name, 4)) for name, table in found.tables.items()},
        "parameters": parameters(found),
        "num_prompts": found.material.num_prompts,
        "texts": found.material.texts is not None,
        "judged": bool(found.judged),
        "scores": SCORE_NAMES,
        "colours": COLOUR_NAMES,
    }
