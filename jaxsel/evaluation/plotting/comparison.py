"""Charts that compare methods: a metric by parts of the pool, and a metric over training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.evaluation.plotting.axes import look_of, plain, tidy, vectors, with_errors


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
    """Draw the metric of every part of the pool, one row per part from top to bottom, with bars of one standard error.

    Args:
        axes: Axes to draw on.
        names: Names of the parts, for example from `metrics.slices`.
        values: Values of the metric, one per part.
        standard_errors: Standard errors of the metric, one per part.
        label: Name of the method in the legend.
        metric: Name and unit of the metric, for the axis.
        look: Colour, line style and marker: a method's name or a number, see `style`. None: the look of the method that
            `label` names, or else the next unused number.
        position: Place of this method among the methods in each row, from 0 (top).
        num_positions: Number of methods in each row.

    Raises:
        ValueError: The lengths differ, or `position` is not below `num_positions`.
    """
    _validate.integer_in(0, num_positions, position=position)
    columns = vectors(values=values, standard_errors=standard_errors, names=np.arange(len(names)))
    x, error, rows = columns.values()
    y = rows + 0.6 * ((position + 0.5) / num_positions - 0.5)
    axes.errorbar(
        x, y, xerr=error, **{**look_of(axes, label, look), "linestyle": "none"}, label=plain(label), capsize=2
    )
    axes.set_yticks(rows, list(map(plain, names)))
    axes.set(xlabel=plain(metric), ylabel="part of the pool", ylim=(len(names) - 0.5, -0.5))
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
    """Draw a metric over training, with a band of one standard error around it.

    Args:
        axes: Axes to draw on.
        steps: Training steps.
        values: Values of the metric, one per step.
        standard_error: Standard errors of the metric, one per step. None: no band.
        label: Name of the method in the legend.
        metric: Name and unit of the metric, for the axis.
        look: Colour, line style and marker: a method's name or a number, see `style`. None: the look of the method that
            `label` names, or else the next unused number.

    Raises:
        ValueError: The lengths differ.
    """
    x, y, error = with_errors(standard_error, steps=steps, values=values)
    look_of_line = {**look_of(axes, label, look), "markersize": 5, "markevery": max(1, x.size // 8)}
    axes.plot(x, y, **look_of_line, label=plain(label), linewidth=1.8)
    if error is not None:
        axes.fill_between(x, y - error, y + error, color=look_of_line["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="training step", ylabel=plain(metric))
    return tidy(axes)
