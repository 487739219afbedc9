"""Figures of training runs."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import drawing
from experiments.compare import Records, column, probes
from experiments.spread import standard_error
from jaxsel import plotting


def draw_comparison(runs: dict[str, Records], path: Path, *, title: str) -> Path:
    """Held-out accuracy against rollouts, and the share of mixed groups over steps."""
    return draw_seeds({method: [records] for method, records in runs.items()}, path, title=title)


def draw_seeds(runs: dict[str, list[Records]], path: Path, *, title: str) -> Path:
    """The same for several seeds: the mean, and a band of one standard error around it."""
    figure, (left, right) = drawing.plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for number, (method, seeds) in enumerate(runs.items()):
        look = plotting.style(method if method in plotting.METHODS else number)
        style = {**look, "marker": "none", "label": method.replace("_", " "), "linewidth": 1.8}
        rollouts, accuracy = held_out_curves(seeds)
        _line_with_band(left, rollouts / 1000, accuracy, style)
        mixed = np.array([_smooth(column(r, "train/mixed_share")) for r in seeds])
        _line_with_band(right, np.arange(mixed.shape[1]), mixed, style)
    left.set(xlabel="rollouts (thousands)", ylabel="held-out accuracy", title="what the rollouts bought")
    right.set(
        xlabel="training step",
        ylabel="share of mixed groups (mean of 20 steps)",
        title="before any filter",
        ylim=(0, 1),
    )
    for axes in (left, right):
        drawing.tidy(axes)
    left.legend(frameon=False)
    figure.suptitle(title)
    return drawing.save(figure, path)


def held_out_curves(seeds: list[Records]) -> tuple[np.ndarray, np.ndarray]:
    """Rollouts at which every seed is between two of its probes, and the held-out accuracy there, a row a seed."""
    curves = [probes(records, "held_out_accuracy") for records in seeds]
    grid = np.linspace(0, min(rollouts[-1] for rollouts, _ in curves), len(curves[0][0]))
    return grid, np.array([np.interp(grid, *curve) for curve in curves])


def _smooth(values: np.ndarray, width: int = 20) -> np.ndarray:
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _line_with_band(axes: Any, x: np.ndarray, values: np.ndarray, style: dict[str, Any]) -> None:
    mean = values.mean(0)
    axes.plot(x, mean, **style)
    if len(values) > 1:
        error = standard_error(values)
        axes.fill_between(x, mean - error, mean + error, color=style["color"], alpha=0.15, linewidth=0)
