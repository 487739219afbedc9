"""The last batches of visits, as a ring of arrays of one shape, whatever the batches' sizes.

A group size of 0 is no visit.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxsel.base import Rollouts


def empty_ring(length: int, batch_size: int) -> Rollouts:
    """Room for `length` batches of at most `batch_size` visits."""
    return Rollouts(*(jnp.zeros((length, batch_size), jnp.int32) for _ in Rollouts._fields))


def pushed(ring: Rollouts, step: Int[Array, ""], batch: Rollouts) -> Rollouts:
    """The ring with the batch of this step in place of its oldest."""
    slot = step % ring.prompt_ids.shape[0]
    return jax.tree.map(lambda column, new: column.at[slot].set(new), ring, batch)


def batches_of(ring: Rollouts, steps: Int[Array, " p"]) -> Rollouts:
    """The batches of these steps; before step 0 nothing was observed."""
    batches = jax.tree.map(lambda column: column[steps % ring.prompt_ids.shape[0]], ring)
    return batches._replace(group_size=jnp.where(steps[:, None] < 0, 0, batches.group_size))


def at_most(key: Key[Array, ""], visits: Rollouts, count: int) -> Rollouts:
    """`count` visits: random ones where there are more, rows of nothing where there are fewer."""
    columns = [jnp.pad(column, (0, max(0, count - len(column)))) for column in visits]
    known = columns[2] > 0
    chosen = jax.lax.top_k(jnp.where(known, jax.random.uniform(key, known.shape, jnp.float32), -1.0), count)[1]
    return Rollouts(*(jnp.where(known, column, 0)[chosen] for column in columns))
