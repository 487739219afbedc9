"""Arrays with one entry per prompt, for a changed pool: prompts that stay keep their entries, new prompts get new ones.

`rows[i]` is the row in the old pool of prompt i of the new pool, or -1 for a new prompt.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from jaxsel.base import Rollouts, State


def moved(
    old: Shaped[Array | np.ndarray, "*axes O"],
    fresh: Shaped[Array | np.ndarray, "*axes N"],
    rows: Int[np.ndarray, " N"],
) -> Shaped[Array, "*axes N"]:
    """Return entry `rows[i]` of `old` as entry i, and entry i of `fresh` where `rows[i]` is -1."""
    return jnp.where(rows >= 0, jnp.asarray(old)[..., np.maximum(rows, 0)], jnp.asarray(fresh))


def with_moved(state: Any, fresh: Any, names: tuple[str, ...], rows: Int[np.ndarray, " N"]) -> Any:
    """Return the NamedTuple `state` with its named fields moved to the new rows, see `moved`."""
    return state._replace(**{name: moved(getattr(state, name), getattr(fresh, name), rows) for name in names})


def new_rows(rows: Int[np.ndarray, " N"], num_old: int) -> Int[np.ndarray, " O"]:
    """Return the new row of every old row; -1 for a prompt that is no longer in the pool."""
    inverse = np.full(num_old, -1, np.int32)
    stays = np.flatnonzero(rows >= 0)
    inverse[rows[stays]] = stays
    return inverse


def renumbered(batches: Rollouts, rows: Int[np.ndarray, " N"], num_old: int) -> Rollouts:
    """Return the batches with new ids. A prompt that left the pool becomes padding, with a group size of 0."""
    ids = new_rows(rows, num_old)[np.asarray(batches.prompt_ids)]
    columns = (np.where(ids >= 0, column, 0) for column in (ids, batches.successes, batches.group_size))
    return Rollouts(*map(jnp.asarray, columns))


def on_changed_pool(state: State, rows: Int[np.ndarray, " N"], fresh: State) -> State:
    """Return the state for a changed pool, by the method `with_rows` of the state (see `StateMethods`).

    Raises:
        ValueError: The state has no such method.
    """
    if not callable(getattr(state, "with_rows", None)):
        raise ValueError(f"the state {type(state).__name__} has no with_rows(); write one, see StateMethods")
    return state.with_rows(rows, fresh)
