"""Acquisitions, which score predictions. A prompt with a higher score is a better choice for training.

p is the success rate of a prompt, and a group is n of its rollouts, s of them correct. The solve state of a group is
unsolved (s = 0), mixed (0 < s < n) or solved (s = n).
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsel import _validate
from jaxsel._shared import shared
from jaxsel.base import Acquisition, Prediction, Scalar
from jaxsel.numerics import beta_binomial


@shared
def thompson(target: float = 0.5) -> Acquisition:
    """Score by minus the squared distance of a posterior draw of p to `target` (MoPPS, arXiv 2507.04632)."""
    _validate.unit_interval(target=target)
    target = float(target)
    return Acquisition({"name": "thompson", "target": target}, lambda p: -((p.draw - target) ** 2), reads_draw=True)


@shared
def target_success_rate(target: float = 0.5) -> Acquisition:
    """Score by minus the squared distance of the mean of p to `target` (INSIGHT, arXiv 2603.01907; GPS)."""
    _validate.unit_interval(target=target)
    target = float(target)
    spec = {"name": "target_success_rate", "target": target}
    return Acquisition(spec, lambda p: -((p.success_rate - target) ** 2))


@shared
def posterior_draw() -> Acquisition:
    """Score by a posterior draw of p, for rules that choose a band of success rates."""
    return Acquisition({"name": "posterior_draw"}, lambda p: p.draw, reads_draw=True)


@shared
def mixed_probability(*, entropy_weight: float = 0.0, log: bool = False) -> Acquisition:
    """Score by P(0 < s < n) plus `entropy_weight` times the entropy of the solve state (DPS, arXiv 2603.10887).

    Args:
        entropy_weight: Weight of the entropy, at least 0.
        log: Whether the score is the logarithm of the sum. The rule `gumbel_top_k` then samples in proportion to the
            sum (MaPP, arXiv 2609.34990).
    """
    _validate.non_negative(entropy_weight=entropy_weight)
    entropy_weight = float(entropy_weight)

    def score(prediction: Prediction) -> Float[Array, " m"]:
        value = prediction.mixed
        if entropy_weight:
            value = value + entropy_weight * solve_state_entropy(prediction)
        return _log(value) if log else value

    spec = {"name": "mixed_probability", "entropy_weight": entropy_weight, "log": log}
    return Acquisition(spec, score)


@shared
def mixed_near_target(target: float = 0.5, *, log: bool = False) -> Acquisition:
    r"""Score by P(0 < s < n) times a Gaussian kernel in arc length around `target` (ARCUS, arXiv 2609.38018).

        P(0 < s < n) exp(-(psi(mean) - psi(target))^2 / (2 width^2)),    psi(p) = arcsin sqrt(p)
        width = min(sin, cos)(psi(target)) / sqrt(2),    so that 2 width^2 = min(target, 1 - target)

    The mean is the predicted success rate. The target is constant; with `jaxsel.paced` it moves during training.

    Args:
        target: Success rate at the centre of the kernel, from 1e-6 to 1 - 1e-6.
        log: Whether the score is the logarithm. ARCUS samples with the rule `gumbel_top_k(0.3)`, in proportion to a
            power of the score.

    Raises:
        ValueError: The target is not between 1e-6 and 1 - 1e-6.
    """
    _validate.inner_rate(target=target)
    target = float(target)
    centre, twice_squared_width = math.asin(math.sqrt(target)), min(target, 1 - target)

    def score(prediction: Prediction) -> Float[Array, " m"]:
        exponent = log_kernel(prediction.success_rate, centre, twice_squared_width)
        return _log(prediction.mixed) + exponent if log else prediction.mixed * jnp.exp(exponent)

    return Acquisition({"name": "mixed_near_target", "target": target, "log": log}, score)


def log_kernel(success_rate: Float[Array, " m"], centre: Scalar, twice_squared_width: Scalar) -> Float[Array, " m"]:
    """Return the logarithm of a Gaussian kernel in arc length, arcsin sqrt(success rate); `centre` is an arc length."""
    angle = jnp.arcsin(jnp.sqrt(jnp.clip(success_rate, 0, 1)))
    return -((angle - centre) ** 2) / twice_squared_width


@shared
def entropy() -> Acquisition:
    """Score by the entropy of the predicted solve state."""
    return Acquisition({"name": "entropy"}, solve_state_entropy)


def solve_state_entropy(prediction: Prediction) -> Float[Array, " m"]:
    """Return minus the sum of P log P over the three solve states, in nats; 0 log 0 is 0."""

    def term(belief: Float[Array, " m"]) -> Float[Array, " m"]:
        return belief * jnp.log(jnp.where(belief > 0, belief, 1.0))

    return -(term(prediction.unsolved) + term(prediction.mixed) + term(prediction.solved))


@shared
def expected_variance(*, log: bool = False) -> Acquisition:
    """Score by E[p (1 - p)], the expected variance of the rewards, which is the size of GRPO's signal.

    The score is `success_rate - variance - success_rate ** 2`, which equals E[p (1 - p)] for every predictor. For n =
    8, it is 0.25 at p = 0.5 and 0.16 at p = 0.2, where P(0 < s < n) is 0.99 and 0.83.

    Args:
        log: Whether the score is the logarithm. `gumbel_top_k` then samples in proportion to a power of E[p (1 - p)].
    """

    def score(prediction: Prediction) -> Float[Array, " m"]:
        value = prediction.success_rate - prediction.variance - prediction.success_rate**2
        return _log(value) if log else value

    return Acquisition({"name": "expected_variance", "log": log}, score)


@shared
def expected_signal(group_size: int = 8, *, log: bool = False) -> Acquisition:
    """Score by E[sqrt(s (n - s))] / n, the expected standard deviation of the rewards of a group.

    The success rate is modelled as a Beta variable with the predicted mean and variance, so that s is Beta-Binomial.
    This is exact for `beta_bernoulli`. With normalised advantages, GRPO's gradient for a group is the difference
    between the mean gradients of its correct and its wrong rollouts, times sqrt(s (n - s)) / n.

    Args:
        group_size: n, the number of rollouts per prompt. Give the group size of the predictor here too.
        log: Whether the score is the logarithm. `gumbel_top_k` then samples in proportion to a power of the signal.

    Raises:
        ValueError: The group size is not an integer of at least 1.
    """
    _validate.positive_integer(group_size=group_size)
    group_size = int(group_size)

    def score(prediction: Prediction) -> Float[Array, " m"]:
        mean = prediction.success_rate
        s = np.arange(group_size + 1)
        signal = (np.sqrt(s * (group_size - s)) / group_size).astype(np.float32)
        total = beta_binomial.expectation(signal, mean, beta_binomial.spread_of(mean, prediction.variance))
        return _log(total) if log else total

    return Acquisition({"name": "expected_signal", "group_size": group_size, "log": log}, score)


def _log(value: Float[Array, " m"]) -> Float[Array, " m"]:
    """Return the logarithm; a value that rounding moved below 0 counts as 0."""
    return jnp.log(jnp.maximum(value, 0))
