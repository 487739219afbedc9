"""The choice of the k largest scores, with ties broken at random. All rules use it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel.base import State
from jaxsel.numerics import random
from jaxsel.numerics.compaction import count_true, true_positions
from jaxsel.numerics.fusion import computed_once
from jaxsel.numerics.largest import kth_largest


def choose_top_k(
    key: Key[Array, ""],
    scores: Float[Array, " m"],
    batch_size: int,
    prompt_ids: Int[Array, " m"] | None = None,
    state: State = None,
    count: Int[Array, ""] | None = None,
) -> Int[Array, " b"]:
    """Return the ascending positions of the `batch_size` largest scores, see `Rule.choose`.

    Ties with the smallest chosen score are broken at random, so that a pool without observations does not always give
    its first rows. The random numbers depend on the key and the prompt ids alone. The choices from the parts of a pool
    therefore contain the choice from the pool. Scores of minus infinity and NaN are chosen when no other scores are
    left. Rows with an id below 0 come last of all.

    With `count`, which may be traced and is at most `batch_size`, `count` positions are chosen. The number m of scores,
    which is no position, pads the result.
    """
    del state
    scores = scores.astype(jnp.float32)
    wanted = batch_size if count is None else count
    values = computed_once(scores if prompt_ids is None else jnp.where(prompt_ids < 0, -jnp.inf, scores))
    threshold = kth_largest(values, wanted, batch_size)
    reaches = (values >= threshold) | (jnp.isnan(values) & (threshold == -jnp.inf))

    def with_ties_broken() -> Bool[Array, " m"]:
        draw = random.uniform(key, ids_or_positions(prompt_ids, scores))
        # the smallest draw wins: floating-point numbers are finest near 0
        rank = jnp.where(values > threshold, 1.0, jnp.where(reaches, -draw, -2.0))
        if prompt_ids is not None:
            rank = jnp.where(prompt_ids < 0, -3.0, rank)
        last = kth_largest(rank, wanted, batch_size)
        # several rows have the last rank if draws collide, or if there are fewer prompts than wanted
        return jax.lax.cond(
            count_true(rank >= last) == wanted, lambda: rank >= last, lambda: _first(rank, last, wanted)
        )

    chosen = jax.lax.cond(count_true(reaches) > wanted, with_ties_broken, lambda: reaches)
    return true_positions(chosen, batch_size)


def _first(rank: Float[Array, " m"], last: Float[Array, ""], wanted: int | Int[Array, ""]) -> Bool[Array, " m"]:
    """Return a mask of `wanted` entries: of all ranks above `last`, and of the first ranks equal to `last`."""
    above, equal = rank > last, rank == last
    return above | (equal & (jnp.cumsum(equal, dtype=jnp.int32) <= wanted - count_true(above)))


def ids_or_positions(prompt_ids: Int[Array, " m"] | None, scores: Float[Array, " m"]) -> Int[Array, " m"]:
    """Return the prompt ids; without ids, the positions of the scores."""
    return jnp.arange(scores.shape[0], dtype=jnp.int32) if prompt_ids is None else prompt_ids


def scores_and_ids(
    positions: Int[Array, " b"], scores: Float[Array, " m"], prompt_ids: Int[Array, " m"] | None
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
    """Return the scores and ids at the positions. The position m, the padding, gives minus infinity and -1."""
    is_position = positions < len(scores)
    at = jnp.minimum(positions, len(scores) - 1)
    ids = at if prompt_ids is None else prompt_ids[at]
    return jnp.where(is_position, scores[at], -jnp.inf), jnp.where(is_position, ids, -1)
