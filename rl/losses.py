"""Policy losses: pure functions that return `(loss, metrics)`."""

import torch


def clipped_policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    num_tokens: int | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    r"""PPO's clipped objective with DAPO's clip-higher and token mean (arXiv 2503.14476, equations 8 to 12).

    $-\frac{1}{\sum_i |o_i|} \sum_i \sum_t \min(\rho_{it} A_i, \mathrm{clip}(\rho_{it}, 1 - c_l, 1 + c_h) A_i)$ with
    $\rho = \exp(\log p - \log p_\mathrm{old})$. No token, no loss: an empty mask gives 0.

    Args:
        log_probs: float `[r, t]`, of the sampled tokens under the policy being trained.
        old_log_probs: float `[r, t]`, under the policy that sampled them.
        advantages: float `[r]`, one a completion.
        mask: bool `[r, t]`, the tokens that count.
        clip_low: how far the ratio may fall below 1.
        clip_high: how far it may rise above 1.
        num_tokens: what the sum is divided by, when these rows are a part of a batch; None: the tokens of the mask.

    Returns:
        The loss, a scalar, and the share of clipped tokens and the approximate KL divergence as floats.
    """
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    ratio = log_ratio.exp()
    advantage = advantages[:, None]
    unclipped = ratio * advantage
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    total = max(int(mask.sum()) if num_tokens is None else num_tokens, 1)
    loss = -(torch.minimum(unclipped, clipped) * mask).sum() / total
    with torch.no_grad():
        metrics = {
            "clip_share": float(((clipped < unclipped) & mask).sum() / total),
            "approx_kl": float(((ratio - 1 - log_ratio) * mask).sum() / total),
        }
    return loss, metrics
