"""The charts of the page: curves of training, and the charts of a report, with one line per run."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from experiments.watch.metrics import MIXED, PROBES, SMOOTH, TRAINING
from jaxsel.report.charts.common import ALL_GROUPS, Chart, Looks, colour, dash, numbered_looks, share, table, tooltip
from jaxsel.report.charts.draw import of_groups, sharing
from jaxsel.report.pieces import styled

_AT = "at == 'rollouts' ? datum.rollouts : datum.step"
_TOTAL = ("step:Q", ("rollouts:Q", "rollouts", ","))


def parameters(names: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of all charts with their first values.

    To the parameters of a report come `at`, the quantity along the axis, `metric` and `probe`, what two of the charts
    show, and `smooth`, the end of the columns of running means, or nothing.
    """
    return {
        "at": "step",
        "metric": next(iter(TRAINING)),
        "probe": next(iter(PROBES)),
        "smooth": SMOOTH,
        "kind": "probes",
        "method": names[0] if names else "",
        **ALL_GROUPS,
    }


def charts(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the charts for runs of these names, as specifications without data.

    They read the tables `training` and `probes`, and `cells` and `curve` as in a report, with the name of the run as
    `method`.
    """
    looks = numbered_looks(names)
    made = {"probing": _probing(looks), "training": _training(looks), "mixed": _mixed(looks), **of_groups(looks)}
    shared = sharing(made, parameters(names))
    return {name: styled(chart.to_dict(validate=False)) for name, chart in shared.items()}


def _over(name: str, value: str) -> Chart:
    return (
        table(name)
        .transform_calculate(x=_AT, value=value)
        .transform_filter("isValid(datum.value)")
        .encode(x=alt.X("x:Q", title=None, axis=alt.Axis(grid=False, tickCount=6, tickMinStep=1)), y=_y())
    )


def _y() -> alt.Y:
    return alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))


def _probing(looks: Looks) -> Chart:
    lines = _over("probes", "datum[probe]").mark_line(point=alt.OverlayMarkDef(size=35))
    hint = tooltip("method:N", *_TOTAL, ("value:Q", "value", ".4f"))
    return alt.layer(lines.encode(color=colour(looks), strokeDash=dash(looks), tooltip=hint))


def _training(looks: Looks) -> Chart:
    base = _over("training", "datum[metric + smooth]")
    hint = tooltip("method:N", *_TOTAL, ("value:Q", "value", ".4f"))
    lines = base.mark_line(strokeWidth=1.8).encode(color=colour(looks), strokeDash=dash(looks))
    places = base.mark_point(opacity=0, size=80).encode(tooltip=hint)  # what the mouse finds
    return alt.layer(lines, places)


def _mixed(looks: Looks) -> Chart:
    real, expected = MIXED
    y = alt.Y(**share("value", "Share of mixed groups"))
    happened = _over("training", f"datum['{real}' + smooth]").mark_line(strokeWidth=5, opacity=0.3)
    said = _over("training", f"datum['{expected}' + smooth]").mark_line(strokeWidth=1.6)
    places = (
        _over("training", f"datum['{real}' + smooth]")
        .transform_calculate(expected=f"datum['{expected}' + smooth]")
        .mark_point(opacity=0, size=80)
        .encode(
            y=y,
            tooltip=tooltip("method:N", *_TOTAL, ("expected:Q", "expected", ".1%"), ("value:Q", "happened", ".1%")),
        )
    )
    return alt.layer(
        happened.encode(y=y, color=colour(looks)),
        said.encode(y=y, color=colour(looks), strokeDash=dash(looks)),
        places,
    )
