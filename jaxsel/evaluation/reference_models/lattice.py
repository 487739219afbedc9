"""Normal distributions and normal moves on a grid of logits, whose probabilities are all positive and ring nowhere.

A density that rings, or a floor below it, has tails that one unlikely outcome turns into the belief.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

CELLS, WIDTH = 288, 0.0625  # on the logits from -9 to 9
BLOCK, ROWS = 32, 28  # products of such small matrices are not spread over threads, which would take longer
_SMALLEST = 1e-100  # smaller probabilities of moves count as 0: the processor is slow on subnormal numbers
_SCALES, _INTEGERS = np.geomspace(0.1, 2, 2000), np.arange(-30, 31)
_WEIGHTS = np.exp(-0.5 * (_INTEGERS / _SCALES[:, None]) ** 2)
_VARIANCES = _WEIGHTS @ _INTEGERS**2 / _WEIGHTS.sum(axis=1)


class Move(NamedTuple):
    """A move of all prompts.

    Attributes:
        drift: Cells that a prompt drifts.
        parts: For every block of cells the range of cells from which it is reached, the block, and the probabilities.
    """

    drift: int
    parts: list[tuple[slice, slice, np.ndarray]]


def normal(mean: Int[np.ndarray, " rows"], variance: Float[np.ndarray, " rows"]) -> Float[np.ndarray, "rows cells"]:
    """Return the probabilities of the cells.

    Args:
        mean: Cell in whose middle the mean is. What lies beyond the grid, as the mean may, is in the outermost cells.
        variance: Variance in logits.
    """
    from scipy.special import ndtr  # imported here, because at the top it would slow down `import jaxsel`

    scale = _scale(variance / WIDTH**2)[:, None]
    cells = np.arange(CELLS) - mean[:, None]
    density = np.exp(-0.5 * (cells / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
    density[:, 0], density[:, -1] = ndtr((cells[:, [0, -1]] * [1, -1] + 0.5) / scale).T
    return density / density.sum(axis=1, keepdims=True)


def move(drift: float, variance: float) -> Move:
    """Return a move with a variance and about this drift, in logits. What would leave the grid stays at its end."""
    from scipy.special import ndtr

    shift = round(drift / WIDTH)
    scale = _scale(np.array(variance / WIDTH**2))
    most = CELLS + abs(shift)
    weight = np.exp(-0.5 * (np.arange(-most, most + 1) / scale) ** 2)
    weight[weight < _SMALLEST] = 0
    beyond = ndtr(-(most + 0.5) / scale) * scale * np.sqrt(2 * np.pi)
    as_far = np.cumsum(weight[::-1])[::-1] + beyond
    cells = np.arange(CELLS)
    found = weight[most + cells - cells[:, None] - shift]
    found[:, 0], found[:, -1] = as_far[most + cells + shift], as_far[most + cells[::-1] - shift]
    found /= as_far[0] + beyond
    parts = []
    for block in (slice(start, start + BLOCK) for start in range(0, CELLS, BLOCK)):
        reached = np.flatnonzero(found[:, block].any(axis=1))
        if len(reached):
            source = slice(reached[0], reached[-1] + 1)
            parts.append((source, block, found[source, block].copy()))
    return Move(shift, parts)


def moved(density: Float[np.ndarray, "rows cells"], by: Move) -> Float[np.ndarray, "rows cells"]:
    """Return the densities after a move."""
    found = np.zeros_like(density)
    for rows in (slice(first, first + ROWS) for first in range(0, len(density), ROWS)):
        for source, block, probability in by.parts:
            found[rows, block] = density[rows, source] @ probability
    return found


def shifted(density: Float[np.ndarray, "rows cells"], cells: int) -> Float[np.ndarray, "rows cells"]:
    """Return the densities so many cells further up. What would leave the grid stays at its end."""
    up, down = max(cells, 0), max(-cells, 0)
    found = np.zeros_like(density)
    found[:, up : CELLS - down] = density[:, down : CELLS - up]
    found[:, 0] += density[:, :down].sum(axis=1)
    found[:, -1] += density[:, CELLS - up :].sum(axis=1)
    return found


def _scale(variance: np.ndarray) -> np.ndarray:
    """Return the scale with which integers k of probability proportional to exp(-(k / scale)^2 / 2) have the variance.

    Of all distributions on the integers with this variance it has most entropy. It is almost normal if the variance is
    large, and leaves -1, 0 and 1 if it is small.
    """
    return np.where(variance < _VARIANCES[-1], np.interp(variance, _VARIANCES, _SCALES), np.sqrt(variance))
