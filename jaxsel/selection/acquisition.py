"""Acquisitions: they score predictions. The higher the score, the more a prompt is worth rolling out."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsel import _validate
from jaxsel.base import Acquisition, Prediction


def thompson(target: float = 0.5) -> Acquisition:
    """Score by minus the squared distance of the posterior draw to `target` (MoPPS, arXiv 2507.04632)."""
    _validate.unit_interval(target=target)
    return Acquisition({"name": "thompson", "target": target}, lambda p: -((p.draw - target) ** 2))


def target_success_rate(target: float = 0.5) -> Acquisition:
    """Score by minus the squared distance of the posterior mean to `target` (INSIGHT, arXiv 2603.01907; GPS)."""
    _validate.unit_interval(target=target)
    spec = {"name": "target_success_rate", "target": target}
    return Acquisition(spec, lambda p: -((p.success_rate - target) ** 2))


def posterior_draw() -> Acquisition:
    """Score by the posterior draw itself, for rules that choose a band of success rates."""
    return Acquisition({"name": "posterior_draw"}, lambda p: p.draw)


def mixed_probability(*, entropy_weight: float = 0.0, log: bool = False) -> Acquisition:
    """Score by P(0 < s < n) plus `entropy_weight` times the entropy of the solve state (DPS, arXiv 2603.10887).

    Args:
        entropy_weight: Weight of the entropy, at least 0.
        log: Whether the score is the logarithm of the sum. `gumbel_top_k` then samples in proportion to the sum
            (MaPP, arXiv 2609.34990).
    """
    _validate.non_negative(entropy_weight=entropy_weight)

    def score(prediction: Prediction) -> Float[Array, " m"]:
        value = prediction.mixed
        if entropy_weight:
            value = value + entropy_weight * solve_state_entropy(prediction)
        return jnp.log(value) if log else value

    spec = {"name": "mixed_probability", "entropy_weight": entropy_weight, "log": log}
    return Acquisition(spec, score)


def entropy() -> Acquisition:
    """Score by the entropy of the predicted solve state."""
    return Acquisition({"name": "entropy"}, solve_state_entropy)


def solve_state_entropy(prediction: Prediction) -> Float[Array, " m"]:
    """Return minus the sum of P log P over the three solve states, in nats; 0 log 0 is 0."""

    def term(belief: Float[Array, " m"]) -> Float[Array, " m"]:
        return belief * jnp.log(jnp.where(belief > 0, belief, 1.0))

    return -(term(prediction.unsolved) + term(prediction.mixed) + term(prediction.solved))
