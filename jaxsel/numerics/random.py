r"""Beta draws for whole arrays: one round of rejection sampling for all elements, then rounds for the rejected ones.

A draw of Gamma(a) after Marsaglia and Tsang (ACM TOMS 26, 2000) is $d (1 + x / \sqrt{9 d})^3$ with $d = a - 1/3$ and a
normal $x$. It is accepted with probability $e^{h(x)}$. A Beta draw is $X / (X + Y)$ for two Gamma draws $X$ and $Y$.
One Box-Muller pair gives the normals of both Gamma draws. One uniform number accepts both: its logarithm is compared
with $h(x) + h(y)$. Shape parameters below 1 use $\mathrm{Gamma}(a) = \mathrm{Gamma}(a + 1)\, U^{1/a}$ in logarithms,
which neither underflow nor overflow.

More than 90% of the proposals are accepted, and about 99% for large shape parameters. Further rounds draw the rejected
elements again, in an array of 1/32 of the length, until all are accepted. A few elements need no such array, and on a
GPU no elements do: their further rounds draw all of them, and keep the accepted ones.

The random bits are a function of (key, round, word, id of the element). A draw therefore depends only on the key and on
the element's id and parameters, not on the number, order and devices of other elements. Each word takes two or three
rounds of a 32-bit finalizer (Wellons' lowbias32), each keyed by JAX's threefry. For a given key every word is a
bijection of the id: no two of the 2**32 ids have the same word. There is no cryptographic guarantee and no proof of
independence; the tests check the distribution. Threefry for every word would take ten times as long on a CPU.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from jaxsel.numerics import devices
from jaxsel.numerics.compaction import count_true, true_positions

_Words = list[UInt32[Array, "..."]]
_Parameters = tuple[Float[Array, "..."], ...]
Elements = Callable[[Int[Array, "..."] | None], tuple[Int[Array, "..."], _Parameters]]
"""A function `rows -> (ids, shape parameters)`. The argument None means all rows."""
_REJECTED = np.float32(np.inf)  # no draw is infinite
_MAX_ROUNDS = 64  # each round rejects 10% at most
_FEW = 256  # so few elements are drawn again all together, rejected or not
_SMALLEST = np.float32(1e-30)
_LARGE_SHAPE = np.float32(3e3)


def uniform(key: Key[Array, ""], ids: Int[Array, " m"]) -> Float[Array, " m"]:
    """Return one uniform number in (0, 1) per id, in steps of 2**-31 near 0. Positions in the array have no effect."""
    return jnp.minimum(_open_unit(words(key, ids, 1)[0]), np.float32(1 - 2**-24))


def words(key: Key[Array, ""], ids: Int[Array, " m"], count: int) -> _Words:
    """Return `count` random words of 32 bits per id.

    Args:
        key: A key, which this function consumes.
        ids: Ids of the elements, from 0 to 2**32 - 1. Elements with the same id get the same words.
        count: Words per element.
    """
    ids = ids.astype(jnp.uint32)
    keys = jax.random.bits(key, (count + 1,), jnp.uint32)
    base = _mix(_mix(ids ^ keys[0]) ^ keys[1])
    return [base, *(_mix(base ^ keys[1 + word]) for word in range(1, count))]


def beta(
    key: Key[Array, ""],
    a: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    *,
    ids: Int[Array, "*shape"] | None = None,
) -> Float[Array, "*shape"]:
    """Return one draw of Beta(a, b) per element.

    Args:
        key: A key, which this function consumes.
        a: First shape parameters, above 0.
        b: Second shape parameters, above 0.
        ids: Ids of the elements, on which the random bits depend. None: their positions.

    Returns:
        Draws in [0, 1], and NaN where a parameter is NaN.
    """
    return _draw_arrays(key, (a, b), ids)


def beta_of(key: Key[Array, ""], elements: Elements, size: int) -> Float[Array, " {size}"]:
    """Return one Beta draw per row. The parameters are computed where they are needed and not stored.

    Args:
        key: A key, which this function consumes.
        elements: Function from rows to their ids and the pair of their shape parameters; None means all rows.
        size: Number of rows.
    """
    return _draw(key, elements, size)


@jax.jit
def _draw_arrays(
    key: Key[Array, ""],
    parameters: _Parameters,
    ids: Int[Array, "*shape"] | None,
) -> Float[Array, "*shape"]:
    shape = np.broadcast_shapes(*(parameter.shape for parameter in parameters))
    size = int(np.prod(shape))
    flat = tuple(jnp.broadcast_to(parameter, shape).ravel() for parameter in parameters)
    names = None if ids is None else jnp.broadcast_to(ids, shape).ravel()
    # without the barrier, XLA merges earlier operations into the loops, and a jitted caller gets other last bits
    names, flat = jax.lax.optimization_barrier((names, flat))

    def elements(rows: Int[Array, " c"] | None) -> tuple[Int[Array, "..."], _Parameters]:
        positions = jnp.arange(size, dtype=jnp.int32) if rows is None else rows
        at = slice(None) if rows is None else rows
        return positions if names is None else names[at], tuple(parameter[at] for parameter in flat)

    return _draw(key, elements, size).reshape(shape)


def _draw(key: Key[Array, ""], elements: Elements, size: int) -> Float[Array, " {size}"]:
    """Run one round for all elements, then rounds for the rejected ones until none is left."""

    def one_round(number: Int[Array, ""] | int, rows: Int[Array, " c"] | None) -> Float[Array, "..."]:
        ids, parameters = elements(rows)
        drawn = _propose_beta(words(jax.random.fold_in(key, number), ids, 5), parameters)
        return jnp.where(functools.reduce(jnp.logical_or, map(jnp.isnan, parameters)), jnp.nan, drawn)

    if size <= _FEW or not devices.for_a_cpu():
        value = _until_accepted(one_round, None, jnp.full(size, _REJECTED), first_round=0)
    else:
        value = _settled(one_round, one_round(0, None), max(size // 32, _FEW))
    return jax.lax.optimization_barrier(value)


def _until_accepted(
    one_round: Callable[..., Float[Array, " m"]],
    rows: Int[Array, " m"] | None,
    value: Float[Array, " m"],
    *,
    first_round: int,
) -> Float[Array, " m"]:
    """Return the draws of these rows, with further rounds for rejected ones. A row that no round accepts gets NaN."""

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        number, drawn = carry
        return number + 1, jnp.where(drawn == _REJECTED, one_round(number, rows), drawn)

    _, value = jax.lax.while_loop(
        lambda carry: (carry[1] == _REJECTED).any() & (carry[0] <= _MAX_ROUNDS),
        again,
        (jnp.int32(first_round), value),
    )
    return jnp.where(value == _REJECTED, jnp.nan, value)  # fewer than one draw in 1e60


def _settled(
    one_round: Callable[..., Float[Array, "..."]], value: Float[Array, " m"], capacity: int
) -> Float[Array, " m"]:
    """Return the draws, with further rounds for the rejected ones, `capacity` at a time."""
    size = len(value)

    def settle(value: Float[Array, " m"]) -> Float[Array, " m"]:
        rejected = true_positions(value == _REJECTED, capacity)
        # every block of rows starts at round 1, so that a draw depends on its own id alone
        start = jnp.where(rejected < size, _REJECTED, 0)
        drawn = _until_accepted(one_round, jnp.minimum(rejected, size - 1), start, first_round=1)
        return value.at[rejected].set(drawn, mode="drop")

    return jax.lax.while_loop(lambda value: count_true(value == _REJECTED) > 0, settle, value)


def _propose_beta(bits: _Words, parameters: _Parameters) -> Float[Array, " m"]:
    """Return proposals of Beta(a, b), or `_REJECTED` where the test rejects them."""
    a, b = parameters
    x, y = _normal_pair(bits[0], bits[1])
    scale_x, root_x, log_accept_x = _marsaglia_tsang(a, x)
    scale_y, root_y, log_accept_y = _marsaglia_tsang(b, y)
    accept = (root_x > 0) & (root_y > 0) & (jnp.log(_open_unit(bits[2])) < log_accept_x + log_accept_y)
    odds = (scale_y * root_y**3) / (scale_x * root_x**3)
    odds = odds * jnp.exp(_log_boost(b, bits[4]) - _log_boost(a, bits[3]))
    return jnp.where(accept, 1 / (1 + odds), _REJECTED)


def _marsaglia_tsang(
    a: Float[Array, " m"], normal: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, " m"]]:
    """Return d, the root 1 + x / sqrt(9 d), and the log probability of accepting d * root^3 as a Gamma draw."""
    scale = jnp.where(a < 1, a + 1, a) - np.float32(1 / 3)
    root = 1 + normal / jnp.sqrt(9 * scale)
    log_cube = 3 * jnp.log(jnp.maximum(root, _SMALLEST))
    square = normal * normal
    exact = 0.5 * square + scale * (1 - root**3 + log_cube)
    # for large shapes the terms of `exact` cancel, so the first term of its series replaces them
    return scale, root, jnp.where(scale > _LARGE_SHAPE, -square * square / (108 * scale), exact)


def _log_boost(a: Float[Array, " m"], word: UInt32[Array, " m"]) -> Float[Array, " m"]:
    """Return log U^(1/a), which turns Gamma(a + 1) into Gamma(a), and 0 for a >= 1.

    The result is bounded, so that differences are finite.
    """
    return jnp.where(a < 1, jnp.maximum(jnp.log(_open_unit(word)) / a, -1e38), 0)


def _normal_pair(
    first: UInt32[Array, " m"], second: UInt32[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Return two independent normals (Box and Muller), up to 6.6 standard deviations.

    The direction is an angle in the first eighth of the circle, where short polynomials give its sine and cosine. Three
    random bits mirror it into the other eighths.
    """
    radius = jnp.sqrt(-2 * jnp.log(_open_unit(first)))
    angle = ((second >> 8).astype(jnp.int32).astype(jnp.float32) + 0.5) * np.float32(2**-24 * np.pi / 4)
    square = angle * angle
    sine = angle * (1 + square * (-1 / 6 + square * (1 / 120 + square * (-1 / 5040 + square / 362880))))
    cosine = 1 + square * (-1 / 2 + square * (1 / 24 + square * (-1 / 720 + square / 40320)))
    swap = (second & 1) != 0
    x, y = jnp.where(swap, cosine, sine), jnp.where(swap, sine, cosine)
    return radius * jnp.where((second & 2) != 0, -x, x), radius * jnp.where((second & 4) != 0, -y, y)


def _open_unit(word: UInt32[Array, " m"]) -> Float[Array, " m"]:
    """Return uniform numbers in (0, 1], in steps of 2**-31 near 0."""
    return ((word >> 1).astype(jnp.int32).astype(jnp.float32) + 0.5) * np.float32(2**-31)


def _mix(x: UInt32[Array, " m"]) -> UInt32[Array, " m"]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
