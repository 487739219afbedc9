"""Random Countdown instances with the distribution of the published data set of three and four numbers.

A target is drawn uniformly from 10 to 100. Then numbers are drawn uniformly from 1 to 99 until some expression of all
numbers has the target as its value. Half of the instances have three numbers.

The program behind the published set, Jiayi-Pan/Countdown-Tasks-3to4, is not public. These rules are inferred from
10,240 of its rows, whose targets are uniform and all reachable. Ten tests found no difference between these rows and
20,000 instances of this module (p from 0.05 to 0.88). They compared, for three and for four numbers: the targets, the
numbers, the largest number, the two smallest numbers, and the sum of the numbers minus the target.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

LARGEST_NUMBER = 99
SMALLEST_TARGET, LARGEST_TARGET = 10, 100
_BLOCK = 2**14
# An expression of four numbers up to 99 whose value is 1 or more has a denominator of at most 19,602. A value other
# than the target therefore differs from it by at least 1 / 19,602, far more than the tolerance.
_TOLERANCE = 1e-6


class Drawn(NamedTuple):
    """One instance: its numbers in the order of the prompt, and its target."""

    numbers: list[int]
    target: int


def reachable(numbers: Int[np.ndarray, "m k"], targets: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Return whether some expression of all numbers of a row has the row's target as its value.

    Args:
        numbers: One instance per row: at most four numbers, each from 1 to 99.
        targets: Positive targets.
    """
    found = np.zeros(len(targets), bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for value in _sizes(list(numbers.T.astype(float))):
            found |= np.abs(value - targets) < _TOLERANCE
    return found


def _sizes(columns: list[Float[np.ndarray, " m"]]) -> Iterator[Float[np.ndarray, " m"]]:
    """Yield the absolute values of all expressions. Swapped differences reach each of these without a minus sign."""
    if len(columns) == 1:
        yield columns[0]
        return
    for i, j in itertools.combinations(range(len(columns)), 2):
        a, b = columns[i], columns[j]
        rest = [column for at, column in enumerate(columns) if at not in (i, j)]
        for value in (a + b, np.abs(a - b), a * b, a / b, b / a):
            yield from _sizes([value, *rest])


def drawn(rng: np.random.Generator, counts: Collection[int]) -> Iterator[Drawn]:
    """Yield random instances without end; each count of numbers is equally likely.

    Args:
        rng: The source of random numbers.
        counts: How many numbers an instance may have: 3, 4 or both.
    """
    ordered: Sequence[int] = sorted(counts)
    streams = {count: _of_count(child, count) for count, child in zip(ordered, rng.spawn(len(ordered)), strict=True)}
    while True:
        for count in rng.choice(ordered, size=2**10).tolist():
            yield next(streams[count])


def _of_count(rng: np.random.Generator, count: int) -> Iterator[Drawn]:
    """Yield instances whose targets are uniform: numbers that reach a target are kept until it is drawn."""
    waiting: dict[int, list[list[int]]] = {target: [] for target in range(SMALLEST_TARGET, LARGEST_TARGET + 1)}
    while True:
        for target in rng.integers(SMALLEST_TARGET, LARGEST_TARGET, size=2**10, endpoint=True).tolist():
            while not waiting[target]:
                _draw_block(rng, count, waiting)
            yield Drawn(waiting[target].pop(), target)


def _draw_block(rng: np.random.Generator, count: int, waiting: dict[int, list[list[int]]]) -> None:
    numbers = rng.integers(1, LARGEST_NUMBER, size=(_BLOCK, count), endpoint=True)
    targets = rng.integers(SMALLEST_TARGET, LARGEST_TARGET, size=_BLOCK, endpoint=True)
    found = reachable(numbers, targets)
    for row, target in zip(numbers[found].tolist(), targets[found].tolist(), strict=True):
        waiting[target].append(row)
