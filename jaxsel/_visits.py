"""Visits: the rollouts of one training step, summed to one row per prompt, and their solve states.

A group is n rollouts of one prompt, s of them correct. Its solve state is unsolved (s = 0), solved (s = n) or mixed.
"""

from collections.abc import Sized
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.base import MIXED, SOLVED, UNSOLVED, Rollouts, Scalar

LARGEST_COUNT = 2**24  # float32 represents all integers up to here


class Visits(NamedTuple):
    """Rollouts of one step as NumPy arrays: one row per prompt with at least one rollout, with ascending ids."""

    prompt_ids: Int[np.ndarray, " v"]
    successes: Int[np.ndarray, " v"]
    group_size: Int[np.ndarray, " v"]


def checked_visits(prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike, num_prompts: int) -> Visits:
    """Check a user's ids and counts and merge them as `merge_visits` does. A scalar `group_size` holds for all rows.

    Raises:
        ValueError: The lengths differ, an id is not a row of the pool, or a prompt's rollouts sum to 2^24 or more. Also
            for counts that are not integers with 0 <= successes <= group_size; successes may be booleans.
    """
    return merged(*check_counts(prompt_ids, successes, group_size, num_prompts))


def check_counts(
    prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike, num_prompts: int
) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """Return a user's ids, successes and group sizes as they are, as int32, after the checks of `checked_visits`."""
    ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=num_prompts)
    if np.ndim(group_size) == 0:
        group_size = np.full(len(ids), group_size)
    s = _validate.integers("successes", _counted(successes), low=0, high=LARGEST_COUNT)
    n = _validate.integers("group_size", group_size, low=0, high=LARGEST_COUNT)
    _one_entry_each(ids, s, n)
    if (s > n).any():
        at = int(np.argmax(s > n))
        raise ValueError(f"successes[{at}] is {s[at]} of {n[at]} rollouts; give successes <= group_size")
    return ids, s, n


def merged(ids: Int[np.ndarray, " b"], successes: Int[np.ndarray, " b"], group_size: Int[np.ndarray, " b"]) -> Visits:
    """Return visits: the counts of repeated ids are summed, and rows without rollouts are dropped.

    Raises:
        ValueError: The rollouts of one prompt sum to 2^24 or more.
    """
    rows = np.flatnonzero(group_size)
    rows = rows[ids[rows].argsort()]
    ids = ids[rows]
    # first row of each id; np.unique and np.bincount would double the time of this function
    first = np.flatnonzero(np.concatenate([ids[:1] >= 0, ids[1:] != ids[:-1]]))
    s, n = (np.add.reduceat(column[rows], first, dtype=np.int64) for column in (successes, group_size))
    if (n >= LARGEST_COUNT).any():
        at = int(np.argmax(n))
        total = f"the group_size of prompt {ids[first[at]]} sums to {n[at]} in one step"
        raise ValueError(f"{total}; give at most {LARGEST_COUNT - 1} rollouts per prompt and step")
    return Visits(ids[first], s.astype(np.int32), n.astype(np.int32))


def are_above(rewards: ArrayLike, threshold: float) -> Bool[np.ndarray, "*shape"]:
    """Return which rewards are larger than the threshold, in float32.

    Trainers hold rewards in float32, where 0.1 is larger than Python's 0.1: without rounding, a reward of 0.1 would
    exceed a threshold of 0.1.
    """
    with np.errstate(over="ignore"):
        return np.asarray(rewards, np.float32) > np.float32(threshold)


def _counted(successes: ArrayLike) -> ArrayLike:
    """Return booleans as 0 and 1, and any other value unchanged."""
    if np.ma.is_masked(successes):  # `_validate.integers` raises the error for this value
        return successes
    try:
        array = np.asarray(successes)
    except (TypeError, ValueError, RuntimeError):  # `_validate.integers` raises the error for this value
        return successes
    return array.astype(np.int32) if array.dtype.kind == "b" else successes


def checked_ids(
    prompt_ids: ArrayLike, successes: Int[Array, " b"], group_size: Int[Array, " b"], num_prompts: int
) -> Int[np.ndarray, " b"]:
    """Return the ids after a check of the ids and of the counts' shapes. The values of the counts are not checked.

    Raises:
        ValueError: A count is not an array or not a vector, the lengths differ, or an id is not a row of the pool.
    """
    ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=num_prompts)
    if np.ndim(successes) != 1 or np.ndim(group_size) != 1:
        shapes = f"successes has shape {np.shape(successes)} and group_size {np.shape(group_size)}"
        raise ValueError(f"{shapes}; give vectors with one entry per prompt")
    for name, counts in (("successes", successes), ("group_size", group_size)):
        if not isinstance(counts, jax.Array | np.ndarray):
            raise ValueError(
                f"{name} is of type {type(counts).__name__}; give a JAX array, for a torch tensor "
                "jax.dlpack.from_dlpack(tensor), or call observe"
            )
    _one_entry_each(ids, successes, group_size)
    return ids


def _one_entry_each(ids: Sized, successes: Sized, group_size: Sized) -> None:
    if not len(ids) == len(successes) == len(group_size):
        lengths = f"{len(ids)} prompt_ids, {len(successes)} successes and {len(group_size)} group_size"
        raise ValueError(f"there are {lengths}; give one entry per prompt")


@jax.jit
def merge_visits(rollouts: Rollouts, num_prompts: int | Int[Array, ""]) -> Rollouts:
    """Sum the counts of repeated ids. Rows without information get the id `num_prompts`, which `mode="drop"` ignores.

    A row holds no information if n = 0, if its id is not in the pool, or if its counts were merged into another row.
    The number of rows therefore does not change.
    """
    ids = rollouts.prompt_ids.astype(jnp.int32)
    known = (ids >= 0) & (ids < num_prompts) & (rollouts.group_size > 0)
    unique, position = jnp.unique(
        jnp.where(known, ids, num_prompts), size=ids.shape[0], fill_value=num_prompts, return_inverse=True
    )
    zeros = jnp.zeros_like(ids)
    return Rollouts(
        unique,
        zeros.at[position].add(jnp.where(known, rollouts.successes, 0).astype(jnp.int32)),
        zeros.at[position].add(jnp.where(known, rollouts.group_size, 0).astype(jnp.int32)),
    )


def accumulated(
    successes: Float[Array, " N"],
    failures: Float[Array, " N"],
    visits: Rollouts,
    discount: Float[Array, " b"] | Scalar,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Return the discounted sums S of successes and F of failures, after these visits.

    For the prompts in the merged `visits`, S <- d * S + s and F <- d * F + (n - s) with d = `discount`.
    """
    ids = visits.prompt_ids

    def visit(evidence: Float[Array, " N"], observed: Int[Array, " b"]) -> Float[Array, " N"]:
        return evidence.at[ids].set(discount * evidence[ids] + observed.astype(evidence.dtype), mode="drop")

    return visit(successes, visits.successes), visit(failures, visits.group_size - visits.successes)


def solve_states(
    successes: Int[Array | np.ndarray, " m"], group_size: Int[Array | np.ndarray, " m"]
) -> Int[Array, " m"]:
    """Return UNSOLVED, MIXED or SOLVED for each group of at least one rollout."""
    return jnp.where(successes == 0, UNSOLVED, jnp.where(successes == group_size, SOLVED, MIXED))
