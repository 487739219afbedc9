"""The numbers of every sweep (runs that differ in one setting), its table and the figure."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments.ablations.sweeps import Sweep, beside, place
from experiments.reporting import drawing
from experiments.reporting.spread import over_seeds, shown
from experiments.reporting.summaries import Records, share_spent, summary
from experiments.reporting.tables import terminal_table
from jaxsel import plotting


def sweep_numbers(sweep: Sweep, found: dict[str, list[Records]]) -> dict[str, Any]:
    """Return, for every value of the setting, each number's mean over seeds and its standard error.

    Args:
        sweep: Sweep to summarise.
        found: The records of every run, one entry per seed, by the name that `place` gives to the run's settings.
    """
    result = {}
    for value, settings in zip(sweep.values, sweep.settings(), strict=True):
        runs, uniform = found[place(settings)], found[place(beside(settings))]
        by_seed = [numbers(summary(run), summary(plain)) for run, plain in zip(runs, uniform, strict=True)]
        result[str(value)] = over_seeds(by_seed) | {"share_of_steps": share_spent(runs, uniform, "step")}
    return result


def numbers(run: dict[str, float], uniform: dict[str, float]) -> dict[str, float]:
    """Return the numbers of a run, from its summary and the summary of the uniform run on the same seed."""
    return {name: run[name] for name in ("rollouts", "held_out_accuracy", "mixed_share", "spearman")} | {
        "gain": run["held_out_accuracy"] - uniform["held_out_accuracy"],
        "mixed_share_of_uniform": uniform["mixed_share"],
    }


_ZERO_LINE = plotting.COLOURS["grey"]
_COLUMNS = {
    "gain": "gain over uniform",
    "share_of_steps": "of its steps",
    "mixed_share": "mixed",
    "mixed_share_of_uniform": "uniform's",
    "spearman": "Spearman",
}


def table(name: str, by_value: dict[str, Any]) -> Table:
    """Return a table of a sweep, one row per value of its setting, for a terminal of 80 columns."""
    rows = (
        [value, *(shown(found[column], digits=3 if column == "gain" else 2) for column in _COLUMNS)]
        for value, found in by_value.items()
    )
    return terminal_table(name.replace("_", " "), ("value", *_COLUMNS.values()), rows)


def draw(result: dict[str, Any], path: Path) -> Path:
    """Draw one column per sweep, with the share of mixed groups above the gain over uniform."""
    columns = min(4, len(result))
    blocks = -(-len(result) // columns)
    figure, axes = drawing.plt.subplots(
        2 * blocks,
        columns,
        figsize=(max(5, 3.1 * columns), 4.6 * blocks),
        layout="constrained",
        squeeze=False,
        sharey="row",
    )
    for ax in axes.ravel():
        ax.set_visible(False)
    for at, (name, by_value) in enumerate(result.items()):
        row, column = 2 * (at // columns), at % columns
        _draw_sweep(axes[row, column], axes[row + 1, column], by_value)
        axes[row, column].set_title(textwrap.fill(name.replace("_", " "), 30), fontsize=10)
    for row, label in enumerate(("share of mixed groups", "gain over uniform") * blocks):
        axes[row, 0].set_ylabel(label, fontsize=9)
    figure.suptitle("One setting at a time\n(crosses: uniform prompts; bars: one standard error)")
    return drawing.save(figure, path)


def _draw_sweep(mixed: Any, gain: Any, by_value: dict[str, Any]) -> None:
    x = np.arange(len(by_value))
    for ax, measure in ((mixed, "mixed_share"), (gain, "gain")):
        ax.set_visible(True)
        mean, error = ([one[measure][part] for one in by_value.values()] for part in ("mean", "standard_error"))
        ax.errorbar(x, mean, np.nan_to_num(error), **plotting.style("mopps") | {"linestyle": "none"}, capsize=3)
        ax.set_xlim(-0.5, len(x) - 0.5)
        drawing.tidy(ax)
    uniform = [one["mixed_share_of_uniform"]["mean"] for one in by_value.values()]
    mixed.plot(x, uniform, **plotting.style("uniform") | {"linestyle": "none"})
    mixed.set_xticks(x, [])
    gain.axhline(0, color=_ZERO_LINE, linewidth=1)
    gain.set_xticks(x, [value.replace("mopps_", "mopps\n") for value in by_value], fontsize=8)
