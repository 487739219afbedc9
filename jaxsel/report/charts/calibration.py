"""Charts of calibration: reliability, the probability integral transform, and coverage of intervals."""

import altair as alt

from jaxsel.evaluation.plotting.looks import COLOURS
from jaxsel.report.cells import LEVELS, NUM_BINS
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
    diagonal,
    share,
    table,
    tooltip,
)


def reliability(looks: Looks) -> Chart:
    x = alt.X(**share("x", "Predicted probability of a mixed group", domain=[0, 1]))
    y = alt.Y(**share("y", "Share of groups that were mixed", domain=[0, 1]))
    base = (
        table("cells", OF_KIND, OF_PART, OF_BELIEF, OF_STEPS)
        .transform_aggregate(
            groups="sum(groups)",
            predicted="sum(predicted)",
            mixed="sum(mixed)",
            chance="sum(chance)",
            groupby=["method", "bin"],
        )
        .transform_calculate(
            x="datum.predicted / datum.groups",
            y="datum.mixed / datum.groups",
            low="max(0, datum.x - 1.96 * sqrt(datum.chance) / datum.groups)",
            high="min(1, datum.x + 1.96 * sqrt(datum.chance) / datum.groups)",
            within=f"{NUM_BINS} * datum.x",
            says=f"datum.bin * {100 // NUM_BINS} + ' to ' + (datum.bin + 1) * {100 // NUM_BINS} + '%'",
        )
    )
    band = (
        base.transform_filter(OF_METHOD)
        .mark_bar(color=COLOURS["grey"], opacity=0.25, width=14)
        .encode(x=x, y=alt.Y(**share("low", "Share of groups that were mixed", domain=[0, 1])), y2="high:Q")
    )
    curve = (
        table("curve", OF_KIND)
        .mark_line(strokeWidth=1.4, opacity=0.7, clip=True)
        .encode(x="predicted:Q", y="observed:Q", color=colour(looks), strokeDash=dash(looks))
    )
    brush = alt.selection_interval(name="chosen_bins", encodings=["x"])
    dots = base.mark_point(filled=True, opacity=1).encode(
        x=x,
        y=y,
        color=colour(looks),
        size=alt.Size("groups:Q", scale=alt.Scale(range=[30, 260]), legend=None),
        opacity=alt.condition(OF_BINS, alt.value(1), alt.value(0.2)),
        tooltip=tooltip(
            "method:N",
            ("says:N", "predicted probability", ""),
            ("x:Q", "mean prediction", ".1%"),
            ("y:Q", "were mixed", ".1%"),
            ("low:Q", "by chance from", ".1%"),
            ("high:Q", "by chance to", ".1%"),
            ("groups:Q", "groups", ","),
        ),
    )
    return alt.layer(diagonal(), band, curve, dots.add_params(brush))


def pit() -> Chart:
    columns = [f"pit{k}" for k in range(NUM_BINS)]
    bars = (
        table("cells", OF_KIND, OF_PART, OF_BELIEF, OF_STEPS, OF_BINS, OF_METHOD)
        .transform_fold(columns, as_=["name", "count"])
        .transform_aggregate(count="sum(count)", groupby=["name"])
        .transform_joinaggregate(total="sum(count)")
        .transform_calculate(
            share="datum.count / datum.total",
            left=f"toNumber(slice(datum.name, 3)) / {NUM_BINS}",
            right=f"(toNumber(slice(datum.name, 3)) + 1) / {NUM_BINS}",
            low=f"max(0, {1 / NUM_BINS} - 1.96 * sqrt({(1 - 1 / NUM_BINS) / NUM_BINS} / datum.total))",
            high=f"{1 / NUM_BINS} + 1.96 * sqrt({(1 - 1 / NUM_BINS) / NUM_BINS} / datum.total)",
        )
    )
    x = alt.X("left:Q", title="Rank of the outcome (0: lowest, 1: highest)", axis=alt.Axis(tickCount=5))
    y = alt.Y(**share("share", "Share of groups", zero=True))
    drawn = bars.mark_bar(color=COLOURS["sky blue"], stroke=COLOURS["white"]).encode(
        x=x,
        x2="right:Q",
        y=y,
        y2=alt.datum(0),
        tooltip=tooltip(("share:Q", "share of groups", ".1%"), ("total:Q", "groups", ",")),
    )
    band = bars.mark_rect(color=COLOURS["grey"], opacity=0.35).encode(x=x, x2="right:Q", y="low:Q", y2="high:Q")
    return alt.layer(drawn, band)


def coverage(looks: Looks) -> Chart:
    levels = ", ".join(map(str, LEVELS))
    lines = (
        table("cells", OF_KIND, OF_PART, OF_BELIEF, OF_STEPS, OF_BINS)
        .transform_fold([f"cover{k}" for k in range(len(LEVELS))], as_=["name", "covered"])
        .transform_aggregate(covered="sum(covered)", groups="sum(groups)", groupby=["method", "name"])
        .transform_calculate(level=f"[{levels}][toNumber(slice(datum.name, 5))]", share="datum.covered / datum.groups")
        .mark_line(point=True)
        .encode(
            x=alt.X(**share("level", "Probability that the interval should have", domain=[0, 1])),
            y=alt.Y(**share("share", "Share of outcomes inside the interval", domain=[0, 1])),
            color=colour(looks),
            strokeDash=dash(looks),
            tooltip=tooltip("method:N", ("level:Q", "should hold", ".0%"), ("share:Q", "held", ".1%")),
        )
    )
    return alt.layer(diagonal(), lines)
