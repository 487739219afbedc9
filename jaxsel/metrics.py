"""How good predictions were, and how much a batch taught. Pure functions of arrays; jit them at will.

Every metric takes `weights`, one a row: 1 counts, 0 does not, and such a row may hold anything. A part of the rows is
a mask, so that no part is compiled anew; see `slices`. Where nothing counts a metric is NaN. `estimate` gives any of
them a standard error in closed form, `bootstrap` one from resamples:

>>> import jax, numpy as np
>>> predicted, truth = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0.2, 0.3, 0.6, 1.0])
>>> visits, last_visit = np.array([0, 0, 3, 1]), np.array([0, 0, 8, 9])
>>> mae = jax.jit(lambda part: estimate(mean_absolute_error, predicted, truth, weights=part))
>>> for name, part in slices(visits, last_visit, 10, visit_edges=(1,), waiting_edges=(1,)).items():
...     print(name, *(f"{number:.3f}" for number in mae(part)))
all 0.075 0.025
unseen 0.100 0.000
seen 0.050 0.050
visits 1+ 0.050 0.050
waiting 1+ 0.050 0.050
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _beta_binomial, _validate, random
from jaxsel._calibration import Reliability as Reliability
from jaxsel._calibration import Uniformity as Uniformity
from jaxsel._calibration import expected_calibration_error as expected_calibration_error
from jaxsel._calibration import maximum_calibration_error as maximum_calibration_error
from jaxsel._calibration import randomised_pit as randomised_pit
from jaxsel._calibration import rate_coverage as rate_coverage
from jaxsel._calibration import rate_pit as rate_pit
from jaxsel._calibration import reliability as reliability
from jaxsel._calibration import success_coverage as success_coverage
from jaxsel._calibration import uniformity as uniformity
from jaxsel._estimates import Estimate as Estimate
from jaxsel._estimates import bootstrap as bootstrap
from jaxsel._estimates import estimate as estimate
from jaxsel._estimates import slices as slices
from jaxsel._solve_state_scores import F1 as F1
from jaxsel._solve_state_scores import confusion_matrix as confusion_matrix
from jaxsel._solve_state_scores import solve_state_accuracy as solve_state_accuracy
from jaxsel._solve_state_scores import solve_state_f1 as solve_state_f1
from jaxsel._solve_state_scores import solve_state_log_score as solve_state_log_score
from jaxsel._visits import solve_states
from jaxsel._weighted import AnyArray, Weights, counted, mean, mid_ranks, ratio, root
from jaxsel.base import MIXED, Prediction

Outcome = Float[AnyArray, " m"] | Int[AnyArray, " m"] | Bool[AnyArray, " m"]


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
    spread = jnp.clip(_beta_binomial.spread_of(rates.mean[None], rates.signal[None])[0], 1e-4, 1 - 1e-6)
    concentration = (1 - spread) / spread
    row_key, rate_key, count_key = jax.random.split(key, 3)
    cumulative = jnp.cumsum(w)
    at = jax.random.uniform(row_key, (num_draws,)) * jnp.sum(w)
    size = n[jnp.minimum(jnp.searchsorted(cumulative, at, side="right"), n.size - 1)].astype(jnp.float32)
    a, b = (jnp.full(num_draws, concentration * share) for share in (rates.mean, 1 - rates.mean))
    p = random.beta(rate_key, a, b)
    found = spearman(p, jax.random.binomial(count_key, size, p) / size)
    return jnp.where(rates.variance > 0, jnp.where(rates.signal > 0, found, 0), jnp.nan)


def mean_absolute_error(
    prediction: Float[AnyArray, " m"], truth: Float[AnyArray, " m"], *, weights: Weights = None
) -> Float[Array, ""]:
    """The mean of |prediction - truth|."""
    w, x, y = counted(weights, prediction=prediction, truth=truth)
    return mean(jnp.abs(x - y), w)


def root_mean_squared_error(
    prediction: Float[AnyArray, " m"], truth: Float[AnyArray, " m"], *, weights: Weights = None
) -> Float[Array, ""]:
    """The root of the mean of (prediction - truth)^2."""
    w, x, y = counted(weights, prediction=prediction, truth=truth)
    return root(mean((x - y) ** 2, w))


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
    return _mean_log_prob(s, n, p, _beta_binomial.spread_of(p, variance), w)


def _mean_log_prob(
    s: Int[Array, " m"], n: Int[Array, " m"], p: Float[Array, " m"], spread: Float[Array, " m"], w: Float[Array, " m"]
) -> Float[Array, ""]:
    w = jnp.where(n > 0, w, 0)
    return mean(jnp.where(w > 0, _beta_binomial.log_prob(s, n, p, spread), 0), w)


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
