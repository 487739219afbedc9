"""Calibration: whether predicted probabilities and posteriors agree with observed frequencies.

Letters: p is the probability that the policy solves a prompt; s of the n judged rollouts of a group are correct.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel.base import Prediction
from jaxsel.numerics.beta_binomial import cdf, spread_of
from jaxsel.numerics.weighted import AnyArray, Weights, bin_sums, counted, mean, mid_ranks, ratio, root

_LEVELS = (0.5, 0.8, 0.9, 0.95)
_SMALLEST_SPREAD, _LARGEST_SPREAD = 1e-4, 1 - 1e-4  # the incomplete Beta function is precise between them


class Reliability(NamedTuple):
    """The table of a reliability diagram, one entry per bin of the predicted probability.

    An empty bin has size 0, and its other entries are NaN.

    Attributes:
        prediction: Mean predicted probability in the bin.
        outcome: Share of rows in which the event occurred. If predictions are calibrated, it estimates `prediction`.
        size: Total weight of the rows in the bin; without weights, the number of rows.
        standard_error: Standard error of `outcome`, from its variance within the bin.
    """

    prediction: Float[Array, " k"]
    outcome: Float[Array, " k"]
    size: Float[Array, " k"]
    standard_error: Float[Array, " k"]


class Uniformity(NamedTuple):
    """The deviation of values from the uniform distribution on [0, 1].

    Attributes:
        shares: Histogram with bins of equal width, which sums to 1.
        distance: Kolmogorov distance, the largest difference between the two distribution functions. For m uniform
            values its mean is about 0.87 / sqrt(m). It is above 1.36 / sqrt(m) in one case out of twenty.
    """

    shares: Float[Array, " k"]
    distance: Float[Array, ""]


def reliability(
    probability: Float[AnyArray, " m"],
    outcome: Float[AnyArray, " m"] | Int[AnyArray, " m"] | Bool[AnyArray, " m"],
    *,
    num_bins: int = 15,
    binning: str = "width",
    weights: Weights = None,
) -> Reliability:
    """Return the table of predicted probabilities of an event, for example of a mixed group, and its frequencies.

    Args:
        probability: Predicted probabilities, in [0, 1].
        outcome: 1 where the event occurred, otherwise 0.
        num_bins: k, the number of bins.
        binning: "width" gives bins of equal width. "mass" gives bins with the same number of rows, as far as possible:
            equal predictions are always in one bin.
        weights: Weights of the rows.

    Raises:
        ValueError: `num_bins` is below 1, `binning` is unknown, or the lengths differ.
    """
    _validate.positive_integer(num_bins=num_bins)
    _validate.one_of(("width", "mass"), binning=binning)
    w, p, y = counted(weights, probability=probability, outcome=outcome)
    y, num_bins = y.astype(w.dtype), int(num_bins)
    position = p if binning == "width" else mid_ranks(p, w)
    bins = jnp.clip((position * num_bins).astype(jnp.int32), 0, num_bins - 1)
    count = bin_sums(w, bins, num_bins)
    mean_outcome = ratio(bin_sums(w * y, bins, num_bins), count)
    error = root(ratio(bin_sums(w * (y - mean_outcome[bins]) ** 2, bins, num_bins), count * (count - 1)))
    return Reliability(ratio(bin_sums(w * p, bins, num_bins), count), mean_outcome, count, error)


def expected_calibration_error(
    probability: Float[AnyArray, " m"],
    outcome: Float[AnyArray, " m"] | Int[AnyArray, " m"] | Bool[AnyArray, " m"],
    *,
    num_bins: int = 15,
    binning: str = "width",
    weights: Weights = None,
) -> Float[Array, ""]:
    """Return the mean over rows of |predicted - observed| in the row's bin, see `reliability`; NaN without rows.

    The error is biased upwards: with finitely many rows it is above 0 even for calibrated predictions.
    """
    gap, count = _gaps(reliability(probability, outcome, num_bins=num_bins, binning=binning, weights=weights))
    return ratio(jnp.sum(gap * count), jnp.sum(count))


def maximum_calibration_error(
    probability: Float[AnyArray, " m"],
    outcome: Float[AnyArray, " m"] | Int[AnyArray, " m"] | Bool[AnyArray, " m"],
    *,
    num_bins: int = 15,
    binning: str = "width",
    weights: Weights = None,
) -> Float[Array, ""]:
    """Return the largest |predicted - observed| of all bins, see `reliability`. Bins of few rows often dominate it."""
    gap, count = _gaps(reliability(probability, outcome, num_bins=num_bins, binning=binning, weights=weights))
    return jnp.where(jnp.any(count > 0), jnp.max(gap), jnp.nan)


def _gaps(table: Reliability) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    some = table.size > 0
    # an empty bin has the gap 0; NaN in a bin with rows stays NaN
    gap = jnp.where(some, table.prediction, 0) - jnp.where(some, table.outcome, 0)
    return jnp.abs(gap), table.size


def randomised_pit(
    key: Key[Array, ""],
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
) -> Float[Array, " m"]:
    r"""Return the probability integral transform of each count: u = F(s - 1) + v (F(s) - F(s - 1)), v uniform.

    F is the Beta-Binomial distribution function of the prediction, as in `beta_binomial_log_score`. For calibrated
    predictions u is uniform ("Predictive Model Assessment for Count Data", Czado, Gneiting and Held 2009). Where n = 0,
    u is NaN: give such rows the weight 0.
    """
    below, up_to = _pit_bounds(prediction, successes, group_size)
    u = below + jax.random.uniform(key, below.shape, below.dtype) * (up_to - below)
    return jnp.where(jnp.asarray(group_size) > 0, u, jnp.nan)


def rate_pit(prediction: Prediction, success_rate: Float[AnyArray, " m"]) -> Float[Array, " m"]:
    """Return the posterior's P(p <= true success rate), for simulations. It is uniform for calibrated predictions.

    The posterior is the Beta distribution with the predicted mean and variance. A standard deviation below a hundredth
    of sqrt(mean (1 - mean)) is raised to this bound, because float32 resolves no narrower posterior.
    """
    columns = {"rate": prediction.success_rate, "variance": prediction.variance}
    _, rate, variance, truth = counted(None, **columns, success_rate=success_rate)
    spread = jnp.clip(spread_of(rate, variance), _SMALLEST_SPREAD, _LARGEST_SPREAD)
    rate, concentration = jnp.clip(rate, 1e-6, 1 - 1e-6), (1 - spread) / spread
    return betainc(rate * concentration, (1 - rate) * concentration, truth)


def uniformity(pit: Float[AnyArray, " m"], *, num_bins: int = 10, weights: Weights = None) -> Uniformity:
    """Return how far the values of `randomised_pit` or `rate_pit` are from uniform.

    A U-shaped histogram means that the posteriors are too narrow. A peak in the middle means that they are too wide,
    and a slope means that they are biased.

    Raises:
        ValueError: `num_bins` is below 1, or the lengths differ.
    """
    _validate.positive_integer(num_bins=num_bins)
    w, u = counted(weights, pit=pit)
    num_bins = int(num_bins)
    bins = jnp.clip((u * num_bins).astype(jnp.int32), 0, num_bins - 1)
    total, known = jnp.sum(w), jnp.where(jnp.any(jnp.isnan(u)), jnp.nan, 1)
    shares = ratio(bin_sums(w, bins, num_bins), jnp.broadcast_to(total, num_bins)) * known
    order = jnp.argsort(u)
    u, w = u[order], w[order]
    up_to = jnp.cumsum(w)
    gap = jnp.maximum(up_to - u * total, u * total - (up_to - w))
    return Uniformity(shares, ratio(jnp.max(jnp.where(w > 0, gap, 0), initial=0), total) * known)


def success_coverage(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    levels: Sequence[float] = _LEVELS,
    *,
    weights: Weights = None,
) -> Float[Array, " levels"]:
    """Return how often the central predictive interval of each level contains the number of successes, for n > 0.

    A discrete count rarely has an interval of exactly a given probability. A count at the end of an interval therefore
    counts in part: by the share of [F(s - 1), F(s)] that lies between the two tails of probability (1 - level) / 2. The
    expected coverage of a calibrated prediction is then the level, for any group size and without random numbers.

    Args:
        prediction: Predictions, whose mean and variance define F as in `beta_binomial_log_score`.
        successes: s, the successes of fresh rollouts.
        group_size: n, the number of fresh rollouts.
        levels: Nominal levels between 0 and 1.
        weights: Weights of the rows.

    Raises:
        ValueError: A level is outside of [0, 1], or the lengths differ.
    """
    w, s, n = counted(weights, successes=successes, group_size=group_size)
    below, up_to = _pit_bounds(prediction, s, n)
    return _coverage(below, up_to, levels, jnp.where(n > 0, w, 0))


def rate_coverage(
    prediction: Prediction,
    success_rate: Float[AnyArray, " m"],
    levels: Sequence[float] = _LEVELS,
    *,
    weights: Weights = None,
) -> Float[Array, " levels"]:
    """Return how often the central posterior interval of each level contains the true success rate, for simulations.

    Args:
        prediction: Predictions, whose mean and variance define the posterior as in `rate_pit`.
        success_rate: True success rates of a simulation. For shares of successes use `success_coverage`.
        levels: Nominal levels between 0 and 1.
        weights: Weights of the rows.

    Raises:
        ValueError: A level is outside of [0, 1], or the lengths differ.
    """
    w, u = counted(weights, success_rate=rate_pit(prediction, success_rate))
    return _coverage(u, u, levels, w)


def _pit_bounds(
    prediction: Prediction, successes: Int[AnyArray, " m"], group_size: Int[AnyArray, " m"]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    columns = {"success_rate": prediction.success_rate, "variance": prediction.variance}
    _, s, n, rate, variance = counted(None, successes=successes, group_size=group_size, **columns)
    return cdf(s, n, rate, spread_of(rate, variance))


def _coverage(
    below: Float[Array, " m"], up_to: Float[Array, " m"], levels: Sequence[float], weights: Float[Array, " m"]
) -> Float[Array, " levels"]:
    _validate.listed("numbers from 0 to 1", levels=levels)
    for level in levels:
        _validate.unit_interval(levels=level)
    known = weights > 0
    below, up_to = jnp.where(known, below, 0), jnp.where(known, up_to, 0)

    def covered(level: Float[Array, ""]) -> Float[Array, ""]:
        low, high = (1 - level) / 2, (1 + level) / 2
        wide = up_to > below
        overlap = jnp.clip(jnp.minimum(up_to, high) - jnp.maximum(below, low), 0, 1)
        inside = ((below >= low) & (up_to <= high)).astype(below.dtype)
        share = jnp.where(wide, overlap / jnp.where(wide, up_to - below, 1), inside)
        return mean(jnp.where(jnp.isnan(up_to), jnp.nan, share), weights)

    return jax.lax.map(covered, jnp.asarray(levels, jnp.float32))
