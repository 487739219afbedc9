"""What rollouts say: one row a visited prompt, and its solve state."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.base import MIXED, SOLVED, UNSOLVED, Rollouts

_LARGEST_COUNT = 2**24  # float32 counts whole numbers up to here


class Visits(NamedTuple):
    """Rollouts on the host: one row a visited prompt, n > 0."""

    prompt_ids: Int[np.ndarray, " v"]
    successes: Int[np.ndarray, " v"]
    group_size: Int[np.ndarray, " v"]


def checked_visits(prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike, num_prompts: int) -> Visits:
    """What `merge_visits` does, for array-likes that may be wrong; a single `group_size` is one for all.

    Raises:
        ValueError: lengths that differ, ids that are no rows of the pool, counts that are not integers with
            0 <= successes <= group_size.
    """
    ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=num_prompts)
    if np.ndim(group_size) == 0:
        group_size = np.full(len(ids), group_size)
    s = _validate.integers("successes", successes, low=0, high=_LARGEST_COUNT)
    n = _validate.integers("group_size", group_size, low=0, high=_LARGEST_COUNT)
    if not len(ids) == len(s) == len(n):
        lengths = f"{len(ids)} prompt_ids, {len(s)} successes and {len(n)} group_size"
        raise ValueError(f"there are {lengths}; give one entry a prompt")
    if (s > n).any():
        at = int(np.argmax(s > n))
        raise ValueError(f"successes[{at}] is {s[at]} of {n[at]} rollouts; give successes <= group_size")
    unique, position = np.unique(ids[n > 0], return_inverse=True)
    sums = (np.bincount(position, column[n > 0], len(unique)).astype(np.int32) for column in (s, n))
    return Visits(unique, *sums)


def merge_visits(rollouts: Rollouts, num_prompts: int) -> Rollouts:
    """Sums repeated ids, and points rows without information at `num_prompts`, which `mode="drop"` ignores.

    Rows without information are those with n = 0 and those whose id is not in the pool. The length stays as it was;
    what the merging leaves over points outside the pool too.
    """
    ids = rollouts.prompt_ids
    known = (ids >= 0) & (ids < num_prompts) & (rollouts.group_size > 0)
    unique, position = jnp.unique(
        jnp.where(known, ids, num_prompts), size=ids.shape[0], fill_value=num_prompts, return_inverse=True
    )
    zeros = jnp.zeros_like(ids)
    return Rollouts(
        unique,
        zeros.at[position].add(jnp.where(known, rollouts.successes, 0)),
        zeros.at[position].add(jnp.where(known, rollouts.group_size, 0)),
    )


def solve_states(
    successes: Int[Array | np.ndarray, " m"], group_size: Int[Array | np.ndarray, " m"]
) -> Int[Array, " m"]:
    """UNSOLVED, MIXED or SOLVED, for groups of at least one rollout."""
    return jnp.where(successes == 0, UNSOLVED, jnp.where(successes == group_size, SOLVED, MIXED))
