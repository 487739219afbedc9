"""Maps of the pool: by what a method believes, and by the embeddings of the prompts."""

import json
from typing import Any

import altair as alt

from jaxsel.evaluation.plotting.looks import COLOURS
from jaxsel.report.charts.common import OF_BELIEF, OF_BINS, OF_METHOD, OF_PART, Chart, share, table, tooltip
from jaxsel.report.tables import Tables

_VALUES = {
    "prompts": "datum.prompts",
    "visits": "datum.visits / datum.prompts",
    "waiting": "datum.visited > 0 ? datum.waiting / datum.visited : null",
    "rate": "datum.rate / datum.prompts",
    "mixed": "datum.mixed / datum.prompts",
}


def _tiles(found: Tables, name: str, parameter: str, x: Any, y: Any) -> list[Chart]:
    """Return the tiles of a map: coloured by a number, and, where the prompts have labels, by the commonest label."""
    base = table(name, OF_METHOD, OF_PART, OF_BINS, *([] if name == "map" else [OF_BELIEF]))
    sums = ("prompts", "visits", "visited", "waiting", "rate", "mixed")
    where = ["left", "right", "low", "high"]
    value = " : ".join(f"{parameter} == '{value}' ? ({formula})" for value, formula in _VALUES.items()) + " : null"
    is_share = f"{parameter} == 'rate' || {parameter} == 'mixed'"
    labelled = f"{parameter} == 'stratum'"
    digits = f"{is_share} ? '.0%' : datum.value < 10000 ? ',' : '~s'"
    label = f"isFinite(datum.value) ? format(datum.value, {digits}) : ''"
    hint = tooltip(
        ("prompts:Q", "prompts", ","), ("per_prompt:Q", "visits per prompt", ".2f"),
        ("success:Q", "predicted success rate", ".1%"), ("p_mixed:Q", "predicted probability of a mixed group", ".1%"),
    )  # fmt: skip
    numbers = (
        base.transform_aggregate(**{column: f"sum({column})" for column in sums}, groupby=where)
        .transform_calculate(
            value=value,
            per_prompt=_VALUES["visits"],
            success=_VALUES["rate"],
            p_mixed=_VALUES["mixed"],
        )
        .transform_filter(f"{parameter} != 'stratum' && isValid(datum.value)")
        .mark_rect()
        .encode(
            x=x, x2="right:Q", y=y, y2="high:Q", tooltip=hint,
            color=alt.Color(
                "value:Q", scale=alt.Scale(scheme="viridis", type="symlog", reverse=True),
                legend=alt.Legend(
                    title=None, orient="top", gradientLength=180, tickCount=4, labelExpr=label, labelOverlap="greedy",
                    gradientOpacity=_shown(f"!({labelled})"), labelOpacity=_shown(f"!({labelled})"),
                ),
            ),
        )
    )  # fmt: skip
    if found.strata is None:
        return [numbers]
    # with a blank, because Vega refuses "constructor" and other names of JavaScript
    spaced = json.dumps([f" {label}" for label in found.strata])
    labels = (
        base.transform_filter(f"{parameter} == 'stratum'")
        .transform_aggregate(prompts="sum(prompts)", groupby=[*where, "stratum"])
        .transform_joinaggregate(most="max(prompts)", groupby=where)
        .transform_filter("datum.prompts == datum.most")
        .transform_calculate(label=f"slice({spaced}[datum.stratum], 1)")
        .mark_rect()
        .encode(
            x=x, x2="right:Q", y=y, y2="high:Q", tooltip=tooltip("label:N", ("prompts:Q", "prompts", ",")),
            color=alt.Color(
                "label:N", scale=alt.Scale(domain=list(found.strata), scheme="tableau10"),
                legend=alt.Legend(
                    title=None, orient="bottom", columns=3, labelLimit=130,
                    symbolOpacity=_shown(labelled), labelOpacity=_shown(labelled),
                ),
            ),
        )
    )  # fmt: skip
    return [numbers, labels]


def _shown(condition: str) -> alt.ExprRef:
    """Return the opacity of a part of a legend that is visible under a condition."""
    return alt.ExprRef(f"{condition} ? 1 : 0")


def beliefs(found: Tables) -> Chart:
    x = alt.X(**share("left", "Predicted success rate (0%: never solved)", domain=[0, 1]))
    top = float(max(found.tables["map"]["high"]))
    y = alt.Y(
        "low:Q",
        title="How unsure it is (standard deviation)",
        axis=alt.Axis(tickCount=5, labelExpr="'±' + format(datum.value, '.0%')"),
        scale=alt.Scale(domain=[0, top], nice=False),
    )
    brush = alt.selection_interval(name="chosen_beliefs")
    ring = (
        table("present", OF_METHOD, "datum.prompt == prompt")
        .mark_point(size=160, strokeWidth=3, color=COLOURS["vermilion"])
        .encode(x="rate:Q", y="deviation:Q")
    )
    first, *others = _tiles(found, "map", "colour", x, y)
    return alt.layer(first.add_params(brush), *others, ring).resolve_scale(color="independent")


def meaning(found: Tables) -> Chart:
    plain = alt.Axis(labels=False, ticks=False)
    places = found.tables["meaning"]
    wide, high = (
        alt.Scale(domain=[float(min(places[low])), float(max(places[high]))], nice=False)
        for low, high in (("left", "right"), ("low", "high"))
    )
    x = alt.X("left:Q", title="First direction of the embeddings", axis=plain, scale=wide)
    y = alt.Y("low:Q", title="Second direction", axis=plain, scale=high)
    ring = (
        table("prompts", "datum.prompt == prompt")
        .mark_point(size=160, strokeWidth=3, color=COLOURS["vermilion"])
        .encode(x="x:Q", y="y:Q")
    )
    return alt.layer(*_tiles(found, "meaning", "meaning_colour", x, y), ring).resolve_scale(color="independent")
