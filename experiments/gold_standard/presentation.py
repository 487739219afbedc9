"""The tables and the figure: how well each method's intervals of success rates are calibrated."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments.gold_standard.scoring import GOLD, GOLD_EMBEDDED, LEVELS
from experiments.reporting import drawing
from experiments.reporting.spread import shown
from experiments.reporting.tables import terminal_table
from jaxsel import plotting

STYLES = {
    GOLD: ("black", "o"),
    GOLD_EMBEDDED: ("green", "s"),
    "mopps, decay 0.5": ("vermilion", "^"),
    "mopps, decay 1": ("orange", "v"),
    "dps": ("purple", "D"),
    "gps": ("blue", "X"),
}
SOURCES = {"state space": "data of the model itself", "learner": "data of a learner that shares skills"}

_TITLE = (
    "On data of its own model the sampled posterior covers what it says; mopps and gps fall short (visited prompts)"
)


def table(summary: dict[str, Any], title: str, part: str) -> Table:
    """Return a table of one kind of data and part of the pool, one row per method."""
    columns = list(summary[GOLD][part])
    rows = ([name, *(shown(parts[part][column]) for column in columns)] for name, parts in summary.items())
    return terminal_table(f"{title}, {part}: mean over seeds (standard error)", ("method", *columns), rows)


def draw(summaries: dict[str, Any], path: Path) -> Path:
    """Draw the coverage of the intervals less their level, on visited prompts."""
    size = {"figsize": (11, 5.2), "layout": "constrained"}
    figure, axes = drawing.plt.subplots(1, len(summaries), sharey=True, squeeze=False, **size)
    for ax, (source, summary) in zip(axes[0], summaries.items(), strict=True):
        ax.axhspan(-3, 3, color=plotting.COLOURS["pale grey"], zorder=0, label="within 3 points")
        for number, (name, (colour, marker)) in enumerate(STYLES.items()):
            cells = [summary[name]["visited"][f"coverage {level}"] for level in LEVELS]
            mean, error = (np.array([c[key] for c in cells], float) for key in ("mean", "standard_error"))
            # side by side, so that the bars of standard errors do not overlap
            at, excess = np.arange(len(LEVELS)) + 0.12 * (number - 2.5), 100 * (mean - LEVELS)
            ax.errorbar(
                at,
                excess,
                100 * error,
                color=plotting.COLOURS[colour],
                linestyle="",
                marker=marker,
                label=name,
                capsize=2,
            )
        ax.set(title=SOURCES[source], xlabel="level of the central interval")
        ax.set_xticks(range(len(LEVELS)), [f"{level:.0%}" for level in LEVELS])
        drawing.tidy(ax)
    axes[0, 0].set(ylabel="coverage of the true success rate less the level\n(percentage points, standard error)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(_TITLE)
    return drawing.save(figure, path)
