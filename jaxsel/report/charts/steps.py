"""Charts over the steps of a run: shares of mixed groups, scores, and the belief about one prompt."""

import altair as alt
import numpy as np

from jaxsel.evaluation.plotting.looks import COLOURS
from jaxsel.report.cells import SCORES
from jaxsel.report.charts.common import (
    OF_BELIEF,
    OF_BINS,
    OF_KIND,
    OF_METHOD,
    OF_PART,
    OF_STEPS,
    Chart,
    Looks,
    colour,
    dash,
    looks_of,
    share,
    step,
    table,
    tooltip,
)
from jaxsel.report.gold import GOLD
from jaxsel.report.tables import Tables

_GOLD_COLOUR = "#8A6D00"  # no method has this colour


def _over_steps(*filters: str) -> Chart:
    squares = [f"{name}2" for name in SCORES]
    sums = {name: f"sum({name})" for name in ("groups", "predicted", "mixed", *SCORES, *squares)}
    return table("cells", OF_KIND, OF_PART, OF_BELIEF, *filters).transform_aggregate(**sums, groupby=["method", "step"])


def shares(looks: Looks) -> Chart:
    base = _over_steps(OF_BINS).transform_calculate(
        expected="datum.predicted / datum.groups",
        observed="datum.mixed / datum.groups",
        # the interval of Agresti and Coull (1998), which has a width also where no group or every group was mixed
        centre="(datum.mixed + 2) / (datum.groups + 4)",
        low="max(0, datum.centre - 2 * sqrt(datum.centre * (1 - datum.centre) / (datum.groups + 4)))",
        high="min(1, datum.centre + 2 * sqrt(datum.centre * (1 - datum.centre) / (datum.groups + 4)))",
    )
    expected = base.mark_line(point=True).encode(
        x=alt.X(**step()),
        y=alt.Y(**share("expected", "Share of mixed groups")),
        color=colour(looks),
        strokeDash=dash(looks),
        opacity=alt.condition(OF_STEPS, alt.value(1), alt.value(0.25)),
        tooltip=tooltip(
            "method:N", "step:Q", ("expected:Q", "expected", ".1%"), ("observed:Q", "observed", ".1%"),
            ("low:Q", "95% from", ".1%"), ("high:Q", "95% to", ".1%"), ("groups:Q", "groups", ","),
        ),
    )  # fmt: skip
    band = base.transform_filter(OF_METHOD).mark_area(color=COLOURS["grey"], opacity=0.2)
    band = band.encode(x=alt.X(**step()), y=alt.Y(**share("low", "Share of mixed groups")), y2="high:Q")
    observed = (
        base.transform_filter(OF_METHOD)
        .transform_calculate(what="'what happened'")
        .mark_line(color=COLOURS["dark grey"], strokeWidth=5, opacity=0.3)
        .encode(x=alt.X(**step()), y="observed:Q")
    )
    return alt.layer(band, observed, expected)


def scores(looks: Looks) -> Chart:
    value, square = (
        " : ".join(f"score == '{name}' ? datum.{name}{end} / datum.groups" for name in SCORES) + " : null"
        for end in ("", "2")
    )
    brush = alt.selection_interval(name="chosen_steps", encodings=["x"])
    base = _over_steps(OF_BINS).transform_calculate(
        value=value,
        square=square,
        error="datum.groups > 1 ? sqrt(max(0, datum.square - pow(datum.value, 2)) / (datum.groups - 1)) : null",
        low="datum.groups > 1 ? datum.value - 2 * datum.error : null",
        high="datum.groups > 1 ? datum.value + 2 * datum.error : null",
    )
    title, scale = "Mean score of a group", alt.Scale(zero=False)
    band = base.transform_filter(OF_METHOD).mark_area(opacity=0.18)
    band = band.encode(x=alt.X(**step()), y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q", color=colour(looks))
    lines = base.mark_line(point=True).encode(
        x=alt.X(**step()), y=alt.Y("value:Q", title=title, scale=scale), color=colour(looks), strokeDash=dash(looks),
        opacity=alt.condition(OF_STEPS, alt.value(1), alt.value(0.25)),
        tooltip=tooltip(
            "method:N", "step:Q", ("value:Q", "score", ".3f"), ("error:Q", "standard error", ".3f"),
            ("groups:Q", "groups", ","),
        ),
    )  # fmt: skip
    return alt.layer(band, lines.add_params(brush))


def trajectory(found: Tables) -> Chart:
    x, one = alt.X(**step()), "datum.prompt == prompt"
    looks, title = _with_gold(looks_of(found.methods)), "Success rate"
    beliefs = table("beliefs", one)
    gold = table("gold", one).transform_calculate(method=f"'{GOLD}'")
    gold_band = gold.mark_area(opacity=0.13, color=_GOLD_COLOUR).encode(x=x, y="low:Q", y2="high:Q")
    gold_line = gold.mark_line(strokeWidth=4, opacity=0.6).encode(
        x=x, y="rate:Q", color=colour(looks), strokeDash=dash(looks),
        tooltip=tooltip(
            "method:N", "step:Q", ("rate:Q", "success rate", ".1%"), ("low:Q", "from", ".1%"), ("high:Q", "to", ".1%")
        ),
    )  # fmt: skip
    knows_truth = bool(np.isfinite(found.tables["outcomes"]["truth"]).any())
    kinds = ["in a batch", "probe", *(["true rate"] if knows_truth else [])]
    band = (
        beliefs.transform_filter(OF_METHOD)
        .mark_area(opacity=0.18, interpolate="step-after")
        .encode(x=x, y=alt.Y(**share("low", title, domain=[0, 1])), y2="high:Q", color=colour(looks))
    )
    lines = beliefs.mark_line(interpolate="step-after", strokeWidth=1.8).encode(
        x=x, y="rate:Q", color=colour(looks), strokeDash=dash(looks),
        opacity=alt.condition(OF_METHOD, alt.value(1), alt.value(0.4)),
    )  # fmt: skip
    what = alt.Shape(
        "what:N", title=None, legend=alt.Legend(orient="bottom", symbolFillColor=COLOURS["dark grey"], labelLimit=260),
        scale=alt.Scale(domain=kinds, range=["circle", "diamond", "triangle-up"][: len(kinds)]),
    )  # fmt: skip
    seen = (
        table("outcomes", one)
        .transform_calculate(
            what="datum.probe ? 'probe' : 'in a batch'", counts="datum.successes + ' of ' + datum.rollouts"
        )
        .mark_point(filled=True, size=80, opacity=0.85)
        .encode(
            x=x, y="share:Q", shape=what,
            color=alt.condition("datum.probe", alt.value(COLOURS["grey"]), alt.value(COLOURS["dark grey"])),
            tooltip=tooltip("step:Q", ("counts:N", "correct", ""), "what:N"),
        )
    )  # fmt: skip
    truth = (
        table("outcomes", one, "isValid(datum.truth)")
        .transform_calculate(what="'true rate'")
        .mark_point(size=60, color=COLOURS["vermilion"])
        .encode(x=x, y="truth:Q", shape=what)
    )
    return alt.layer(gold_band, band, gold_line, lines, seen, *([truth] if knows_truth else []))


def _with_gold(looks: Looks) -> Looks:
    return Looks(looks.colours | {GOLD: _GOLD_COLOUR}, looks.dashes | {GOLD: [1, 0]}, looks.legend)
