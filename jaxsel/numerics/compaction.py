"""Positions and number of the true entries of a mask, without a sort and without a prefix sum over all its entries.

The mask is packed into words of 32 bits, which XLA's CPU backend does in one vectorised pass. To sum the mask itself,
the backend would first write its entries to memory as numbers.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

_WORD = 32


@functools.partial(jax.jit, static_argnums=1)
def true_positions(mask: Bool[Array, " m"], capacity: int) -> Int[Array, " {capacity}"]:
    """Return the first `capacity` positions at which `mask` is true, in ascending order and padded with m.

    `jnp.nonzero(mask, size=capacity)` sums and scatters m numbers. This function packs m bits into words and sums the
    counts of the words. It then finds each position: the word by bisection, the bit in the word by halving.
    """
    words = _packed(mask)
    ends = jnp.cumsum(jax.lax.population_count(words), dtype=jnp.int32)
    rank = jnp.arange(capacity, dtype=jnp.int32)
    word = jnp.searchsorted(ends, rank, side="right").astype(jnp.int32)
    within = jnp.minimum(word, words.shape[0] - 1)
    rank_in_word = rank - jnp.where(within > 0, ends[within - 1], 0)
    position = word * _WORD + _position_of_bit(words[within], rank_in_word)
    return jnp.where(rank < ends[-1], position, mask.shape[0])


def count_true(mask: Bool[Array, " m"]) -> Int[Array, ""]:
    """Return the number of true entries."""
    return jax.lax.population_count(_packed(mask)).sum(dtype=jnp.int32)


def _packed(mask: Bool[Array, " m"]) -> UInt32[Array, " w"]:
    """Return the mask as words of 32 bits, at least one. The last word is padded with false."""
    num_words = max(1, -(-mask.shape[0] // _WORD))
    bits = jnp.pad(mask, (0, num_words * _WORD - mask.shape[0])).reshape(num_words, _WORD)
    place = jnp.uint32(1) << jnp.arange(_WORD, dtype=jnp.uint32)
    return jnp.where(bits, place, jnp.uint32(0)).sum(1, dtype=jnp.uint32)


def _position_of_bit(word: UInt32[Array, " c"], rank: Int[Array, " c"]) -> Int[Array, " c"]:
    """Return the position of the set bit with this rank in each word. The lowest set bit has the rank 0."""
    position = jnp.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        low = word & ((jnp.uint32(1) << width) - jnp.uint32(1))
        count = jax.lax.population_count(low).astype(jnp.int32)
        is_above = rank >= count
        rank = jnp.where(is_above, rank - count, rank)
        word = jnp.where(is_above, word >> width, low)
        position = jnp.where(is_above, position + width, position)
    return position
