"""Weighted sums over rows. A row of weight 0 may hold any value, including NaN.

Metrics are often called outside of `jax.jit`, where every operation compiles a program for each number of rows. So the
functions that are made of many operations are compiled as one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Num

AnyArray = Array | np.ndarray
Weights = Float[AnyArray, " m"] | Bool[AnyArray, " m"] | None

_LANES = 256


def counted(
    weights: Weights, **columns: Num[AnyArray, " m"] | Bool[AnyArray, " m"]
) -> tuple[Num[Array, " m"] | Bool[Array, " m"], ...]:
    """Return the weights as float32 (ones for None), and the columns with zeros in rows of weight 0.

    Numbers become float32 and int32: neither the precision of a sum nor a difference of counts should depend on how the
    numbers were stored, and numbers of one type need no promotion, which JAX's settings can forbid.

    Raises:
        ValueError: The columns are not vectors, their lengths differ, or a weight is negative, infinite or NaN.
    """
    rows = np.shape(next(iter(columns.values())))
    if weights is not None:
        columns = {**columns, "weights": weights}
    if len(rows) != 1 or any(np.shape(column) != rows for column in columns.values()):
        shapes = ", ".join(f"{name} has shape {np.shape(column)}" for name, column in columns.items())
        raise ValueError(f"{shapes}; give vectors of one length")
    if weights is None:
        return jnp.ones(rows, jnp.float32), *map(_in_32_bits, columns.values())
    del columns["weights"]
    weights = checked(weights)
    arrays = map(_in_32_bits, columns.values())
    return weights, *(jnp.where(weights > 0, array, jnp.zeros_like(array)) for array in arrays)


def checked(weights: Float[AnyArray, " m"] | Bool[AnyArray, " m"]) -> Float[Array, " m"]:
    """Return the weights in float32; numbers that are known outside of `jax.jit` are checked."""
    if not isinstance(weights, Tracer):
        given = np.ma.filled(np.ma.asarray(weights).astype(np.float32), np.nan)
        right = (given >= 0) & (given < np.inf)
        if not right.all():
            at = int(np.argmin(right))
            raise ValueError(f"weights[{at}] is {given.flat[at]:g}; give finite numbers of at least 0")
    return jnp.asarray(weights, jnp.float32)


def _in_32_bits(column: Num[AnyArray, " m"] | Bool[AnyArray, " m"]) -> Num[Array, " m"] | Bool[Array, " m"]:
    array = jnp.asarray(column)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.float32)
    return array.astype(jnp.int32) if jnp.issubdtype(array.dtype, jnp.integer) else array


@jax.jit
def ratio(numerator: Float[Array, "*shape"], denominator: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return numerator / denominator, or NaN for a denominator of 0. The gradient is finite everywhere."""
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1), jnp.nan)


def root(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the square root, with a finite gradient at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), x)


@jax.jit
def mean(values: Num[Array, " m"] | Bool[Array, " m"], weights: Float[Array, " m"]) -> Float[Array, ""]:
    """Return the weighted mean, or NaN if all weights are 0."""
    return ratio(jnp.sum(weights * values.astype(weights.dtype)), jnp.sum(weights))


@functools.partial(jax.jit, static_argnums=2)
def bin_sums(values: Float[Array, " m"], bins: Int[Array, " m"], num_bins: int) -> Float[Array, " {num_bins}"]:
    """Return the sum of the values in each bin."""
    # 256 partial sums per bin, because adding a million numbers one after the other would lose the last four digits
    lane = bins.astype(jnp.int32) * _LANES + jnp.arange(bins.shape[0], dtype=jnp.int32) % _LANES
    return jax.ops.segment_sum(values, lane, num_bins * _LANES).reshape(num_bins, _LANES).sum(axis=1)


@jax.jit
def mid_ranks(x: Float[Array, " m"], weights: Float[Array, " m"]) -> Float[Array, " m"]:
    """Return the share of the weight below each entry, plus half the share of equal entries. NaN stays NaN."""
    if not x.size:
        return x
    order = jnp.argsort(x)
    x_sorted, rows = x[order], jnp.arange(x.size)
    weight_up_to = jnp.cumsum(weights[order])
    new = x_sorted[1:] != x_sorted[:-1]
    end = jnp.ones(1, bool)
    first = jax.lax.cummax(jnp.where(jnp.concatenate([end, new]), rows, 0))
    last = jax.lax.cummin(jnp.where(jnp.concatenate([new, end]), rows, x.size - 1), reverse=True)
    below = jnp.concatenate([jnp.zeros(1, weights.dtype), weight_up_to[:-1]])[first]
    ranks = ratio((below + weight_up_to[last]) / 2, jnp.broadcast_to(weight_up_to[-1], x.shape))
    return jnp.where(jnp.isnan(x), jnp.nan, jnp.zeros_like(ranks).at[order].set(ranks, unique_indices=True))
