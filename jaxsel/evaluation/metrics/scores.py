"""Proper scores of predictions, and the share of mixed groups in a batch."""

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
    """The mean of |prediction - truth|."""
    w, x, y = counted(weights, prediction=prediction, truth=truth)
    return mean(jnp.abs(x - y), w)


def brier_score(probability: Float[AnyArray, " m"], outcome: Outcome, *, weights: Weights = None) -> Float[Array, ""]:
    """The mean of (probability - outcome)^2, for outcomes 0 and 1: lower is better."""
    w, p, y = counted(weights, probability=probability, outcome=outcome)
    return mean((p - y) ** 2, w)


def binomial_log_score(
    success_rate: Float[AnyArray, " m"],
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> Float[Array, ""]:
    """The mean log probability of the counts, in nats, if p is what was predicted, where n > 0: higher is better.

    Minus infinity when something came that was predicted with certainty not to.
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
    """The mean log probability of the counts, in nats, if p is a Beta variable, where n > 0: higher is better.

    The Beta has the predicted mean and variance: for Beta posteriors it is the posterior itself, for `dps`, which
    knows solve states only, and for `gps`, a mixture, its nearest stand-in. No variance on [0, 1] is above
    mean (1 - mean); what rounding adds to that is cut.
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
    """The share of groups with 0 < s < n among those with n > 0: the ones that have a gradient."""
    w, s, n = counted(weights, successes=successes, group_size=group_size)
    return mean(solve_states(s, n) == MIXED, jnp.where(n > 0, w, 0))


class MixedShares(NamedTuple):
    """The share of mixed groups.

    Attributes:
        realised: see `mixed_share`.
        predicted: the mean of P(0 < s < n) of the same prompts.
        excess: predicted less realised.
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
    """The share of mixed groups, where n > 0, against what was predicted."""
    w, p, s, n = counted(weights, mixed=prediction.mixed, successes=successes, group_size=group_size)
    realised, predicted = mixed_share(s, n, weights=w), mean(p, jnp.where(n > 0, w, 0))
    return MixedShares(realised, predicted, predicted - realised)
