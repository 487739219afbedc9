"""The charts of a report as Altair charts. They read named tables, and share parameters that a page sets together.

Vega-Lite was chosen because a chart is a JSON document that holds its data: it needs no kernel in a notebook, and no
network in a page.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxsel.evaluation.plotting.looks import COLOURS, METHODS, style
from jaxsel.integrations._extras import extra
from jaxsel.report.cells import LEVELS, NUM_BINS, SCORES
from jaxsel.report.tables import Tables

if TYPE_CHECKING:
    import altair as alt
else:
    with extra("explore"):
        import altair as alt

HEIGHT = 280  # pixels
_DASHES = {"-": [1, 0], "--": [7, 3], ":": [2, 3], "-.": [8, 3, 2, 3]}
_GREY, _RULE = COLOURS["grey"], COLOURS["light grey"]
# The groups that the page has selected. A chart leaves out the part that it selects itself.
_OF_KIND = "datum.kind == kind"
_OF_PART = "(part < 0 || datum.part == part)"
_OF_STEPS = "datum.step >= first_step && datum.step <= last_step"
_OF_BINS = "datum.bin >= first_bin && datum.bin <= last_bin"
_OF_METHOD = "datum.method == method"
PER_CENT = ".0%"


def parameters(found: Tables) -> dict[str, Any]:
    """Return the parameters of all charts with their first values.

    `kind` of outcomes; `method` that is shown in detail; `part` by earlier visits, or -1 for all; the range of bins of
    P(mixed) and of steps; the `score` over steps; the colours of the two maps; and the `prompt` that is followed.
    """
    first = found.tables["prompts"]["prompt"]
    return {
        "kind": found.kinds[0] if found.kinds else "",
        "method": found.methods[0],
        "part": -1,
        "first_bin": 0,
        "last_bin": NUM_BINS - 1,
        "first_step": -1,
        "last_step": 2**31,
        "score": SCORES[0],
        "colour": "prompts",
        "meaning_colour": "rate",
        "prompt": first[0] if first else -1,
    }


def charts(found: Tables) -> dict[str, "alt.LayerChart"]:
    """Return the charts by name. Without outcomes, only the maps of the pool are left."""
    made = {}
    if found.judged:
        made |= {
            "reliability": _reliability(found),
            "shares": _shares(found),
            "scores": _scores(found),
            "pit": _pit(),
            "coverage": _coverage(found),
        }
    made["map"] = _map(found)
    if "meaning" in found.tables:
        made["meaning"] = _meaning(found)
    if found.judged:
        made["trajectory"] = _trajectory(found)
    shared = [alt.param(name=name, value=value) for name, value in parameters(found).items()]
    return {
        name: chart.add_params(*shared).properties(width="container", height=HEIGHT) for name, chart in made.items()
    }


def _looks(methods: Sequence[str]) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Return the colour and the dashes of every method: a known name keeps its look of the project's figures."""
    looks, free = {}, 0
    for name in methods:
        known = name.partition(" ")[0].rstrip(",")
        if known in METHODS and known not in looks.values():
            looks[name] = known
        else:
            looks[name], free = free, free + 1
    styles = {name: style(look) for name, look in looks.items()}
    return (
        {name: found["color"] for name, found in styles.items()},
        {name: _DASHES[found["linestyle"]] for name, found in styles.items()},
    )


def _colour(found: Tables) -> "alt.Color":
    colours, _ = _looks(found.methods)
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color("method:N", scale=scale, title=None, legend=alt.Legend(orient="top", columns=2, labelLimit=260))


def _dash(found: Tables) -> "alt.StrokeDash":
    _, dashes = _looks(found.methods)
    return alt.StrokeDash("method:N", scale=alt.Scale(domain=list(dashes), range=list(dashes.values())), legend=None)


def _table(name: str, *filters: str) -> "alt.Chart":
    chart = alt.Chart(alt.NamedData(name=name))
    return chart.transform_filter(" && ".join(filters)) if filters else chart


def _share(field: str, title: str, **scale: Any) -> Any:
    axis = alt.Axis(format=PER_CENT, title=title, tickCount=6)
    return {"field": field, "type": "quantitative", "axis": axis, "scale": alt.Scale(**scale)}


def _diagonal() -> "alt.Chart":
    ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    return alt.Chart(ends).mark_line(color=_RULE, strokeDash=[5, 3]).encode(x="x:Q", y="y:Q")


def _reliability(found: Tables) -> "alt.LayerChart":
    x = alt.X(**_share("x", "Predicted probability of a mixed group", domain=[0, 1]))
    y = alt.Y(**_share("y", "Share of groups that were mixed", domain=[0, 1]))
    base = (
        _table("cells", _OF_KIND, _OF_PART, _OF_STEPS)
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
        base.transform_filter(_OF_METHOD)
        .mark_bar(color=_GREY, opacity=0.25, width=14)
        .encode(x=x, y=alt.Y(**_share("low", y.to_dict()["axis"]["title"], domain=[0, 1])), y2="high:Q")
    )
    curve = (
        _table("curve", _OF_KIND)
        .mark_line(strokeWidth=1.4, opacity=0.7, clip=True)
        .encode(x="predicted:Q", y="observed:Q", color=_colour(found), strokeDash=_dash(found))
    )
    brush = alt.selection_interval(name="chosen_bins", encodings=["x"])
    dots = base.mark_point(filled=True, opacity=1).encode(
        x=x,
        y=y,
        color=_colour(found),
        size=alt.Size("groups:Q", scale=alt.Scale(range=[30, 260]), legend=None),
        opacity=alt.condition(_OF_BINS, alt.value(1), alt.value(0.2)),
        tooltip=[
            alt.Tooltip("method:N", title="method"),
            alt.Tooltip("says:N", title="predicted probability"),
            alt.Tooltip("x:Q", title="mean prediction", format=".1%"),
            alt.Tooltip("y:Q", title="were mixed", format=".1%"),
            alt.Tooltip("low:Q", title="by chance from", format=".1%"),
            alt.Tooltip("high:Q", title="by chance to", format=".1%"),
            alt.Tooltip("groups:Q", title="groups", format=","),
        ],
    )
    return alt.layer(_diagonal(), band, curve, dots.add_params(brush))


def _over_steps(found: Tables, *filters: str) -> "alt.Chart":
    sums = {name: f"sum({name})" for name in ("groups", "predicted", "mixed", *SCORES)}
    return _table("cells", _OF_KIND, _OF_PART, *filters).transform_aggregate(**sums, groupby=["method", "step"])


def _step(title: str = "Training step") -> Any:
    return {"field": "step", "type": "quantitative", "axis": alt.Axis(title=title, tickMinStep=1, grid=False)}


def _shares(found: Tables) -> "alt.LayerChart":
    base = _over_steps(found, _OF_BINS).transform_calculate(
        expected="datum.predicted / datum.groups", observed="datum.mixed / datum.groups"
    )
    expected = base.mark_line(point=True).encode(
        x=alt.X(**_step()),
        y=alt.Y(**_share("expected", "Share of mixed groups")),
        color=_colour(found),
        strokeDash=_dash(found),
        opacity=alt.condition(_OF_STEPS, alt.value(1), alt.value(0.25)),
        tooltip=_tooltip("method:N", "step:Q", ("expected:Q", "expected", ".1%"), ("observed:Q", "observed", ".1%")),
    )
    observed = (
        base.transform_filter(_OF_METHOD)
        .transform_calculate(what="'what happened'")
        .mark_line(color=COLOURS["dark grey"], strokeWidth=5, opacity=0.3)
        .encode(x=alt.X(**_step()), y="observed:Q")
    )
    return alt.layer(observed, expected)


def _scores(found: Tables) -> "alt.LayerChart":
    value = " : ".join(f"score == '{name}' ? datum.{name} / datum.groups" for name in SCORES) + " : null"
    brush = alt.selection_interval(name="chosen_steps", encodings=["x"])
    lines = (
        _over_steps(found, _OF_BINS)
        .transform_calculate(value=value)
        .mark_line(point=True)
        .encode(
            x=alt.X(**_step()),
            y=alt.Y("value:Q", title="Mean score of a group", scale=alt.Scale(zero=False)),
            color=_colour(found),
            strokeDash=_dash(found),
            opacity=alt.condition(_OF_STEPS, alt.value(1), alt.value(0.25)),
            tooltip=_tooltip("method:N", "step:Q", ("value:Q", "score", ".3f"), ("groups:Q", "groups", ",")),
        )
    )
    return alt.layer(lines.add_params(brush))


def _tooltip(*fields: str | tuple[str, str, str]) -> list["alt.Tooltip"]:
    return [
        alt.Tooltip(field) if isinstance(field, str) else alt.Tooltip(field[0], title=field[1], format=field[2])
        for field in fields
    ]


def _pit() -> "alt.LayerChart":
    columns = [f"pit{k}" for k in range(NUM_BINS)]
    bars = (
        _table("cells", _OF_KIND, _OF_PART, _OF_STEPS, _OF_BINS, _OF_METHOD)
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
    x = alt.X("left:Q", title="Where the outcome fell in its predicted distribution", axis=alt.Axis(tickCount=5))
    y = alt.Y(**_share("share", "Share of groups"))
    drawn = bars.mark_bar(color=COLOURS["sky blue"], stroke=COLOURS["white"]).encode(
        x=x, x2="right:Q", y=y, tooltip=_tooltip(("share:Q", "share of groups", ".1%"), ("total:Q", "groups", ","))
    )
    band = bars.mark_rect(color=_GREY, opacity=0.35).encode(x=x, x2="right:Q", y="low:Q", y2="high:Q")
    return alt.layer(drawn, band)


def _coverage(found: Tables) -> "alt.LayerChart":
    levels = ", ".join(map(str, LEVELS))
    lines = (
        _table("cells", _OF_KIND, _OF_PART, _OF_STEPS, _OF_BINS)
        .transform_fold([f"cover{k}" for k in range(len(LEVELS))], as_=["name", "covered"])
        .transform_aggregate(covered="sum(covered)", groups="sum(groups)", groupby=["method", "name"])
        .transform_calculate(
            level=f"[{levels}][toNumber(slice(datum.name, 5))]", share="datum.covered / datum.groups"
        )
        .mark_line(point=True)
        .encode(
            x=alt.X(**_share("level", "Probability that the interval should have", domain=[0, 1])),
            y=alt.Y(**_share("share", "Share of outcomes inside the interval", domain=[0, 1])),
            color=_colour(found),
            strokeDash=_dash(found),
            tooltip=_tooltip("method:N", ("level:Q", "should hold", ".0%"), ("share:Q", "held", ".1%")),
        )
    )
    return alt.layer(_diagonal(), lines)


_VALUES = {
    "prompts": "datum.prompts",
    "visits": "datum.visits / datum.prompts",
    "waiting": "datum.visited > 0 ? datum.waiting / datum.visited : null",
    "rate": "datum.rate / datum.prompts",
    "mixed": "datum.mixed / datum.prompts",
}


def _tiles(found: Tables, table: str, parameter: str, x: Any, y: Any) -> list["alt.Chart"]:
    """Return the tiles of a map: coloured by a number, and, where the prompts have labels, by the commonest label."""
    base = _table(table, _OF_METHOD, _OF_PART, _OF_BINS)
    names = ("prompts", "visits", "visited", "waiting", "rate", "mixed")
    where = ["left", "right", "low", "high"]
    value = " : ".join(f"{parameter} == '{name}' ? ({formula})" for name, formula in _VALUES.items()) + " : null"
    tooltip = _tooltip(
        ("prompts:Q", "prompts", ","), ("per_prompt:Q", "visits per prompt", ".2f"),
        ("success:Q", "predicted success rate", ".1%"), ("p_mixed:Q", "predicted probability of a mixed group", ".1%"),
    )  # fmt: skip
    numbers = (
        base.transform_aggregate(**{name: f"sum({name})" for name in names}, groupby=where)
        .transform_calculate(
            value=value,
            per_prompt=_VALUES["visits"],
            success=_VALUES["rate"],
            p_mixed=_VALUES["mixed"],
        )
        .transform_filter(f"{parameter} != 'stratum' && isValid(datum.value)")
        .mark_rect()
        .encode(
            x=x, x2="right:Q", y=y, y2="high:Q", tooltip=tooltip,
            color=alt.Color(
                "value:Q", scale=alt.Scale(scheme="viridis", type="symlog", reverse=True),
                legend=alt.Legend(title=None, orient="top", gradientLength=180, tickCount=4, format="~s"),
            ),
        )
    )  # fmt: skip
    if found.strata is None:
        return [numbers]
    labels = (
        base.transform_filter(f"{parameter} == 'stratum'")
        .transform_aggregate(prompts="sum(prompts)", groupby=[*where, "stratum"])
        .transform_joinaggregate(most="max(prompts)", groupby=where)
        .transform_filter("datum.prompts == datum.most")
        .transform_calculate(label=f"{list(found.strata)}[datum.stratum]")
        .mark_rect()
        .encode(
            x=x, x2="right:Q", y=y, y2="high:Q", tooltip=_tooltip("label:N", ("prompts:Q", "prompts", ",")),
            color=alt.Color(
                "label:N", scale=alt.Scale(domain=list(found.strata), scheme="tableau10"),
                legend=alt.Legend(title=None, orient="top", columns=3),
            ),
        )
    )  # fmt: skip
    return [numbers, labels]


def _map(found: Tables) -> "alt.LayerChart":
    x = alt.X(**_share("left", "Predicted success rate", domain=[0, 1]))
    y = alt.Y("low:Q", title="Uncertainty (standard deviation)", axis=alt.Axis(tickCount=5))
    brush = alt.selection_interval(name="chosen_prompts")
    ring = (
        _table("present", _OF_METHOD, "datum.prompt == prompt")
        .mark_point(size=160, strokeWidth=3, color=COLOURS["vermilion"])
        .encode(x="rate:Q", y="deviation:Q")
    )
    first, *others = _tiles(found, "map", "colour", x, y)
    return alt.layer(first.add_params(brush), *others, ring).resolve_scale(color="independent")


def _meaning(found: Tables) -> "alt.LayerChart":
    plain = alt.Axis(labels=False, ticks=False)
    x = alt.X("left:Q", title="First direction of the embeddings", axis=plain, scale=alt.Scale(zero=False))
    y = alt.Y("low:Q", title="Second direction", axis=plain, scale=alt.Scale(zero=False))
    ring = (
        _table("prompts", "datum.prompt == prompt")
        .mark_point(size=160, strokeWidth=3, color=COLOURS["vermilion"])
        .encode(x="x:Q", y="y:Q")
    )
    return alt.layer(*_tiles(found, "meaning", "meaning_colour", x, y), ring).resolve_scale(color="independent")


def _trajectory(found: Tables) -> "alt.LayerChart":
    x, one = alt.X(**_step()), "datum.prompt == prompt"
    title = "Success rate"
    beliefs = _table("beliefs", one)
    band = (
        beliefs.transform_filter(_OF_METHOD)
        .mark_area(opacity=0.18, interpolate="step-after")
        .encode(x=x, y=alt.Y(**_share("low", title, domain=[0, 1])), y2="high:Q", color=_colour(found))
    )
    lines = beliefs.mark_line(interpolate="step-after", strokeWidth=1.8).encode(
        x=x, y="rate:Q", color=_colour(found), strokeDash=_dash(found),
        opacity=alt.condition(_OF_METHOD, alt.value(1), alt.value(0.4)),
    )  # fmt: skip
    what = alt.Shape(
        "what:N", title=None, legend=alt.Legend(orient="bottom", symbolFillColor=COLOURS["dark grey"], labelLimit=260),
        scale=alt.Scale(domain=["in a batch", "probe", "true rate"], range=["circle", "diamond", "cross"]),
    )  # fmt: skip
    seen = (
        _table("outcomes", one)
        .transform_calculate(
            what="datum.probe ? 'probe' : 'in a batch'", counts="datum.successes + ' of ' + datum.rollouts"
        )
        .mark_point(filled=True, size=70, opacity=0.85)
        .encode(
            x=x, y="share:Q", shape=what,
            color=alt.condition("datum.probe", alt.value(_GREY), alt.value(COLOURS["dark grey"])),
            tooltip=_tooltip("step:Q", ("counts:N", "correct", ""), "what:N"),
        )
    )  # fmt: skip
    truth = (
        _table("outcomes", one, "isValid(datum.truth)")
        .transform_calculate(what="'true rate'")
        .mark_point(size=60, color=COLOURS["vermilion"])
        .encode(x=x, y="truth:Q", shape=what)
    )
    return alt.layer(band, lines, seen, truth)
