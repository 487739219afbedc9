r"""Beta draws for whole arrays: one dense round of rejection sampling for all, then rounds for the rejected few.

A Beta draw is $X / (X + Y)$ with $X \sim \mathrm{Gamma}(a)$ and $Y \sim \mathrm{Gamma}(b)$, each by the squeeze of
Marsaglia and Tsang (ACM TOMS 26, 2000), both accepted or rejected together. Shapes below 1 use
$\mathrm{Gamma}(a) = \mathrm{Gamma}(a + 1)\, U^{1/a}$, all in logarithms, so that nothing under- or overflows.

The random bits are a hash of (key, round, word, index of the element): an element's draw depends on its own index and
parameters only, not on how many others there are or on which device they live. The hash is two rounds of a 32-bit
finalizer (Wellons' lowbias32) keyed by threefry: no cryptographic guarantee, and words of 2**32 elements apart repeat.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

_MAX_ROUNDS = 64  # each round rejects 10% at most
_WORDS = 6


def _mix(x: UInt32[Array, " m"]) -> UInt32[Array, " m"]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _uniform(words: UInt32[Array, " m"]) -> Float[Array, " m"]:
    """Uniform in (0, 1): 24 bits, in the middle of their interval."""
    return (jnp.float32(words >> 8) + 0.5) * jnp.float32(2**-24)


def _log_gamma_round(
    shape: Float[Array, " m"], x: Float[Array, " m"], uniform: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Bool[Array, " m"]]:
    """One proposal of log Gamma(shape), shape >= 1, from a normal x, and whether it is accepted."""
    d = shape - 1 / 3
    root = 1 + x * jax.lax.rsqrt(9 * d)
    log_v = 3 * jnp.log(jnp.maximum(root, 1e-30))
    accept = (root > 0) & (jnp.log(uniform) < 0.5 * x * x + d * (1 - root**3 + log_v))
    return jnp.log(d) + log_v, accept


def _beta_round(
    key: Key[Array, ""], index: Int[Array, " m"], a: Float[Array, " m"], b: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Bool[Array, " m"]]:
    """One proposal for every element, and whether it is accepted."""
    keys = jax.random.bits(key, (_WORDS, 2), jnp.uint32)

    def uniform(word):
        return _uniform(_mix(_mix(index.astype(jnp.uint32) ^ keys[word, 0]) ^ keys[word, 1]))

    radius, angle = jnp.sqrt(-2 * jnp.log(uniform(0))), 2 * jnp.pi * uniform(1)
    log_x, accept_x = _log_gamma_round(jnp.where(a < 1, a + 1, a), radius * jnp.cos(angle), uniform(2))
    log_y, accept_y = _log_gamma_round(jnp.where(b < 1, b + 1, b), radius * jnp.sin(angle), uniform(3))

    def boost(log_x, log_y):
        return (
            jnp.where(a < 1, jnp.maximum(log_x + jnp.log(uniform(4)) / a, -1e38), log_x),
            jnp.where(b < 1, jnp.maximum(log_y + jnp.log(uniform(5)) / b, -1e38), log_y),
        )

    small = jnp.any((a < 1) | (b < 1))
    log_x, log_y = jax.lax.cond(small, boost, lambda *logs: logs, log_x, log_y)
    return jax.nn.sigmoid(log_x - log_y), accept_x & accept_y


def beta(key: Key[Array, ""], a: Float[Array, " m"], b: Float[Array, " m"]) -> Float[Array, " m"]:
    """One draw of Beta(a, b) for every element.

    Args:
        key: consumed.
        a: first shape parameters, above 0.
        b: second shape parameters, above 0.

    Returns:
        Draws in [0, 1]; NaN where a parameter is NaN.
    """
    size = a.shape[0]
    index = jnp.arange(size, dtype=jnp.int32)
    value, accepted = _beta_round(jax.random.fold_in(key, 0), index, a, b)
    accepted |= jnp.isnan(value)
    capacity = min(size, max(size // 8, 256))

    def unfinished(carry):
        round_number, _, accepted = carry
        return (round_number < _MAX_ROUNDS) & ~jnp.all(accepted)

    def redraw(carry):
        round_number, value, accepted = carry
        rejected = jnp.nonzero(~accepted, size=capacity, fill_value=size)[0]
        row = jnp.minimum(rejected, size - 1)
        proposal, accept = _beta_round(jax.random.fold_in(key, round_number), rejected, a[row], b[row])
        target = jnp.where(accept, rejected, size)
        return (
            round_number + 1,
            value.at[target].set(proposal, mode="drop"),
            accepted.at[target].set(True, mode="drop"),
        )

    _, value, accepted = jax.lax.while_loop(unfinished, redraw, (jnp.int32(1), value, accepted))
    return jnp.where(accepted, value, jnp.nan)
