r"""Losses of policies: PPO with clip-higher and dual clip, GSPO and CISPO.

All of them take the log-probabilities of the sampled tokens under the trained policy and under the policy that sampled
them, advantages, a mask, and the options of `rl.losses.terms.Terms`. They return the loss, a scalar, and metrics as
floats. Loss and metrics add up over the parts of a batch.

* clip_share is the share of the tokens whose ratio the clip changes or leaves without a gradient.
* approx_kl estimates the KL divergence to the old policy, from which the ratio is taken.
* reference_kl estimates the KL divergence to the reference policy, with `reference_log_probs`.
* dual_clip_share is the share of the tokens that the dual clip leaves without a gradient, with `dual_clip`.

Every log-ratio is clamped to plus or minus `MAX_LOG_RATIO`. Beyond it a token has no gradient in `clipped_policy_loss`.
A token is masked if its old, reference or engine log-probability is not finite. An empty mask gives the loss 0.
"""

from collections.abc import Callable
from typing import Unpack

import torch
from jaxtyping import Bool, Float

from rl.loss_options import check_clips, check_dual_clip
from rl.losses.terms import Objective, Terms, loss_of

LossAndMetrics = tuple[Float[torch.Tensor, ""], dict[str, float]]


def clipped_policy_loss(
    log_probs: Float[torch.Tensor, "r t"],
    old_log_probs: Float[torch.Tensor, "r t"],
    advantages: Float[torch.Tensor, " r"] | Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 0.0,
    **terms: Unpack[Terms],
) -> LossAndMetrics:
    r"""PPO's clipped objective with DAPO's clip-higher and token mean (arXiv 2503.14476, equations 8 to 12).

    $-\frac{1}{\sum_i |o_i|} \sum_i \sum_t \min(\rho_{it} A_i, \mathrm{clip}(\rho_{it}, 1 - c_l, 1 + c_h) A_i)$ with
    $\rho = \exp(\log p - \log p_\mathrm{old})$.

    Args:
        log_probs: Log-probabilities of the sampled tokens under the policy being trained.
        old_log_probs: Log-probabilities of the same tokens under the policy that sampled them.
        advantages: Advantages, one per completion or one per token.
        mask: The tokens that count.
        clip_low: The largest decrease of the ratio below 1.
        clip_high: The largest increase of the ratio above 1.
        dual_clip: The largest ratio that counts where the advantage is negative, above 1: the objective is then at
            least `dual_clip` times the advantage (arXiv 1912.09729, equation 4; verl's clip_ratio_c). 0: no such bound.
        **terms: The options that all policy losses share; see `Terms`.

    Returns:
        The loss and the metrics.

    Raises:
        ValueError: An option is out of its range.
    """
    check_clips(clip_low, clip_high)
    check_dual_clip(dual_clip)

    def objective(log_ratio: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor) -> Objective:
        del mask
        value, shares = _clipped(log_ratio.exp(), advantage, clip_low, clip_high)
        if dual_clip:
            bounded = (advantage < 0) & (value < dual_clip * advantage)
            value = torch.where(bounded, dual_clip * advantage, value)
            shares["dual_clip_share"] = bounded
        return Objective(value, shares)

    return loss_of(objective, log_probs, old_log_probs, advantages, mask, **terms)


def gspo_loss(
    log_probs: Float[torch.Tensor, "r t"],
    old_log_probs: Float[torch.Tensor, "r t"],
    advantages: Float[torch.Tensor, " r"] | Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    **terms: Unpack[Terms],
) -> LossAndMetrics:
    r"""GSPO's clipped objective, whose ratio belongs to a whole completion (arXiv 2507.18071, equations 5 to 17).

    The ratio is $s_i = \exp(\frac{1}{|o_i|} \sum_t (\log p_{it} - \log p_{\mathrm{old}, it}))$. In place of
    $\rho_{it}$, PPO's objective has $s_i p_{it} / p_{it}$, where only the numerator has a gradient. Each token thus
    keeps its own advantage and gradient. With the sequence mean, and one advantage per completion, the gradient is
    the gradient of $\min(s_i A_i, \mathrm{clip}(s_i) A_i)$.

    The ratio averages over tokens, so it stays close to 1: the paper's clips are 3e-4 and 4e-4. The paper uses the
    aggregation sequence_mean.

    Args:
        log_probs: Log-probabilities of the sampled tokens under the policy being trained.
        old_log_probs: Log-probabilities of the same tokens under the policy that sampled them.
        advantages: Advantages, one per completion or one per token.
        mask: The tokens that count.
        clip_low: The largest decrease of the ratio below 1.
        clip_high: The largest increase of the ratio above 1.
        **terms: The options that all policy losses share; see `Terms`.

    Returns:
        The loss and the metrics.

    Raises:
        ValueError: An option is out of its range.
    """
    check_clips(clip_low, clip_high)

    def objective(log_ratio: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor) -> Objective:
        length = mask.sum(1, keepdim=True).clamp_min(1)
        of_sequence = log_ratio.detach().sum(1, keepdim=True) / length
        own = torch.where(mask, log_probs, 0.0)
        return _clipped((own - own.detach() + of_sequence).exp(), advantage, clip_low, clip_high)

    return loss_of(objective, log_probs, old_log_probs, advantages, mask, **terms)


def cispo_loss(
    log_probs: Float[torch.Tensor, "r t"],
    old_log_probs: Float[torch.Tensor, "r t"],
    advantages: Float[torch.Tensor, " r"] | Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    **terms: Unpack[Terms],
) -> LossAndMetrics:
    r"""CISPO: log-probabilities with clipped, constant importance weights (arXiv 2506.13585, equations 4 and 5).

    The objective of a token is $\mathrm{clip}(\rho_{it}, 1 - c_l, 1 + c_h) A_i \log p_{it}$, where the clipped ratio
    has no gradient. A clipped token therefore still learns, unlike in PPO. The value of the loss depends on the
    log-probabilities themselves; only its gradient can be compared with PPO's.

    Args:
        log_probs: Log-probabilities of the sampled tokens under the policy being trained.
        old_log_probs: Log-probabilities of the same tokens under the policy that sampled them.
        advantages: Advantages, one per completion or one per token.
        mask: The tokens that count.
        clip_low: The largest decrease of the weight below 1. The paper has no lower bound; a number just below 1 comes
            close to that.
        clip_high: The largest increase of the weight above 1.
        **terms: The options that all policy losses share; see `Terms`.

    Returns:
        The loss and the metrics.

    Raises:
        ValueError: An option is out of its range.
    """
    check_clips(clip_low, clip_high)

    def objective(log_ratio: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor) -> Objective:
        ratio = log_ratio.detach().exp()
        weight = ratio.clamp(1 - clip_low, 1 + clip_high)
        value = weight * advantage * torch.where(mask, log_probs, 0.0)
        return Objective(value, {"clip_share": weight != ratio})

    return loss_of(objective, log_probs, old_log_probs, advantages, mask, **terms)


POLICY_LOSSES: dict[str, Callable[..., LossAndMetrics]] = {
    "ppo": clipped_policy_loss,
    "gspo": gspo_loss,
    "cispo": cispo_loss,
}
"""The policy losses by name."""


def _clipped(ratio: torch.Tensor, advantage: torch.Tensor, clip_low: float, clip_high: float) -> Objective:
    """Return PPO's objective: the smaller product of the advantage with the ratio and with the clipped ratio."""
    unclipped = ratio * advantage
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    return Objective(torch.minimum(unclipped, clipped), {"clip_share": clipped < unclipped})
