"""The features that the shared weights read: embeddings at mean 0 and variance 1 over the pool, and a constant."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsel.predictors.embeddings import blocks

_ROWS = 2**14  # of the pool at a time: the products of a block stay in the cache


class Scaling(NamedTuple):
    """The affine map from embeddings to features.

    Attributes:
        shift: mean of every feature over the pool.
        scale: 1 / standard deviation; 0 for a feature that is the same everywhere.
    """

    shift: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]

    def __call__(self, embeddings: Float[Array, "m d"]) -> Float[Array, "m f"]:
        """Return the features in float32, the constant 1 last; f = d + 1."""
        centred = (embeddings.astype(jnp.float32) - self.shift[None]) * self.scale[None]
        return jnp.concatenate([centred, jnp.ones_like(centred[:, :1])], 1)


def scaling_of(embeddings: Float[np.ndarray | Array, "N d"]) -> Scaling:
    """Return the scaling by all rows of the pool, which are read a block at a time."""
    count, total, squares = len(embeddings), np.float64(0), np.float64(0)
    for block in blocks(embeddings):
        rows = np.asarray(block, np.float64)
        total, squares = total + rows.sum(0), squares + (rows**2).sum(0)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    varies = variance > 1e-10 * mean**2 + 1e-20
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)
    return Scaling(np.asarray(mean, np.float32), np.asarray(scale, np.float32))


class Forms(NamedTuple):
    """What the weights say of m prompts, with the features phi and a root R of the covariance of weights and level.

    Attributes:
        mean: phi . w.
        square: |R' phi|^2.
        cross: R' phi . R' (level).
    """

    mean: Float[Array, " m"]
    square: Float[Array, " m"]
    cross: Float[Array, " m"]


def linear_forms(
    embeddings: Float[Array, "N d"], scaling: Scaling, weights: Float[Array, " g"], root: Float[Array, "g g"]
) -> Forms:
    """Return the forms of all rows, a block of rows at a time; g = f + 1, the level last."""
    size = embeddings.shape[0]
    rows = min(size, _ROWS)
    columns = jnp.concatenate([weights[:-1, None], root[:-1] @ root[-1][:, None], root[:-1]], 1)
    # the affine map goes into the columns: the features themselves would take a pass over the pool
    scale = jnp.asarray(scaling.scale)
    constants = columns[-1] - (scaling.shift * scale) @ columns[:-1]
    columns = scale[:, None] * columns[:-1]

    def one_block(number: Int[Array, ""], forms: Forms) -> Forms:
        # the last block ends with the pool, and repeats rows of the block before it
        start = jnp.minimum(number * rows, size - rows)
        products = _products(jax.lax.dynamic_slice_in_dim(embeddings, start, rows), columns, constants)
        return jax.tree.map(lambda form, new: jax.lax.dynamic_update_slice_in_dim(form, new, start, 0), forms, products)

    if size == rows:
        return _products(embeddings, columns, constants)
    empty = Forms(*(jnp.zeros(size, jnp.float32) for _ in Forms._fields))
    return jax.lax.fori_loop(0, -(-size // rows), one_block, empty)


def _products(embeddings: Float[Array, "m d"], columns: Float[Array, "d c"], constants: Float[Array, " c"]) -> Forms:
    product = embeddings.astype(jnp.float32) @ columns + constants[None]
    return Forms(product[:, 0], (product[:, 2:] ** 2).sum(1), product[:, 1])
