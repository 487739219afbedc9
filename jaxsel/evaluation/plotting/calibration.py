"""Charts of calibration: predicted against observed shares, coverage of intervals, and histograms of PIT values.

PIT is the probability integral transform: a prediction's distribution function at the outcome.
"""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy import stats

from jaxsel import _validate
from jaxsel.evaluation.metrics.calibration import Reliability
from jaxsel.evaluation.plotting.axes import REFERENCE, diagonal, look_of, plain, tidy, vectors, with_errors
from jaxsel.evaluation.plotting.looks import COLOURS

_LARGEST_MARKER = 140.0  # square points


def reliability_diagram(
    axes: Axes, table: Reliability, *, label: str, look: str | int | None = None, event: str = "the event"
) -> Axes:
    """Draw observed shares against predicted probabilities, with bars of one standard error.

    Above the diagonal the predictions were too low.

    Args:
        axes: Axes to draw on.
        table: Result of `metrics.reliability`. A marker's area is proportional to the number of rows in its bin; the
            fullest bin of every table has the same area.
        label: Name of the method in the legend.
        look: Colour, line style and marker: a method's name or a number, see `style`. None: the look of the method that
            `label` names, or else the next unused number.
        event: Name of the event that the probabilities predict.
    """
    columns = vectors(**table._asdict())
    some = columns["size"] > 0
    x, y, size, error = (columns[name][some] for name in ("prediction", "outcome", "size", "standard_error"))
    look_of_line = look_of(axes, label, look)
    bars = {**look_of_line, "marker": "none", "linewidth": 1.2, "elinewidth": 1.2, "capsize": 2}
    axes.errorbar(x, y, error, **bars)
    area = _LARGEST_MARKER * size / size.max() if size.size else size
    axes.scatter(x, y, area, color=look_of_line["color"], marker=look_of_line["marker"], alpha=0.85, zorder=3)
    # an empty line for the legend, because in the legend all markers have one size
    axes.plot([], [], **look_of_line, label=plain(label))
    diagonal(axes)
    axes.set(xlabel=f"predicted probability of {plain(event)}", ylabel="observed share")
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
    """Draw the share of intervals that contain the truth against their nominal level.

    Below the diagonal the intervals were too narrow.

    Args:
        axes: Axes to draw on.
        levels: Nominal levels of the intervals.
        coverage: Result of `metrics.success_coverage` or `metrics.rate_coverage` for these levels.
        standard_error: Standard errors of the coverage, drawn as bars of one standard error. None: no bars.
        label: Name of the method in the legend.
        look: Colour, line style and marker: a method's name or a number, see `style`. None: the look of the method that
            `label` names, or else the next unused number.

    Raises:
        ValueError: The lengths differ.
    """
    x, y, error = with_errors(standard_error, levels=levels, coverage=coverage)
    axes.errorbar(x, y, error, **look_of(axes, label, look), label=plain(label), linewidth=1.6, capsize=2)
    diagonal(axes)
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
    """Draw the histogram of `metrics.uniformity`, with a line for the uniform distribution.

    A U-shaped histogram means that the posteriors are too narrow. A peak in the middle means that they are too wide.

    Args:
        axes: Axes to draw on; each histogram needs its own.
        shares: Shares of the bins, which have equal widths.
        num_rows: Number of PIT values in the histogram; with it, a grey band is drawn. If the values are uniform, each
            bar ends in the band with a probability of at least 95%. None: no band.
        label: Name of the method in the legend.
        look: Colour, line style and marker: a method's name or a number, see `style`. None: the look of the method that
            `label` names, or else the next unused number.

    Raises:
        ValueError: `num_rows` is below 1.
    """
    heights, colour = vectors(shares=shares)["shares"], look_of(axes, label, look)["color"]
    uniform = 1 / max(heights.size, 1)
    if num_rows is not None:
        _validate.positive_integer(num_rows=num_rows)
        low, high = np.asarray(stats.binom.interval(0.95, num_rows, uniform)) / num_rows
        axes.axhspan(low, high, color=COLOURS["grey"], alpha=0.25, linewidth=0, zorder=0.5, label="95% by chance")
        axes.hlines([low, high], 0, 1, color=COLOURS["dark grey"], linewidth=1, zorder=3)
    axes.axhline(uniform, **{**REFERENCE, "zorder": 3})
    edges = uniform * np.arange(heights.size)
    look_of_bars = {"color": colour, "alpha": 0.7, "edgecolor": COLOURS["white"], "zorder": 1}
    axes.bar(edges, heights, uniform, align="edge", label=plain(label), **look_of_bars)
    axes.set(xlabel="probability integral transform", ylabel="share of rows", xlim=(0, 1), ymargin=0.15)
    return tidy(axes)
