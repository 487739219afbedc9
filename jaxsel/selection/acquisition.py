"""Prediction -> scores: what makes a prompt worth rolling out. The higher, the better."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsel import _validate
from jaxsel.base import Acquisition, Prediction


def thompson(target: float = 0.5) -> Acquisition:
    """Minus the squared distance of the posterior draw to `target` (MoPPS, arXiv 2507.04632)."""
    _validate.unit_interval(target=target)
    return Acquisition({"name": "thompson", "target": target}, lambda p: -((p.draw - target) ** 2))


def target_success_rate(target: float = 0.5) -> Acquisition:
    """Minus the squared distance of the posterior mean to `target` (INSIGHT, arXiv 2603.01907; GPS)."""
    _validate.unit_interval(target=target)
    spec = {"name": "target_success_rate", "target": target}
    return Acquisition(spec, lambda p: -((p.success_rate - target) ** 2))


def posterior_draw() -> Acquisition:
    """The posterior draw itself, for rules that look for a band of success rates."""
    return Acquisition({"name": "posterior_draw"}, lambda p: p.draw)


def mixed_probability(*, entropy_weight: float = 0.0, log: bool = False) -> Acquisition:
    """P(0 < s < n), plus `entropy_weight` times the entropy of the solve state (DPS, arXiv 2603.10887).

    Args:
        entropy_weight: of the bonus, at least 0.
        log: take the logarithm, so that `gumbel_top_k` samples in proportion to it (MaPP, arXiv 2609.34990).
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
    """The entropy of the predicted solve state."""
    return Acquisition({"name": "entropy"}, solve_state_entropy)


def solve_state_entropy(prediction: Prediction) -> Float[Array, " m"]:
    """Minus the sum of P log P over the three solve states, in nats; 0 log 0 is 0."""

    def term(belief: Float[Array, " m"]) -> Float[Array, " m"]:
        return belief * jnp.log(jnp.where(belief > 0, belief, 1.0))

    return -(term(prediction.unsolved) + term(prediction.mixed) + term(prediction.solved))
