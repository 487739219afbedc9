"""Tables and the figure of the comparison."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments.reporting import drawing
from experiments.reporting.figures import held_out, look_of, with_band
from experiments.reporting.spread import shown
from experiments.reporting.summaries import per_step, smoothed
from experiments.reporting.tables import terminal_table
from experiments.reproduce.claims import Runs

_OUTCOME = {
    "held_out_accuracy": "held-out",
    "gain": "gain",
    "share_of_rollouts": "rollouts/DS",
    "share_of_steps": "steps/uniform",
}
_PREDICTION = {
    "mixed_share": "mixed",
    "spearman": "Spearman",
    "calibration_error": "ECE",
    "ms_selecting": "choice",
    "ms_step": "step",
}
_FINE = ("held_out_accuracy", "gain")


def tables(task: str, result: dict[str, Any]) -> Iterator[Table]:
    """Yield two tables for a terminal of 80 columns: outcomes of training, then predictions and their cost."""
    start, seeds = result["uniform"]["held_out_at_start"], len(result["uniform"]["gain"]["per_seed"])
    spent = {method: by_name["rollouts"]["mean"] for method, by_name in result.items()}
    rollouts = f"rollouts {spent['uniform']:,.0f}, DS {spent['dynamic_sampling']:,.0f}"
    titles = (
        f"{task}: mean of {seeds} seeds (standard error), from {start['mean']:.3f}",
        f"{task}: predictions; milliseconds of choice and step; {rollouts}",
    )
    for title, columns in zip(titles, (_OUTCOME, _PREDICTION), strict=True):
        rows = ([method, *(_cell(name, by_name[name]) for name in columns)] for method, by_name in result.items())
        yield terminal_table(title, ("method", *columns.values()), rows)


def _cell(name: str, number: dict[str, Any]) -> str:
    if name.startswith("ms"):
        return f"{number['mean']:.1f}"
    return shown(number, digits=3 if name in _FINE else 2)


def draw(drawn: dict[str, Runs], path: Path) -> Path:
    """Draw one row per task: held-out accuracy against rollouts and against steps, and the share of mixed groups.

    Lines are means over seeds; bands of one standard error are drawn where they do not hide each other.
    """
    figure, rows = drawing.plt.subplots(
        len(drawn), 3, figsize=(13, 3.9 * len(drawn)), layout="constrained", squeeze=False
    )
    for axes, (task, runs) in zip(rows, drawn.items(), strict=True):
        for method, seeds in runs.items():
            style = look_of(method)
            for ax, at, unit in ((axes[0], "rollouts", 1000), (axes[1], "step", 1)):
                spent, accuracy = held_out(seeds, at, unit)
                ax.plot(spent, accuracy.mean(0), **style)  # no bands: seeds differ in level, so bands would overlap
            mixed = smoothed(per_step(seeds, "train/mixed_share"))
            with_band(axes[2], np.arange(mixed.shape[1]), mixed, style)
        name = task.replace("_", " ")
        axes[0].set(xlabel="rollouts (thousands)", ylabel="held-out accuracy", title=f"{name}: what rollouts bought")
        axes[1].set(xlabel="training step", ylabel="held-out accuracy", title=f"{name}: what steps bought")
        axes[2].set(xlabel="training step", ylabel="share of mixed groups", title=f"{name}: before any filter")
        for ax in axes:
            drawing.tidy(ax)
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return drawing.save(figure, path)
