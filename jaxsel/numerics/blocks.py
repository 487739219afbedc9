"""A function of many rows, computed on some at a time, so that what it computes on the way needs little memory."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

_Result = TypeVar("_Result")


def in_blocks(function: Callable[..., _Result], block_size: int, *columns: Shaped[Array, " m"]) -> _Result:
    """Return the function of all rows of the columns, a vector with one entry per row or a tree of such vectors.

    The last block repeats its last row until it is full.
    """
    size = columns[0].shape[0]
    if size <= block_size:
        return function(*columns)
    blocks = [jnp.pad(column, (0, -size % block_size), mode="edge").reshape(-1, block_size) for column in columns]
    found = jax.lax.map(lambda block: function(*block), blocks)
    return jax.tree.map(lambda field: field.reshape(-1)[:size], found)
