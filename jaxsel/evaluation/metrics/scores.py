"""Scores of predictions, and the share of mixed groups in a batch.

Letters: p is the probability that the policy solves a prompt; s of the n judged rollouts of a group are correct.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxsel._visits import solve_states
from jaxsel.base import MIXED, Prediction
from jaxsel.numerics import beta_binomial
from jaxsel.numerics.weighted import AnyArray, Weights, counted, mean

Outcome = Float[AnyArray, " m"] | Int[AnyArray, " m"] | Bool[AnyArray, " m"]


def mean_absolute_error(
    prediction: Float[AnyArray, " m"], truth: Float[AnyArray, " m"], *, weights: Weights = None
) -> Float[Array, ""]:
    """Return the mean of |prediction - truth|."""
    w, x, y = counted(weights, prediction=prediction, truth=truth)
    return mean(jnp.abs(x - y), w)


def brier_score(probability: Float[AnyArray, " m"], outcome: Outcome, *, weights: Weights = None) -> Float[Array, ""]:
    """Return the mean of (probability - outcome)^2 for outcomes 0 and 1. Lower is better."""
    w, p, y = counted(weights, probability=probability, outcome=outcome)
    return mean((p - y.astype(p.dtype)) ** 2, w)


def binomial_log_score(
    success_rate: Float[AnyArray, " m"],
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> Float[Array, ""]:
    """Return the mean Binomial log probability of the counts at the predicted p, in nats, for n > 0.

    Higher is better. The score is minus infinity if an outcome of predicted probability 0 occurred.
    """
    w, p, s, n = counted(weights, success_rate=success_rate, successes=successes, group_size=group_size)
    return _mean_log_prob(s, n, p, jnp.zeros_like(p), w)


def beta_binomial_log_score(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> Float[Array, ""]:
    """Return the mean Beta-Binomial log probability of the counts, in nats, for n > 0. Higher is better.

    The Beta distribution of p has the predicted mean and variance. This is exact for Beta posteriors, as in `mopps`,
    and an approximation for other predictions, as in `dps` and `gps`. Rounding may raise a variance above
    mean (1 - mean); such a variance is reduced to this bound.
    """
    columns = {"success_rate": prediction.success_rate, "variance": prediction.variance}
    w, s, n, p, variance = counted(weights, successes=successes, group_size=group_size, **columns)
    return _mean_log_prob(s, n, p, beta_binomial.spread_of(p, variance), w)


def _mean_log_prob(
    s: Int[Array, " m"], n: Int[Array, " m"], p: Float[Array, " m"], spread: Float[Array, " m"], w: Float[Array, " m"]
) -> Float[Array, ""]:
    w = jnp.where(n > 0, w, 0)
    return mean(jnp.where(w > 0, beta_binomial.log_prob(s, n, p, spread), 0), w)


def mixed_share(
    successes: Int[AnyArray, " m"], group_size: Int[AnyArray, " m"], *, weights: Weights = None
) -> Float[Array, ""]:
    """Return the share of mixed groups, 0 < s < n, among groups with n > 0. Only mixed groups give GRPO a gradient."""
    w, s, n = counted(weights, successes=successes, group_size=group_size)
    return mean(solve_states(s, n) == MIXED, jnp.where(n > 0, w, 0))


class MixedShares(NamedTuple):
    """The observed and predicted shares of mixed groups.

    Attributes:
        realised: Observed share, see `mixed_share`.
        predicted: Mean of the predicted P(0 < s < n) for the same prompts.
        excess: Difference `predicted - realised`.
    """

    realised: Float[Array, ""]
    predicted: Float[Array, ""]
    excess: Float[Array, ""]


def mixed_shares(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> MixedShares:
    """Return the observed and predicted shares of mixed groups among groups with n > 0."""
    w, p, s, n = counted(weights, mixed=prediction.mixed, successes=successes, group_size=group_size)
    realised, predicted = mixed_share(s, n, weights=w), mean(p, jnp.where(n > 0, w, 0))
    return MixedShares(realised, predicted, predicted - realised)
