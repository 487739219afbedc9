"""The charts of a report as Altair charts. They read named tables, and share parameters that a page sets together.

Vega-Lite was chosen because a chart is a JSON document that holds its data: it needs no kernel in a notebook, and no
network in a page.
"""

import altair as alt

from jaxsel.report.charts.calibration import coverage, pit, reliability
from jaxsel.report.charts.common import Chart, parameters
from jaxsel.report.charts.maps import beliefs, meaning
from jaxsel.report.charts.steps import scores, shares, trajectory
from jaxsel.report.tables import Tables

HEIGHT = 280  # pixels


def charts(found: Tables) -> dict[str, Chart]:
    """Return the charts by name. Without outcomes, only the maps of the pool are left."""
    made = {}
    if found.judged:
        made |= {
            "reliability": reliability(found),
            "shares": shares(found),
            "scores": scores(found),
            "pit": pit(),
            "coverage": coverage(found),
        }
    made["map"] = beliefs(found)
    if "meaning" in found.tables:
        made["meaning"] = meaning(found)
    if found.judged:
        made["trajectory"] = trajectory(found)
    shared = [alt.param(name=name, value=value) for name, value in parameters(found).items()]
    return {
        name: chart.add_params(*shared).properties(width="container", height=HEIGHT) for name, chart in made.items()
    }
