"""Correlations of predicted and observed success rates, and the ceilings that finite groups of rollouts impose.

In a group of n rollouts, s are correct. A ceiling is the correlation of a perfect prediction with s / n.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from jaxsel import _validate
from jaxsel.numerics import beta_binomial, random
from jaxsel.numerics.weighted import AnyArray, Weights, counted, mean, mid_ranks, ratio, root


def pearson(x: Float[AnyArray, " m"], y: Float[AnyArray, " m"], *, weights: Weights = None) -> Float[Array, ""]:
    """Return the linear correlation, or NaN if one of the two vectors is constant."""
    return _correlation(*counted(weights, x=x, y=y))


@jax.jit
def _correlation(
    w: Float[Array, " m"], x: Num[Array, " m"] | Bool[Array, " m"], y: Num[Array, " m"] | Bool[Array, " m"]
) -> Float[Array, ""]:
    def deviations(values: Float[Array, " m"]) -> Float[Array, " m"]:
        # subtracting the largest value first makes the deviations of a constant vector exactly 0
        some = jax.lax.stop_gradient(jnp.max(jnp.where(w > 0, values, -jnp.inf), initial=-jnp.inf))
        values = jnp.where(w > 0, values - some, 0)
        return values - mean(values, w)

    dx, dy = deviations(x), deviations(y)
    xx, yy = jnp.sum(w * dx * dx), jnp.sum(w * dy * dy)
    varied = (xx > 0) & (yy > 0)
    # two roots, because the product of the sums could overflow
    norm = jnp.sqrt(jnp.where(varied, xx, 1)) * jnp.sqrt(jnp.where(varied, yy, 1))
    # rounding can leave a share that is a little above 1, of which arctanh is NaN
    return jnp.where(varied, jnp.clip(jnp.sum(w * dx * dy) / norm, -1, 1), jnp.nan)


def spearman(x: Float[AnyArray, " m"], y: Float[AnyArray, " m"], *, weights: Weights = None) -> Float[Array, ""]:
    """Return the rank correlation, with ties at their mean rank, or NaN if one of the two vectors is constant."""
    w, x, y = counted(weights, x=x, y=y)
    return pearson(mid_ranks(x, w), mid_ranks(y, w), weights=w)


class _Rates(NamedTuple):
    """Moments of the observed shares s / n and of the true success rates p.

    Attributes:
        mean: Mean of s / n, which estimates the mean of p.
        variance: Variance of s / n.
        signal: Estimated variance of p, which is a part of `variance`.
    """

    mean: Float[Array, ""]
    variance: Float[Array, ""]
    signal: Float[Array, ""]


def _rates(s: Int[Array, " m"], n: Int[Array, " m"], w: Float[Array, " m"]) -> _Rates:
    """Return the moments of the rows with n > 1. All other rows must have the weight 0."""
    size = jnp.maximum(n, 2).astype(jnp.float32)
    share = jnp.where(w > 0, s.astype(jnp.float32) / size, 0)
    average = mean(share, w)
    variance = mean((share - average) ** 2, w)
    return _Rates(average, variance, jnp.maximum(variance - mean(share * (1 - share) / (size - 1), w), 0))


def pearson_ceiling(
    successes: Int[AnyArray, " m"], group_size: Int[AnyArray, " m"], *, weights: Weights = None
) -> Float[Array, ""]:
    r"""Return the estimated correlation of the true success rates p with s / n: sqrt(var(p) / var(s / n)).

    Here var(p) = var(s / n) - E[p (1 - p) / n]. An unbiased estimate of p (1 - p) / n for one group is
    s (n - s) / (n^2 (n - 1)). Rows with n < 2 do not count. The ceiling is 0 if the outcomes vary no more than by
    chance. A measured correlation divided by its ceiling estimates the correlation with p itself ("The Proof and
    Measurement of Association between Two Things", Spearman 1904).
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
    """Return the rank correlation of the true success rates with s / n, from a simulation.

    The simulation draws p from a Beta distribution with the moments of `pearson_ceiling`, and s with the group sizes of
    random rows. The error is about 1 / sqrt(num_draws), plus an error where the pool's rates have no Beta distribution.

    Args:
        key: A key, which this function consumes.
        successes: s, the number of correct rollouts.
        group_size: n, the number of rollouts. Rows with n < 2 do not count.
        weights: Weights of the rows.
        num_draws: Number of simulated prompts.

    Raises:
        ValueError: `num_draws` is below 1, or the lengths differ.
    """
    _validate.positive_integer(num_draws=num_draws)
    w, s, n = counted(weights, successes=successes, group_size=group_size)
    if not n.size:
        return jnp.float32(jnp.nan)
    w = jnp.where(n > 1, w, 0)
    rates = _rates(s, n, w)
    spread = jnp.clip(beta_binomial.spread_of(rates.mean[None], rates.signal[None])[0], 1e-4, 1 - 1e-6)
    concentration = (1 - spread) / spread
    row_key, rate_key, count_key = jax.random.split(key, 3)
    cumulative = jnp.cumsum(w)
    at = jax.random.uniform(row_key, (num_draws,), jnp.float32) * jnp.sum(w)
    size = n[jnp.minimum(jnp.searchsorted(cumulative, at, side="right"), n.size - 1)].astype(jnp.float32)
    a, b = (jnp.full(num_draws, concentration * share) for share in (rates.mean, 1 - rates.mean))
    p = random.beta(rate_key, a, b)
    found = spearman(p, jax.random.binomial(count_key, size, p, dtype=jnp.float32) / size)
    return jnp.where(rates.variance > 0, jnp.where(rates.signal > 0, found, 0), jnp.nan)
