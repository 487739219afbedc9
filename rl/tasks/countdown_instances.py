"""Countdown instances: random ones with a solution, drawn in blocks, and complete lists where there are few.

An instance is drawn backwards: first the numbers, then a random expression that uses each number once. The value of the
expression is the target if it is a positive integer within the bound. So every target is reachable, an instance with
many solutions is drawn more often, and repeated draws find every solution of an instance. Values are exact rationals: a
numerator and a denominator in int64. Intermediate values may be fractions or negative.
"""

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

OPERATIONS = "+-*/"
# Smaller blocks spend their time on NumPy's overhead per call; larger blocks delay the first prompt.
_BLOCK = 2**14
_BARREN_BLOCKS = 64
_MAX_LISTED = 2**23
_HELD_OUT_SHARE = 1 / 8

# A binary tree: None is a leaf, and a pair holds the left and the right operand.
Shape = Any
Ints = Int[np.ndarray, " m"]


class Space(NamedTuple):
    """A set of instances: numbers and targets from 1 to a bound, on one side of the evaluation split."""

    max_number: int
    max_target: int
    held_out: bool


class Instance(NamedTuple):
    """One instance: its numbers in the order of the prompt, its target, and an expression for the target."""

    numbers: list[int]
    target: int
    expression: str


@lru_cache
def shapes(count: int) -> list[Shape]:
    """Return all binary trees with `count` leaves."""
    if count == 1:
        return [None]
    splits = ((shapes(left), shapes(count - left)) for left in range(1, count))
    return [pair for lefts, rights in splits for pair in itertools.product(lefts, rights)]


def _num_leaves(shape: Shape) -> int:
    return 1 if shape is None else _num_leaves(shape[0]) + _num_leaves(shape[1])


def evaluate(shape: Shape, leaves: Int[np.ndarray, "k m"], operations: Int[np.ndarray, "gaps n"]) -> tuple[Ints, Ints]:
    """Return numerators and denominators of `m` expressions, whose leaves and operations run from left to right.

    Operation `i` stands between leaves `i` and `i + 1`. The value of a division by zero is 0 / 0.
    """
    if shape is None:
        return leaves[0], np.ones_like(leaves[0])
    root = _num_leaves(shape[0]) - 1
    a, b = evaluate(shape[0], leaves[: root + 1], operations[:root])
    c, d = evaluate(shape[1], leaves[root + 1 :], operations[root + 1 :])
    # After a division by zero (c = 0) the numerator must be 0 too. A later division makes this numerator a denominator,
    # and a nonzero one would hide the fault.
    ratio = a * d * (c != 0)
    numerator = np.choose(operations[root], [a * d + b * c, a * d - b * c, a * c, ratio])
    return numerator, np.where(operations[root] == OPERATIONS.index("/"), b * c, b * d)


def _template(shape: Shape, operations: str) -> tuple[str, str]:
    """Return the expression with `%d` for numbers and no needless parentheses, and its outermost operation."""
    if shape is None:
        return "%d", ""
    root = _num_leaves(shape[0]) - 1
    left, before = _template(shape[0], operations[:root])
    right, after = _template(shape[1], operations[root + 1 :])
    operation = operations[root]
    if operation in "*/" and before in ("+", "-"):
        left = f"({left})"
    if after and after in {"+": "", "-": "+-", "*": "+-", "/": "+-*/"}[operation]:
        right = f"({right})"
    return left + operation + right, operation


@lru_cache
def templates(count: int) -> list[list[str]]:
    """Return format strings for all expressions of `count` numbers: rows are trees, columns are operations in order."""
    sequences = ["".join(chosen) for chosen in itertools.product(OPERATIONS, repeat=count - 1)]
    return [[_template(shape, sequence)[0] for sequence in sequences] for shape in shapes(count)]


def held_out_mask(numbers: Int[np.ndarray, "m k"], targets: Ints) -> Bool[np.ndarray, " m"]:
    """Return which instances belong to evaluation: one in eight, by a hash of the sorted numbers and the target.

    Neither the order of the numbers nor a seed matters, so an instance is on the same side in every run.
    """
    mixed = targets.astype(np.uint64)
    for column in np.sort(numbers, axis=1).T.astype(np.uint64):
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)) < np.uint64(int(2**32 * _HELD_OUT_SHARE))


def _within(
    space: Space, leaves: Int[np.ndarray, "m k"], numerators: Ints, denominators: Ints
) -> tuple[Bool[np.ndarray, " m"], Ints]:
    """Return which expressions give an instance of the space, and the values of all expressions, rounded down."""
    targets, remainders = np.divmod(numerators, denominators + (denominators == 0))
    valid = (remainders == 0) & (targets >= 1) & (targets <= space.max_target)
    valid[valid] = held_out_mask(leaves[valid], targets[valid]) == space.held_out
    return valid, targets


def _of_shape(rng: np.random.Generator, draws: int, shape: int, count: int, space: Space) -> Iterator[Instance]:
    """Yield the valid instances among `draws` random expressions of one shape."""
    leaves = rng.integers(1, space.max_number, size=(draws, count), endpoint=True)
    operations = rng.integers(len(OPERATIONS), size=(count - 1, draws))
    valid, targets = _within(space, leaves, *evaluate(shapes(count)[shape], leaves.T, operations))
    sequences = len(OPERATIONS) ** np.arange(count - 2, -1, -1) @ operations
    leaves, texts = leaves[valid], templates(count)[shape]
    # The prompt must not reveal the order of the numbers in the solution.
    columns = (rng.permuted(leaves, axis=1), targets[valid], sequences[valid], leaves)
    for numbers, target, sequence, row in zip(*(column.tolist() for column in columns), strict=True):
        yield Instance(numbers, target, texts[sequence] % tuple(row))


def instances(rng: np.random.Generator, count: int, space: Space) -> Iterator[Instance]:
    """Yield random instances of `count` numbers without end.

    Raises:
        ValueError: A million random expressions in a row gave no instance of the space.
    """
    num_shapes = len(shapes(count))
    barren = 0
    while barren < _BARREN_BLOCKS:
        blocks = (_of_shape(rng, -(-_BLOCK // num_shapes), shape, count, space) for shape in range(num_shapes))
        block = list(itertools.chain.from_iterable(blocks))
        barren = 0 if block else barren + 1
        yield from (block[i] for i in rng.permutation(len(block)).tolist())
    raise ValueError(
        f"no Countdown instance of {count} numbers with max_number={space.max_number}, "
        f"max_target={space.max_target} is left {'for evaluation' if space.held_out else 'to train on'}; "
        "raise max_number or max_target"
    )


def all_instances(count: int, space: Space) -> Int[np.ndarray, "m columns"] | None:
    """Return every instance of the space once: ascending numbers, then the target. None if the space is too large."""
    num_leaves = space.max_number**count
    if num_leaves * sum(map(len, templates(count))) > _MAX_LISTED:
        return None
    leaves = np.indices((space.max_number,) * count).reshape(count, -1) + 1
    rows = []
    for shape in shapes(count):
        for sequence in itertools.product(range(len(OPERATIONS)), repeat=count - 1):
            values = evaluate(shape, leaves, np.array(sequence)[:, None])
            valid, targets = _within(space, leaves.T, *values)
            rows.append(np.column_stack([np.sort(leaves.T[valid], axis=1), targets[valid]]))
    return np.unique(np.concatenate(rows), axis=0)
