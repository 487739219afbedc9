"""Curves of training runs."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.reporting import drawing
from experiments.reporting.spread import standard_error
from experiments.reporting.summaries import Records, per_step, probes, smoothed
from jaxsel import plotting


def draw_comparison(runs: dict[str, Records], path: Path, *, title: str) -> Path:
    """Draw held-out accuracy against rollouts, and the share of mixed groups over steps."""
    return draw_seeds({method: [records] for method, records in runs.items()}, path, title=title)


def draw_seeds(runs: dict[str, list[Records]], path: Path, *, title: str) -> Path:
    """Draw what `draw_comparison` draws for several seeds: the mean, and a band of one standard error around it."""
    figure, (left, right) = drawing.plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for method, seeds in runs.items():
        with_band(left, *held_out(seeds, "rollouts", 1000), look_of(method))
        mixed = smoothed(per_step(seeds, "train/mixed_share"))
        with_band(right, np.arange(mixed.shape[1]), mixed, look_of(method))
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
    figure.suptitle(drawing.plain(title))
    return drawing.save(figure, path)


VARIANTS = {
    "mopps_mean": 0,
    "gps_screened": 2,
    "adaptive_focused": 3,
    "adaptive_sharp": 4,
    "mopps_mixed": 5,
    "mopps_top_mixed": 5,
    "oracle": 6,
}
"""Looks for methods that have none in `jaxsel.plotting`: numbers in its cycle of looks."""


def look_of(method: str) -> dict[str, Any]:
    """Return the style and the label of a method's line."""
    known = plotting.style(VARIANTS.get(method, method))
    return {**known, "marker": "none", "label": drawing.plain(method.replace("_", " ")), "linewidth": 1.8}


def held_out(seeds: list[Records], at: str, unit: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid of rollouts or steps, divided by `unit`, and the held-out accuracy of every seed at its points.

    The grid is the same for all seeds, and ends where the shortest run ends.
    """
    curves = [probes(records, "held_out_accuracy", at) for records in seeds]
    grid = np.linspace(0, min(spent[-1] for spent, _ in curves), len(curves[0][0]))
    return grid / unit, np.array([np.interp(grid, *curve) for curve in curves])


def with_band(axes: Any, x: np.ndarray, values: np.ndarray, style: dict[str, Any]) -> None:
    """Draw the mean over the first axis, the seeds, and a band of one standard error around it."""
    mean = values.mean(0)
    axes.plot(x, mean, **style)
    if len(values) > 1:
        error = standard_error(values)
        axes.fill_between(x, mean - error, mean + error, color=style["color"], alpha=0.15, linewidth=0)
