"""Where a mask is true, and how often, without a sort and without a prefix sum over the whole of it.

All goes through words of 32 bits: XLA's CPU backend packs rows of 32 in one vectorised pass, while it writes out what a
sum over the whole array would add, number by number, first.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

_WORD = 32


def true_positions(mask: Bool[Array, " m"], capacity: int) -> Int[Array, " {capacity}"]:
    """The first `capacity` positions at which `mask` is true, ascending; filled up with m.

    `jnp.nonzero(mask, size=capacity)` sums and scatters m numbers. Here m bits are packed into words, the words' counts
    are summed, and each position is looked up: a word by bisection, a bit in it by halving.
    """
    words = _packed(mask)
    ends = jnp.cumsum(jax.lax.population_count(words).astype(jnp.int32))
    rank = jnp.arange(capacity, dtype=jnp.int32)
    word = jnp.searchsorted(ends, rank, side="right").astype(jnp.int32)
    within = jnp.minimum(word, words.shape[0] - 1)
    rank_in_word = rank - jnp.where(within > 0, ends[within - 1], 0)
    position = word * _WORD + _position_of_bit(words[within], rank_in_word)
    return jnp.where(rank < ends[-1], position, mask.shape[0])


def count_true(mask: Bool[Array, " m"]) -> Int[Array, ""]:
    """How many are true."""
    return jax.lax.population_count(_packed(mask)).astype(jnp.int32).sum()


def _packed(mask: Bool[Array, " m"]) -> UInt32[Array, " w"]:
    """At least one word; what the last one has too much is false."""
    num_words = max(1, -(-mask.shape[0] // _WORD))
    bits = jnp.pad(mask, (0, num_words * _WORD - mask.shape[0])).reshape(num_words, _WORD)
    place = jnp.uint32(1) << jnp.arange(_WORD, dtype=jnp.uint32)
    return jnp.where(bits, place, jnp.uint32(0)).sum(1, dtype=jnp.uint32)


def _position_of_bit(word: UInt32[Array, " c"], rank: Int[Array, " c"]) -> Int[Array, " c"]:
    """Where in the word its bit number `rank` is that is set, counted from the lowest."""
    position = jnp.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        low = word & ((jnp.uint32(1) << width) - jnp.uint32(1))
        count = jax.lax.population_count(low).astype(jnp.int32)
        is_above = rank >= count
        rank = jnp.where(is_above, rank - count, rank)
        word = jnp.where(is_above, word >> width, low)
        position = jnp.where(is_above, position + width, position)
    return position
