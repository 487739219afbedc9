"""The features phi of a prompt: its embedding, standardised to mean 0 and variance 1 over the pool, and a constant."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsel.numerics import devices
from jaxsel.predictors.embeddings import blocks, standardisation
from jaxsel.predictors.state_space.weights import Weights

_NUMBERS = 2**20  # numbers per block on a CPU: the block and its products stay in the cache
_ROWS = 2**14  # rows per block on a GPU
_LONG = 64  # numbers of a long embedding
_SAMPLE = 2**12


class Scaling(NamedTuple):
    """The affine map from embeddings to features.

    Attributes:
        shift: Mean of each feature over the pool.
        scale: Reciprocal standard deviation of each feature; 0 for a feature that does not vary.
    """

    shift: Float[Array | np.ndarray, " d"]
    scale: Float[Array | np.ndarray, " d"]

    def __call__(self, embeddings: Float[Array, "m d"]) -> Float[Array, "m f"]:
        """Return the features in float32, the constant 1 last; f = d + 1."""
        centred = (embeddings.astype(jnp.float32) - self.shift[None]) * self.scale[None]
        return jnp.concatenate([centred, jnp.ones_like(centred[:, :1])], 1)


def scaling_of(embeddings: Float[np.ndarray | Array, "N d"]) -> Scaling:
    """Return the scaling that standardises the features over the pool."""
    return Scaling(*standardisation(blocks(embeddings)))


class Forms(NamedTuple):
    """The shared part of m prompts' logits, from their features phi, the weights w and the drift d (see `weights`).

    Attributes:
        mean: phi . w, at the mean of w.
        drift: phi . d, at the mean of d.
        variance: The variance of phi . (w + d).
    """

    mean: Float[Array, " m"]
    drift: Float[Array, " m"]
    variance: Float[Array, " m"]


def linear_forms(embeddings: Float[Array, "N d"], scaling: Scaling, weights: Weights, *, alike: bool = False) -> Forms:
    """Return the shared part of the logits of all rows of the embeddings.

    The variances take most of the time, because they need the product of all features with f columns.

    Args:
        embeddings: One row per prompt.
        scaling: Map from embeddings to features.
        weights: The belief about w and d; g = 2 f.
        alike: Whether all rows get the same variance, the mean over `_SAMPLE` rows that are spread over the pool.
    """
    size, features, root = embeddings.shape[0], len(weights.initial), weights.root
    root_of_sum = jnp.linalg.qr((root[:features] + root[features:]).T, mode="r").T  # of w + d, f columns instead of 2 f
    columns = jnp.concatenate([weights.initial[:, None], weights.drift[:, None], root_of_sum], 1)
    # columns and constants absorb the affine map, so that no features are computed for the whole pool
    scale = jnp.asarray(scaling.scale)
    constants = columns[-1] - (scaling.shift * scale) @ columns[:-1]
    columns = scale[:, None] * columns[:-1]
    if not alike or size <= _SAMPLE:
        return _in_blocks(embeddings, columns, constants)
    variance = _products(embeddings[:: size // _SAMPLE][:_SAMPLE], columns, constants).variance.mean()
    return _in_blocks(embeddings, columns[:, :2], constants[:2])._replace(variance=jnp.full(size, variance))


def _in_blocks(embeddings: Float[Array, "N d"], columns: Float[Array, "d c"], constants: Float[Array, " c"]) -> Forms:
    size, length = embeddings.shape
    rows = min(size, max(_NUMBERS // length, 1) if devices.for_a_cpu() else _ROWS)

    def one_block(number: Int[Array, ""], forms: Forms) -> Forms:
        # the last block ends at the end of the pool and overlaps with the block before it
        start = jnp.minimum(number * rows, size - rows)
        products = _products(jax.lax.dynamic_slice_in_dim(embeddings, start, rows), columns, constants)
        return jax.tree.map(lambda form, new: jax.lax.dynamic_update_slice_in_dim(form, new, start, 0), forms, products)

    if size == rows:
        return _products(embeddings, columns, constants)
    empty = Forms(*(jnp.zeros(size, jnp.float32) for _ in Forms._fields))
    return jax.lax.fori_loop(0, -(-size // rows), one_block, empty)


@jax.jit
def _products(embeddings: Float[Array, "m d"], columns: Float[Array, "d c"], constants: Float[Array, " c"]) -> Forms:
    """Return the forms of some rows. The columns after the first two are a lower triangle.

    So with long embeddings, half of the columns are multiplied with half of the numbers alone.
    """
    numbers, length = embeddings.astype(jnp.float32), embeddings.shape[1]
    half = length // 2 if length >= _LONG else length
    product = numbers @ columns[:, : half + 2] + constants[None, : half + 2]
    variance = (product[:, 2:] ** 2).sum(1)
    if half + 2 < len(constants):
        variance += ((numbers[:, half:] @ columns[half:, half + 2 :] + constants[None, half + 2 :]) ** 2).sum(1)
    return Forms(product[:, 0], product[:, 1], variance)
