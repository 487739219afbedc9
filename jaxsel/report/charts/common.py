"""What all charts share: the parameters that select groups, the looks of methods, axes and tooltips."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt

from jaxsel.evaluation.plotting.looks import COLOURS, CYCLE, METHODS, style
from jaxsel.report.cells import DEVIATION_BINS, NUM_BINS, SCORES
from jaxsel.report.tables import Tables

Chart = Any
"""A chart of Altair, whose methods have signatures that type checkers do not follow."""
RULE = COLOURS["light grey"]
# The groups that the page has selected. A chart leaves out the part that it selects itself.
OF_KIND = "datum.kind == kind"
OF_PART = "(part < 0 || datum.part == part)"
OF_STEPS = "datum.step >= first_step && datum.step <= last_step"
OF_BINS = "datum.bin >= first_bin && datum.bin <= last_bin"
# The live page has no map of the pool, and its groups have no place on one.
OF_BELIEF = " && ".join(
    f"(!isValid(datum.{column}) || inrange(datum.{column}, {name}))"
    for column, name in (("rate_bin", "rates"), ("deviation_bin", "deviations"))
)
OF_METHOD = "datum.method == method"
ALL_GROUPS = {
    "part": -1,
    "first_bin": 0,
    "last_bin": NUM_BINS - 1,
    "rates": [0, NUM_BINS - 1],
    "deviations": [0, DEVIATION_BINS - 1],
    "first_step": -1,
    "last_step": 2**31,
    "score": SCORES[0],
}
"""First values of the parameters that select groups, and of the score over steps."""
_PER_CENT = ".0%"
_DASHES = {"-": [1, 0], "--": [7, 3], ":": [2, 3], "-.": [8, 3, 2, 3]}


def parameters(found: Tables) -> dict[str, Any]:
    """Return the parameters of all charts with their first values.

    `kind` of outcomes; `method` that is shown in detail; `part` by earlier visits, or -1 for all; the ranges of bins of
    P(mixed), of the predicted success rate (`rates`) and of its standard deviation (`deviations`), and of steps; the
    `score` over steps; the colours of the two maps; and the `prompt` that is followed.
    """
    first = found.tables["prompts"]["prompt"]
    return {
        "kind": found.kinds[0] if found.kinds else "",
        "method": found.methods[0],
        **ALL_GROUPS,
        "colour": "prompts",
        "meaning_colour": "rate",
        "prompt": first[0] if first else -1,
    }


class Looks(NamedTuple):
    """The looks of the lines of all charts, by name of the method or of the run.

    Attributes:
        colours: Colours as hexadecimal numbers.
        dashes: Lengths of dashes and gaps in turn, in pixels.
        legend: Whether every chart has a legend.
    """

    colours: dict[str, str]
    dashes: dict[str, list[int]]
    legend: bool


def looks_of(methods: Sequence[str]) -> Looks:
    """Return the looks of methods: a known name keeps its look of the project's figures.

    The others get the colours that are left, as long as there are some.
    """
    looks: dict[str, str | int] = {name: name for name in methods if name in METHODS}
    for name in methods:
        known = name.partition(" ")[0]
        if known in METHODS and known not in looks.values():
            looks.setdefault(name, known)
    taken = {style(look)["color"] for look in looks.values()}
    free = sorted(range(len(CYCLE)), key=lambda number: style(number)["color"] in taken)
    others = [name for name in methods if name not in looks]
    looks |= {name: free[place % len(free)] for place, name in enumerate(others)}
    looks = {name: looks[name] for name in methods}
    styles = {name: style(look) for name, look in looks.items()}
    return Looks(
        {name: found["color"] for name, found in styles.items()},
        {name: _DASHES[found["linestyle"]] for name, found in styles.items()},
        legend=True,
    )


def numbered_looks(names: Sequence[str]) -> Looks:
    """Return looks for names that need not be methods, for charts without legends: solid lines while colours last."""
    dashes = list(_DASHES.values())
    number = len(CYCLE)
    return Looks(
        {name: style(place)["color"] for place, name in enumerate(names)},
        {name: dashes[place // number % len(dashes)] for place, name in enumerate(names)},
        legend=False,
    )


def colour(looks: Looks) -> alt.Color:
    scale = alt.Scale(domain=list(looks.colours), range=list(looks.colours.values()))
    return alt.Color("method:N", scale=scale, title=None, legend=_legend(looks))


def dash(looks: Looks) -> alt.StrokeDash:
    scale = alt.Scale(domain=list(looks.dashes), range=list(looks.dashes.values()))
    return alt.StrokeDash("method:N", scale=scale, title=None, legend=_legend(looks))


def _legend(looks: Looks) -> alt.Legend | None:
    if not looks.legend:
        return None
    return alt.Legend(
        orient="top",
        columns=2,
        labelLimit=260,
        symbolType="stroke",
        symbolSize=500,
        symbolStrokeWidth=2.5,
        symbolOpacity=1,
    )


def table(name: str, *filters: str) -> Chart:
    chart = alt.Chart(alt.NamedData(name=name))
    return chart.transform_filter(" && ".join(filters)) if filters else chart


def share(field: str, title: str, **scale: Any) -> Any:
    axis = alt.Axis(format=_PER_CENT, title=title, tickCount=6)
    scale = {**scale, "nice": False, "padding": 0} if "domain" in scale else scale
    return {"field": field, "type": "quantitative", "axis": axis, "scale": alt.Scale(**scale)}


def step(title: str = "Training step") -> Any:
    return {"field": "step", "type": "quantitative", "axis": alt.Axis(title=title, tickMinStep=1, grid=False)}


def diagonal() -> Chart:
    ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    return alt.Chart(ends).mark_line(color=RULE, strokeDash=[5, 3]).encode(x="x:Q", y="y:Q")


def tooltip(*fields: str | tuple[str, str, str]) -> list[alt.Tooltip]:
    return [
        alt.Tooltip(field) if isinstance(field, str) else alt.Tooltip(field[0], title=field[1], format=field[2])
        for field in fields
    ]
