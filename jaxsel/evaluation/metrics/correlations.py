"""Correlations of predicted and observed success rates, and the ceilings that finite groups of rollouts put on them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate
from jaxsel.numerics import beta_binomial, random
from jaxsel.numerics.weighted import AnyArray, Weights, counted, mean, mid_ranks, ratio, root


def pearson(x: Float[AnyArray, " m"], y: Float[AnyArray, " m"], *, weights: Weights = None) -> Float[Array, ""]:
    """The linear correlation; NaN when one of the two is constant."""
    w, x, y = counted(weights, x=x, y=y)

    def deviations(values: Float[Array, " m"]) -> Float[Array, " m"]:
        # relative to one of them, so that the deviations of a constant are exactly 0
        some = jax.lax.stop_gradient(jnp.max(jnp.where(w > 0, values, -jnp.inf), initial=-jnp.inf))
        values = jnp.where(w > 0, values - some, 0)
        return values - mean(values, w)

    dx, dy = deviations(x), deviations(y)
    xx, yy = jnp.sum(w * dx * dx), jnp.sum(w * dy * dy)
    varied = (xx > 0) & (yy > 0)
    # two roots: the product of the sums would overflow
    norm = jnp.sqrt(jnp.where(varied, xx, 1)) * jnp.sqrt(jnp.where(varied, yy, 1))
    return jnp.where(varied, jnp.sum(w * dx * dy) / norm, jnp.nan)


def spearman(x: Float[AnyArray, " m"], y: Float[AnyArray, " m"], *, weights: Weights = None) -> Float[Array, ""]:
    """The rank correlation, ties at their mean rank; NaN when one of the two is constant."""
    w, x, y = counted(weights, x=x, y=y)
    return pearson(mid_ranks(x, w), mid_ranks(y, w), weights=w)


class _Rates(NamedTuple):
    """What groups of rollouts say of the true success rates of their prompts."""

    mean: Float[Array, ""]
    variance: Float[Array, ""]  # of s / n
    signal: Float[Array, ""]  # the part of it that is the variance of p


def _rates(s: Int[Array, " m"], n: Int[Array, " m"], w: Float[Array, " m"]) -> _Rates:
    """Of rows with n > 1; the others have weight 0."""
    size = jnp.maximum(n, 2).astype(jnp.float32)
    share = jnp.where(w > 0, s / size, 0)
    average = mean(share, w)
    variance = mean((share - average) ** 2, w)
    return _Rates(average, variance, jnp.maximum(variance - mean(share * (1 - share) / (size - 1), w), 0))


def pearson_ceiling(
    successes: Int[AnyArray, " m"], group_size: Int[AnyArray, " m"], *, weights: Weights = None
) -> Float[Array, ""]:
    r"""The correlation with s / n of someone who knows the true success rates p: sqrt(var(p) / var(s / n)).

    By moments: var(p) = var(s / n) - E[p (1 - p) / n], and s (n - s) / (n^2 (n - 1)) is an unbiased estimate of a
    group's p (1 - p) / n. Rows with n < 2 do not count; 0 where the outcomes vary no more than by chance. A measured
    correlation over its ceiling is that with p itself ("The Proof and Measurement of Association between Two Things",
    Spearman 1904).
    """
    w, s, n = counted(weights, successes=successes, group_size=group_size)
    rates = _rates(s, n, jnp.where(n > 1, w, 0))
    return root(ratio(rates.signal, rates.variance))


def spearman_ceiling(
    key: Key[Array, ""],
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
    num_draws: int = 2**16,
) -> Float[Array, ""]:
    """The rank correlation with s / n of someone who knows the true success rates.

    Simulated: p of a Beta with the moments that `pearson_ceiling` finds, s of as many rollouts as random rows have.
    The error is about 1 / sqrt(num_draws), and what a pool that is no Beta adds.

    Args:
        key: consumed.
        successes: s.
        group_size: n; rows with n < 2 do not count.
        weights: of the rows.
        num_draws: prompts to simulate.

    Raises:
        ValueError: a `num_draws` below 1, or lengths that differ.
    """
    _validate.positive_integer(num_draws=num_draws)
    w, s, n = counted(weights, successes=successes, group_size=group_size)
    w = jnp.where(n > 1, w, 0)
    rates = _rates(s, n, w)
    spread = jnp.clip(beta_binomial.spread_of(rates.mean[None], rates.signal[None])[0], 1e-4, 1 - 1e-6)
    concentration = (1 - spread) / spread
    row_key, rate_key, count_key = jax.random.split(key, 3)
    cumulative = jnp.cumsum(w)
    at = jax.random.uniform(row_key, (num_draws,)) * jnp.sum(w)
    size = n[jnp.minimum(jnp.searchsorted(cumulative, at, side="right"), n.size - 1)].astype(jnp.float32)
    a, b = (jnp.full(num_draws, concentration * share) for share in (rates.mean, 1 - rates.mean))
    p = random.beta(rate_key, a, b)
    found = spearman(p, jax.random.binomial(count_key, size, p) / size)
    return jnp.where(rates.variance > 0, jnp.where(rates.signal > 0, found, 0), jnp.nan)
