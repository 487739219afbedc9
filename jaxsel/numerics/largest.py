"""The exact k-th largest entry of an array, on a CPU without a sort of large arrays."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxsel.numerics import devices
from jaxsel.numerics.compaction import count_true, true_positions

_SAMPLE = 16_384  # size of the sample
_DEVIATIONS = 6.0  # margin of the bound, in standard deviations of the sample's counts


def kth_largest(values: Float[Array, " m"], k: int | Int[Array, ""], at_most: int | None = None) -> Float[Array, ""]:
    """Return the k-th largest entry of `values`, 1 <= k <= m. NaN counts as minus infinity.

    A traced k needs `at_most`, a static upper bound of k. One compilation then serves every k up to the bound.

    A sample of the values at regular positions gives a bound that slightly more than k values reach. These values are
    gathered, and 32 counts find the answer among them, one bit each. If the sample misleads, the counts go over all
    values. `jax.lax.top_k` handles arrays of fewer than 32,768 values, and a k above about a fifth of the values. On a
    GPU it handles all arrays, because it sorts 1e6 values in a sixth of the time of the branches and loops.
    """
    size = values.shape[0]
    stride = size // _SAMPLE
    bound_of_k = int(k) if at_most is None else at_most
    expected = bound_of_k / stride if stride else 0.0
    sample_rank = math.ceil(expected + _DEVIATIONS * math.sqrt(expected + 1))
    capacity = math.ceil(stride * (sample_rank + _DEVIATIONS * math.sqrt(sample_rank)))
    if stride < 2 or capacity > size // 4 or not devices.for_a_cpu():
        return top_k(values, bound_of_k)[0][k - 1]

    bound = top_k(values[: stride * _SAMPLE : stride], sample_rank)[0][-1]
    above, at_least = count_true(values > bound), count_true(values >= bound)
    few_enough = at_least <= capacity  # if not, many values equal the bound, and only larger values are gathered

    def among_the_gathered() -> Float[Array, ""]:
        position = true_positions((values > bound) | (few_enough & (values == bound)), capacity)
        gathered = jnp.where(position < size, values[jnp.minimum(position, size - 1)], -jnp.inf)
        return _kth_largest_by_bits(gathered, k)  # in the CPU's cache, where counting is faster than ranking

    def on_the_bound_or_anywhere() -> Float[Array, ""]:
        return jax.lax.cond((above < k) & (k <= at_least), lambda: bound, lambda: _kth_largest_by_bits(values, k))

    num_gathered = jnp.where(few_enough, at_least, above)
    gathered_hold_it = (k <= num_gathered) & (num_gathered <= capacity)
    return jax.lax.cond(gathered_hold_it, among_the_gathered, on_the_bound_or_anywhere)


def top_k(values: Float[Array, " m"], k: int) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
    """Return the k largest values and their positions. NaN counts as minus infinity.

    This is `jax.lax.top_k` behind a barrier. Without the barrier, XLA's CPU backend sorts all values if the result is
    sliced. Each result has its own barrier: on a mesh the CPU backend of jaxlib 0.10.2 aborts on a barrier of the pair.
    """
    largest, positions = jax.lax.top_k(_without_nan(values), k)
    return jax.lax.optimization_barrier(largest), jax.lax.optimization_barrier(positions)


def _without_nan(values: Float[Array, " m"]) -> Float[Array, " m"]:
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def _kth_largest_by_bits(values: Float[Array, " m"], k: int | Int[Array, ""]) -> Float[Array, ""]:
    """Return the largest number that at least k values reach.

    The values are mapped to integers in the same order, and the number's bits are found from the highest to the lowest.
    """
    ordered = _to_ordered(values)

    def with_next_bit(bit: Int[Array, ""], found: UInt32[Array, ""]) -> UInt32[Array, ""]:
        trial = found | (jnp.uint32(1) << (31 - bit).astype(jnp.uint32))
        return jnp.where(count_true(ordered >= trial) >= k, trial, found)

    return _from_ordered(jax.lax.fori_loop(0, 32, with_next_bit, jnp.uint32(0)))


_SIGN = np.uint32(1 << 31)


def _to_ordered(values: Float[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    bits = jax.lax.bitcast_convert_type(_without_nan(values) + 0.0, jnp.uint32)  # + 0.0 turns minus zero into zero
    is_negative: Bool[Array, "*shape"] = (bits & _SIGN) != 0
    return jnp.where(is_negative, ~bits, bits | _SIGN)


def _from_ordered(ordered: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    bits = jnp.where((ordered & _SIGN) != 0, ordered & ~_SIGN, ~ordered)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
