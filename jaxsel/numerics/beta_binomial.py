r"""The Beta-Binomial distribution: the count s of successes in n trials whose success rate is a Beta(a, b) variable.

`log_prob` and `cdf` take the rate's mean m and its spread r = variance / (m (1 - m)) = 1 / (a + b + 1). Both are finite
in all limits. At r = 0 the rate is known and the count is Binomial. At r = 1, the largest r, the rate is 0 or 1.

    P(s) = C(n, s) prod_{k < s} (m (1 - r) + k r) prod_{k < n - s} ((1 - m) (1 - r) + k r) / prod_{k < n} (1 - r + k r)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_CERTAIN = 1e-6  # least distance in `cdf` of the mean from 0 and 1, and of the spread from 1
_DIRECT = 16  # number of factors that are multiplied one by one
_NODES = 16  # nodes of the quadrature that replaces all further factors
_Terms = tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, " m"]]


def solve_state_probabilities(
    alpha: Float[Array, "*shape"], beta: Float[Array, "*shape"], group_size: int
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""Return P(s = 0), P(0 < s < n) and P(s = n) of a Beta-Binomial count with n = `group_size`.

    P(s = n) = B(a + n, b) / B(a, b) is the product over k < n of (a + k) / (a + b + k). The product is precise where
    the difference of log-gammas is not. P(0 < s < n) is MaPP's score (arXiv 2609.34990), and exactly 0 for n = 1.
    """
    if group_size == 1:
        total = alpha + beta
        return beta / total, jnp.zeros_like(total), alpha / total
    if group_size <= _DIRECT:
        unsolved, solved = _product(beta, alpha, group_size), _product(alpha, beta, group_size)
        return unsolved, jnp.maximum(1 - unsolved - solved, 0), solved
    log_unsolved, log_solved = _log_product(beta, alpha, group_size), _log_product(alpha, beta, group_size)
    # the larger probability first: -expm1 gives its distance to 1 exactly
    larger, smaller = jnp.maximum(log_unsolved, log_solved), jnp.minimum(log_unsolved, log_solved)
    mixed = jnp.maximum(-jnp.expm1(larger) - jnp.exp(smaller), 0)
    return jnp.exp(log_unsolved), mixed, jnp.exp(log_solved)


def mixed_of(
    unsolved: Float[Array, "*shape"], solved: Float[Array, "*shape"], group_size: int
) -> Float[Array, "*shape"]:
    """Return P(0 < s < n) = 1 - P(s = 0) - P(s = n), never below 0, and exactly 0 for n = 1."""
    return jnp.zeros_like(solved) if group_size == 1 else jnp.maximum(1 - unsolved - solved, 0)


def _product(a: Float[Array, "*shape"], b: Float[Array, "*shape"], group_size: int) -> Float[Array, "*shape"]:
    """Return the product over k < n of (a + k) / (a + b + k)."""
    total, result = a + b, jnp.ones_like(a + b)
    for k in range(group_size):
        result = result * (a + k) / (total + k)
    return result


def _log_product(a: Float[Array, "*shape"], b: Float[Array, "*shape"], group_size: int) -> Float[Array, "*shape"]:
    r"""Return log `_product` = -sum_{k < n} f(a + k), f(x) = log(1 + b / x), by a graph of constant size.

    The first terms are added one by one. The others are an integral over x = e^u by Gauss-Legendre quadrature, with the
    first Euler-Maclaurin correction at the midpoints. The error is below 1e-6 of the sum for n up to a million. All
    terms have the same sign, so nothing cancels.
    """
    direct = jnp.zeros_like(a + b)
    for k in range(_DIRECT):
        direct = direct + jnp.log1p(b / (a + k))
    low, high = a + (_DIRECT - 0.5), a + (group_size - 0.5)
    # log(high / low) without the difference of large numbers that a large a would give
    length = jnp.log1p(float(group_size - _DIRECT) / low)
    integral = jnp.zeros_like(direct)
    for node, weight in zip(*np.polynomial.legendre.leggauss(_NODES), strict=True):
        x = low * jnp.exp(length * float((node + 1) / 2))
        integral = integral + float(weight / 2) * length * x * jnp.log1p(b / x)
    correction = (b / (high * (high + b)) - b / (low * (low + b))) / 24
    return -(direct + integral + correction)


def spread_of(mean: Float[Array, " m"], variance: Float[Array, " m"]) -> Float[Array, " m"]:
    """Return r for a mean and a variance. The variance is cut to m (1 - m), the largest for a rate in [0, 1]."""
    largest = mean * (1 - mean)
    return jnp.clip(variance, 0, largest) / jnp.where(largest > 0, largest, 1)


@jax.jit  # without it, each call outside of a compiled function would compile a loop of its own
def log_prob(
    successes: Int[Array, " m"], group_size: Int[Array, " m"], mean: Float[Array, " m"], spread: Float[Array, " m"]
) -> Float[Array, " m"]:
    """Return the log probability of each count, minus infinity for an impossible one.

    The number of passes over the rows is the largest group size.
    """
    failures = group_size - successes

    def factor(j: Int[Array, ""], total: Float[Array, " m"]) -> Float[Array, " m"]:
        k = j.astype(mean.dtype)
        success = jnp.where(j < successes, (mean * (1 - spread) + k * spread) / (k + 1), 1)
        failure = jnp.where(j < failures, ((1 - mean) * (1 - spread) + k * spread) / (k + 1), 1)
        return total + jnp.log(success * failure * jnp.where(j < group_size, (k + 1) / (1 - spread + k * spread), 1))

    # at k = 0 a factor 1 - r cancels; it may be 0
    both = jnp.where((successes > 0) & (failures > 0), 1 - spread, 1)
    first = jnp.where(successes > 0, mean, 1) * jnp.where(failures > 0, 1 - mean, 1) * both
    return jax.lax.fori_loop(1, jnp.max(group_size, initial=0), factor, jnp.log(first))


def _next_ratio(
    s: Int[Array, ""] | Float[Array, ""],
    group_size: Int[Array, " m"] | int,
    mean: Float[Array, " m"],
    spread: Float[Array, " m"],
) -> Float[Array, " m"]:
    """Return P(s + 1) / P(s), for s below the group size."""
    s = jnp.asarray(s, mean.dtype)
    left = jnp.asarray(group_size, mean.dtype) - s
    success = left * (mean * (1 - spread) + s * spread)
    failure = (s + 1) * ((1 - mean) * (1 - spread) + (left - 1) * spread)
    return success / failure


def expectation(
    values: Float[np.ndarray, " k"], mean: Float[Array, " m"], spread: Float[Array, " m"]
) -> Float[Array, " m"]:
    """Return E[f(s)] for every row, from the k = n + 1 values f(0), ..., f(n); f(0) and f(n) must be 0.

    The counts are visited in one loop, so that the time to compile does not grow with n. The errors of rounding in the
    logarithms add up over the loop, mostly to one factor of all probabilities. Their sum, which must be 1, removes it.
    """
    group_size = len(values) - 1
    is_known = (mean <= 0) | (mean >= 1) | (spread >= 1)  # then s is 0 or n
    mean, spread = jnp.where(is_known, 0.5, mean), jnp.where(is_known, 0, spread)
    number = jnp.full(mean.shape, group_size, jnp.int32)

    def add(s: Int[Array, ""], terms: _Terms) -> _Terms:
        log_term, total, probability = terms
        log_term = log_term + jnp.log(_next_ratio(s.astype(jnp.float32) - 1, group_size, mean, spread))
        term = jnp.exp(log_term)
        return log_term, total + jnp.asarray(values)[s] * term, probability + term

    first = log_prob(jnp.zeros_like(number), number, mean, spread)
    start = first, jnp.zeros_like(mean), jnp.exp(first)
    _, total, probability = jax.lax.fori_loop(1, group_size + 1, add, start)
    return jnp.where(is_known, 0, total / probability)


def cdf(
    successes: Int[Array, " m"], group_size: Int[Array, " m"], mean: Float[Array, " m"], spread: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Return F(s - 1) and F(s) for the distribution function F of each count.

    The number of passes over the rows is twice the largest group size. All probabilities are divided by their sum, as
    in `expectation`.
    """
    # the recursion divides by the probability of a failure, so this must not be 0
    mean, spread = jnp.clip(mean, _CERTAIN, 1 - _CERTAIN), jnp.minimum(spread, 1 - _CERTAIN)

    def add(j: Int[Array, ""], terms: tuple[_Terms, Array]) -> tuple[_Terms, Array]:
        (log_term, below, up_to), every = terms
        term, some_left = jnp.exp(log_term), j < group_size
        step = jnp.where(some_left, jnp.log(jnp.where(some_left, _next_ratio(j, group_size, mean, spread), 1)), 0)
        below, up_to = below + jnp.where(j < successes, term, 0), up_to + jnp.where(j <= successes, term, 0)
        return (log_term + step, below, up_to), every + jnp.where(j <= group_size, term, 0)

    none = jnp.zeros_like(mean)
    start = (log_prob(jnp.zeros_like(successes), group_size, mean, spread), none, none)
    (_, below, up_to), every = jax.lax.fori_loop(0, jnp.max(group_size, initial=-1) + 1, add, (start, none))
    return jnp.minimum(below / every, 1), jnp.where(successes >= group_size, 1, jnp.minimum(up_to / every, 1))
