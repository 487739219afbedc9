"""The charts of a report as Altair charts. They read named tables, and share parameters that a page sets together.

Vega-Lite was chosen because a chart is a JSON document that holds its data: it needs no kernel in a notebook, and no
network in a page.
"""

from collections.abc import Mapping
from typing import Any

import altair as alt

from jaxsel.report.charts.calibration import coverage, pit, reliability
from jaxsel.report.charts.common import Chart, Looks, looks_of, parameters
from jaxsel.report.charts.maps import beliefs, meaning
from jaxsel.report.charts.steps import scores, shares, trajectory
from jaxsel.report.tables import Tables

HEIGHT = 280  # pixels


def charts(found: Tables) -> dict[str, Chart]:
    """Return the charts by name. Without outcomes, only the maps of the pool are left."""
    made = of_groups(looks_of(found.methods)) if found.judged else {}
    made["map"] = beliefs(found)
    if "meaning" in found.tables:
        made["meaning"] = meaning(found)
    if found.judged:
        made["trajectory"] = trajectory(found)
    return sharing(made, parameters(found))


def of_groups(looks: Looks) -> dict[str, Chart]:
    """Return the charts of judged groups by name. They read the tables `cells` and `curve`."""
    return {
        "reliability": reliability(looks),
        "shares": shares(looks),
        "scores": scores(looks),
        "pit": pit(),
        "coverage": coverage(looks),
    }


def sharing(made: Mapping[str, Chart], values: Mapping[str, Any]) -> dict[str, Chart]:
    """Return the charts with parameters that a page sets in all of them together, and with the size of a card."""
    shared = [alt.param(name=name, value=value) for name, value in values.items()]
    return {
        name: chart.add_params(*shared).properties(width="container", height=HEIGHT) for name, chart in made.items()
    }
