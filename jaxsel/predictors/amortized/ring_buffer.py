"""A ring buffer of the last batches of visits, with arrays of one shape for batches of all sizes.

A visit holds one prompt's counts of successes and rollouts in one step. An entry with a group size of 0 is padding.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxsel.base import Rollouts


def empty_ring_buffer(length: int, batch_size: int) -> Rollouts:
    """Return an empty buffer for `length` batches of at most `batch_size` visits."""
    return Rollouts(*(jnp.zeros((length, batch_size), jnp.int32) for _ in Rollouts._fields))


def pushed(buffer: Rollouts, step: Int[Array, ""], batch: Rollouts) -> Rollouts:
    """Return the buffer with the batch of this step in place of the buffer's oldest batch."""
    slot = step % buffer.prompt_ids.shape[0]
    return jax.tree.map(lambda column, new: column.at[slot].set(new), buffer, batch)


def batches_of(buffer: Rollouts, steps: Int[Array, " p"]) -> Rollouts:
    """Return the batches of these steps; a batch before step 0 is empty."""
    batches = jax.tree.map(lambda column: column[steps % buffer.prompt_ids.shape[0]], buffer)
    return batches._replace(group_size=jnp.where(steps[:, None] < 0, 0, batches.group_size))


def at_most(key: Key[Array, ""], visits: Rollouts, count: int) -> Rollouts:
    """Return `count` visits: a random choice if there are more, with padding if there are fewer."""
    columns = [jnp.pad(column, (0, max(0, count - len(column)))) for column in visits]
    known = columns[2] > 0
    chosen = jax.lax.top_k(jnp.where(known, jax.random.uniform(key, known.shape, jnp.float32), -1.0), count)[1]
    return Rollouts(*(jnp.where(known, column, 0)[chosen] for column in columns))
