"""Charts of the beliefs about single prompts: Beta densities, and probabilities of solve states."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from scipy import stats

from jaxsel import _validate
from jaxsel.base import MIXED, SOLVED, UNSOLVED
from jaxsel.evaluation.plotting.axes import plain, tidy, vectors
from jaxsel.evaluation.plotting.looks import COLOURS, style

_STATES = {UNSOLVED: ("UNSOLVED", "vermilion", "//"), MIXED: ("MIXED", "yellow", ""), SOLVED: ("SOLVED", "blue", "..")}


def beta_densities(axes: Axes, alpha: ArrayLike, beta: ArrayLike, *, labels: Sequence[str]) -> Axes:
    """Draw the densities of Beta posteriors of success rates.

    Args:
        axes: Axes to draw on.
        alpha: First parameters, above 0, one per prompt.
        beta: Second parameters, above 0, one per prompt.
        labels: Names of the prompts in the legend.

    Raises:
        ValueError: The lengths differ, or a parameter is not above 0.
    """
    a, b, _ = vectors(alpha=alpha, beta=beta, labels=np.arange(len(labels))).values()
    for one_a, one_b in zip(a, b, strict=True):
        _validate.positive(alpha=one_a, beta=one_b)
    # the grid leaves out 0 and 1, where the density may be infinite
    p = (np.arange(1000) + 0.5) / 1000
    for number, (one_a, one_b, label) in enumerate(zip(a, b, labels, strict=True)):
        look = {**style(number), "marker": "none"}
        axes.plot(p, stats.beta.pdf(p, one_a, one_b), **look, label=plain(label), linewidth=1.8)
    axes.set(xlabel="success rate p", ylabel="posterior density", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    return tidy(axes)


def belief_areas(axes: Axes, steps: ArrayLike, beliefs: ArrayLike) -> Axes:
    """Draw how the probabilities of a prompt's three solve states change over training, as stacked areas with a legend.

    Args:
        axes: Axes to draw on.
        steps: The T training steps.
        beliefs: P(UNSOLVED), P(MIXED) and P(SOLVED) of shape `[T, 3]`, which sum to 1 in each row.

    Raises:
        ValueError: `beliefs` has another shape, or a row does not sum to 1.
    """
    x, table = vectors(steps=steps)["steps"], np.asarray(beliefs, np.float64)
    if table.shape != (x.size, len(_STATES)):
        raise ValueError(f"beliefs has shape {table.shape}; give ({x.size}, {len(_STATES)}): one row per step")
    wrong = ~(np.abs(table.sum(axis=1) - 1) < 1e-3)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"beliefs[{at}] sums to {table[at].sum():.4g}; give probabilities, which sum to 1")
    looks: list[dict[str, Any]] = [
        {"facecolor": COLOURS[colour], "edgecolor": COLOURS["white"], "hatch": hatch, "label": name}
        for name, colour, hatch in _STATES.values()
    ]
    below = np.zeros(x.size)
    for state, look in zip(_STATES, looks, strict=True):
        above = below + table[:, state]
        axes.fill_between(x, below, above, linewidth=0.8, **look)
        below = above
    patches = [Patch(**look) for look in reversed(looks)]
    axes.legend(handles=patches, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xlabel="training step", ylabel="believed probability", ylim=(0, 1))
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
