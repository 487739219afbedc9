"""Parts that the charts share: a light grid, the diagonal, checks of columns of numbers, and styles of lines."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxsel.evaluation.plotting.looks import COLOURS, METHODS, style

REFERENCE = {"color": COLOURS["grey"], "linewidth": 1.0, "linestyle": (0, (5, 3)), "zorder": 1}
"""Keyword arguments of `axes.plot` for a reference line, such as the diagonal."""


def tidy(axes: Axes) -> Axes:
    """Draw a light grid instead of a box, and return the axes."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def plain(text: str) -> str:
    """Return the text with escaped dollar signs, because Matplotlib reads text between two of them as a formula."""
    return text.replace("$", r"\$")


def diagonal(axes: Axes) -> None:
    """Draw the diagonal, on which perfect predictions lie, unless the axes already have one."""
    if not any(line.get_gid() == "diagonal" for line in axes.lines):
        axes.plot([0, 1], [0, 1], **REFERENCE, gid="diagonal")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")


def look_of(axes: Axes, label: str, look: str | int | None) -> dict[str, Any]:
    """Return the keyword arguments of `axes.plot` for a look (colour, line style and marker): see `style`.

    If `look` is None, use the look of the method that `label` names, or else the next unused number.
    """
    if look is None:
        look = label if label in METHODS else len(axes.get_legend_handles_labels()[1])
    return style(look)


def vectors(**columns: Any) -> dict[str, np.ndarray]:
    """Return the columns as float64 vectors, and check that their lengths are equal."""
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        shown = ", ".join(f"{name} has shape {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{shown}; give vectors of one length")
    return arrays


def with_errors(standard_error: Any, **columns: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return two columns and their standard errors as float64 vectors. The errors may be None."""
    if standard_error is None:
        x, y = vectors(**columns).values()
        return x, y, None
    x, y, error = vectors(**columns, standard_error=standard_error).values()
    return x, y, error
