"""The charts: each draws on the axes that it is given and returns them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from scipy import stats

from jaxsel import _validate
from jaxsel.base import MIXED, SOLVED, UNSOLVED
from jaxsel.evaluation.metrics.calibration import Reliability
from jaxsel.evaluation.plotting.looks import COLOURS, METHODS, style

_STATES = {UNSOLVED: ("UNSOLVED", "vermilion", "//"), MIXED: ("MIXED", "yellow", ""), SOLVED: ("SOLVED", "blue", "..")}
_LARGEST_MARKER = 140.0  # square points
_REFERENCE = {"color": "#777777", "linewidth": 1.0, "linestyle": (0, (5, 3)), "zorder": 1}


def tidy(axes: Axes) -> Axes:
    """A light grid instead of a box."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def reliability_diagram(
    axes: Axes, table: Reliability, *, label: str, look: str | int | None = None, event: str = "the event"
) -> Axes:
    """What was predicted against what came, with bars of one standard error; above the diagonal it was too low.

    Args:
        axes: to draw on.
        table: of `metrics.reliability`. Marker areas are in proportion to the rows of the bins, the largest alike in
            all tables.
        label: of the legend.
        look: see `style`; None: that of the label, or the next of the cycle.
        event: what the probabilities are of.
    """
    columns = _vectors(**table._asdict())
    some = columns["size"] > 0
    x, y, size, error = (columns[name][some] for name in ("prediction", "outcome", "size", "standard_error"))
    look_of_line = _look(axes, label, look)
    bars = {**look_of_line, "marker": "none", "linewidth": 1.2, "elinewidth": 1.2, "capsize": 2}
    axes.errorbar(x, y, error, **bars)
    area = _LARGEST_MARKER * size / size.max() if size.size else size
    axes.scatter(x, y, area, color=look_of_line["color"], marker=look_of_line["marker"], alpha=0.85, zorder=3)
    # for the legend, where all markers are of one size
    axes.plot([], [], **look_of_line, label=label)
    _diagonal(axes)
    axes.set(xlabel=f"predicted probability of {event}", ylabel="observed share")
    return tidy(axes)


def coverage_curve(
    axes: Axes,
    levels: ArrayLike,
    coverage: ArrayLike,
    *,
    standard_error: ArrayLike | None = None,
    label: str,
    look: str | int | None = None,
) -> Axes:
    """How often intervals held what came, against their nominal level; below the diagonal they were too narrow.

    Args:
        axes: to draw on.
        levels: those given to `metrics.success_coverage` or `metrics.rate_coverage`.
        coverage: what they gave.
        standard_error: of the coverage, drawn as bars of one.
        label: of the legend.
        look: see `style`; None: that of the label, or the next of the cycle.

    Raises:
        ValueError: lengths that differ.
    """
    x, y, error = _with_errors(standard_error, levels=levels, coverage=coverage)
    axes.errorbar(x, y, error, **_look(axes, label, look), label=label, linewidth=1.6, capsize=2)
    _diagonal(axes)
    axes.set(xlabel="nominal level of the central interval", ylabel="share of intervals that held the truth")
    return tidy(axes)


def pit_histogram(
    axes: Axes,
    shares: ArrayLike,
    *,
    num_rows: int | None = None,
    label: str,
    look: str | int | None = None,
) -> Axes:
    """The histogram of `metrics.uniformity` against a flat one: a U says too narrow, a hill too wide.

    Args:
        axes: to draw on; one histogram for each.
        shares: of the bins, which are of equal width.
        num_rows: m. Of m uniform values each bar ends in the band in at least 95 cases of 100; None: no band.
        label: of the legend.
        look: see `style`; None: that of the label, or the next of the cycle.

    Raises:
        ValueError: a `num_rows` below 1.
    """
    heights, colour = _vectors(shares=shares)["shares"], _look(axes, label, look)["color"]
    uniform = 1 / max(heights.size, 1)
    if num_rows is not None:
        _validate.positive_integer(num_rows=num_rows)
        low, high = np.asarray(stats.binom.interval(0.95, num_rows, uniform)) / num_rows
        axes.axhspan(low, high, color="#777777", alpha=0.25, linewidth=0, zorder=0.5, label="95% by chance")
        axes.hlines([low, high], 0, 1, color="#333333", linewidth=1, zorder=3)
    axes.axhline(uniform, **{**_REFERENCE, "zorder": 3})
    edges = uniform * np.arange(heights.size)
    axes.bar(edges, heights, uniform, align="edge", color=colour, alpha=0.7, edgecolor="white", label=label, zorder=1)
    axes.set(xlabel="probability integral transform of what came", ylabel="share of rows", xlim=(0, 1), ymargin=0.15)
    return tidy(axes)


def by_part(
    axes: Axes,
    names: Sequence[str],
    values: ArrayLike,
    standard_errors: ArrayLike,
    *,
    label: str,
    metric: str,
    look: str | int | None = None,
    position: int = 0,
    num_positions: int = 1,
) -> Axes:
    """A metric by parts of the pool, a row each, first on top, with bars of one standard error.

    Args:
        axes: to draw on.
        names: of the parts, as of `metrics.slices`.
        values: of the metric.
        standard_errors: likewise.
        label: of the legend.
        metric: its name and unit, of the axis.
        look: see `style`; None: that of the label, or the next of the cycle.
        position: of the method among those drawn side by side, from 0.
        num_positions: how many there are.

    Raises:
        ValueError: lengths that differ, or a `position` that is none of them.
    """
    _validate.integer_in(0, num_positions, position=position)
    columns = _vectors(values=values, standard_errors=standard_errors, names=np.arange(len(names)))
    x, error, rows = columns.values()
    y = rows + 0.6 * ((position + 0.5) / num_positions - 0.5)
    axes.errorbar(x, y, xerr=error, **{**_look(axes, label, look), "linestyle": "none"}, label=label, capsize=2)
    axes.set_yticks(rows, names)
    axes.set(xlabel=metric, ylabel="part of the pool", ylim=(len(names) - 0.5, -0.5))
    return tidy(axes)


def over_steps(
    axes: Axes,
    steps: ArrayLike,
    values: ArrayLike,
    *,
    standard_error: ArrayLike | None = None,
    label: str,
    metric: str,
    look: str | int | None = None,
) -> Axes:
    """A metric over training, with a band of one standard error around it.

    Args:
        axes: to draw on.
        steps: of the run.
        values: of the metric.
        standard_error: likewise; None: no band.
        label: of the legend.
        metric: its name and unit, of the axis.
        look: see `style`; None: that of the label, or the next of the cycle.

    Raises:
        ValueError: lengths that differ.
    """
    x, y, error = _with_errors(standard_error, steps=steps, values=values)
    look_of_line = {**_look(axes, label, look), "markersize": 5, "markevery": max(1, x.size // 8)}
    axes.plot(x, y, **look_of_line, label=label, linewidth=1.8)
    if error is not None:
        axes.fill_between(x, y - error, y + error, color=look_of_line["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="training step", ylabel=metric)
    return tidy(axes)


def beta_densities(axes: Axes, alpha: ArrayLike, beta: ArrayLike, *, labels: Sequence[str]) -> Axes:
    """The densities of Beta posteriors of success rates.

    Args:
        axes: to draw on.
        alpha: above 0, one entry a prompt.
        beta: likewise.
        labels: of the legend.

    Raises:
        ValueError: lengths that differ, or a parameter that is not above 0.
    """
    a, b, _ = _vectors(alpha=alpha, beta=beta, labels=np.arange(len(labels))).values()
    for one_a, one_b in zip(a, b, strict=True):
        _validate.positive(alpha=one_a, beta=one_b)
    # the ends are left out: the density may be infinite there
    p = (np.arange(1000) + 0.5) / 1000
    for number, (one_a, one_b, label) in enumerate(zip(a, b, labels, strict=True)):
        look = {**style(number), "marker": "none"}
        axes.plot(p, stats.beta.pdf(p, one_a, one_b), **look, label=label, linewidth=1.8)
    axes.set(xlabel="success rate p", ylabel="posterior density", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    return tidy(axes)


def belief_areas(axes: Axes, steps: ArrayLike, beliefs: ArrayLike) -> Axes:
    """What is believed of a prompt's solve state over training, as areas that fill [0, 1], with their legend.

    Args:
        axes: to draw on.
        steps: T of them.
        beliefs: [T, 3], P(UNSOLVED), P(MIXED) and P(SOLVED), which sum to 1.

    Raises:
        ValueError: another shape, or rows that do not sum to 1.
    """
    x, table = _vectors(steps=steps)["steps"], np.asarray(beliefs, np.float64)
    if table.shape != (x.size, len(_STATES)):
        raise ValueError(f"beliefs has shape {table.shape}; give ({x.size}, {len(_STATES)}): a row for each step")
    wrong = ~(np.abs(table.sum(axis=1) - 1) < 1e-3)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"beliefs[{at}] sums to {table[at].sum():.4g}; give probabilities, which sum to 1")
    below = np.zeros(x.size)
    for state, (name, colour, hatch) in _STATES.items():
        above = below + table[:, state]
        axes.fill_between(
            x, below, above, facecolor=COLOURS[colour], edgecolor="white", linewidth=0.8, hatch=hatch, label=name
        )
        below = above
    patches = [
        Patch(facecolor=COLOURS[colour], edgecolor="white", hatch=hatch, label=name)
        for name, colour, hatch in reversed(_STATES.values())
    ]
    axes.legend(handles=patches, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xlabel="training step", ylabel="believed probability", ylim=(0, 1))
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _vectors(**columns: Any) -> dict[str, np.ndarray]:
    """The columns as float64 vectors of one length."""
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        shown = ", ".join(f"{name} has shape {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{shown}; give vectors of one length")
    return arrays


def _with_errors(standard_error: Any, **columns: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Two columns and their errors, if any."""
    if standard_error is None:
        x, y = _vectors(**columns).values()
        return x, y, None
    x, y, error = _vectors(**columns, standard_error=standard_error).values()
    return x, y, error


def _look(axes: Axes, label: str, look: str | int | None) -> dict[str, Any]:
    """What `style` says; without a look, of the label or by how many labels the axes have."""
    if look is None:
        look = label if label in METHODS else len(axes.get_legend_handles_labels()[1])
    return style(look)


def _diagonal(axes: Axes) -> None:
    """Where predictions are right, once."""
    if not any(line.get_gid() == "diagonal" for line in axes.lines):
        axes.plot([0, 1], [0, 1], **_REFERENCE, gid="diagonal")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
