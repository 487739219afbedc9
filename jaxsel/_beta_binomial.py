r"""A count of successes whose rate is a Beta variable.

In terms of its mean m and of r = variance / (m (1 - m)) = 1 / (a + b + 1), where nothing is infinite: at r = 0 the rate
is known and the count Binomial; at r = 1, the largest there is, the rate is 0 or 1.

    P(s) = C(n, s) prod_{k < s} (m (1 - r) + k r) prod_{k < n - s} ((1 - m) (1 - r) + k r) / prod_{k < n} (1 - r + k r)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_CERTAIN = 1e-6
_Terms = tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, " m"]]


def solve_state_probabilities(
    alpha: Float[Array, "*shape"], beta: Float[Array, "*shape"], group_size: int
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""P(s = 0), P(0 < s < n) and P(s = n) of a Beta-Binomial count.

    P(s = n) = B(a + n, b) / B(a, b), the product over k < n of (a + k) / (a + b + k), which keeps its precision
    where the difference of log-gammas does not. The mixed probability is MaPP's (arXiv 2609.34990).
    """
    total = alpha + beta

    def product(shape: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        result = jnp.ones_like(total)
        for k in range(group_size):
            result = result * (shape + k) / (total + k)
        return result

    solved = product(alpha)
    unsolved = product(beta) if group_size > 1 else 1 - solved
    return unsolved, jnp.maximum(1 - unsolved - solved, 0), solved


def spread_of(mean: Float[Array, " m"], variance: Float[Array, " m"]) -> Float[Array, " m"]:
    """The r of a mean and a variance; a variance that is larger than any on [0, 1] is cut."""
    largest = mean * (1 - mean)
    return jnp.clip(variance, 0, largest) / jnp.where(largest > 0, largest, 1)


def log_prob(
    successes: Int[Array, " m"], group_size: Int[Array, " m"], mean: Float[Array, " m"], spread: Float[Array, " m"]
) -> Float[Array, " m"]:
    """Of the count; minus infinity where it is impossible. As many passes over the rows as the largest group has."""
    failures = group_size - successes

    def factor(k: Int[Array, ""], total: Float[Array, " m"]) -> Float[Array, " m"]:
        success = jnp.where(k < successes, (mean * (1 - spread) + k * spread) / (k + 1), 1)
        failure = jnp.where(k < failures, ((1 - mean) * (1 - spread) + k * spread) / (k + 1), 1)
        return total + jnp.log(success * failure * jnp.where(k < group_size, (k + 1) / (1 - spread + k * spread), 1))

    # at k = 0 one factor 1 - r cancels, also where it is 0
    both = jnp.where((successes > 0) & (failures > 0), 1 - spread, 1)
    first = jnp.where(successes > 0, mean, 1) * jnp.where(failures > 0, 1 - mean, 1) * both
    return jax.lax.fori_loop(1, jnp.max(group_size, initial=0), factor, jnp.log(first))


def cdf(
    successes: Int[Array, " m"], group_size: Int[Array, " m"], mean: Float[Array, " m"], spread: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """F(s - 1) and F(s), as many passes over the rows as `log_prob` and as the largest count."""
    # the recursion divides by the probability of failures, and what it adds up is no more precise than this
    mean, spread = jnp.clip(mean, _CERTAIN, 1 - _CERTAIN), jnp.minimum(spread, 1 - _CERTAIN)

    def add(j: Int[Array, ""], terms: _Terms) -> _Terms:
        log_term, below, up_to = terms
        term, left = jnp.exp(log_term), group_size - j
        success = left * (mean * (1 - spread) + j * spread)
        failure = (j + 1) * ((1 - mean) * (1 - spread) + (left - 1) * spread)
        step = jnp.where(left > 0, jnp.log(jnp.where(left > 0, success / failure, 1)), 0)
        return log_term + step, below + jnp.where(j < successes, term, 0), up_to + jnp.where(j <= successes, term, 0)

    none = jnp.zeros_like(mean)
    start = (log_prob(jnp.zeros_like(successes), group_size, mean, spread), none, none)
    _, below, up_to = jax.lax.fori_loop(0, jnp.max(successes, initial=-1) + 1, add, start)
    return jnp.minimum(below, 1), jnp.where(successes >= group_size, 1, jnp.minimum(up_to, 1))
