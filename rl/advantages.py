"""Advantages from rewards."""

import torch


def grpo(rewards: torch.Tensor, *, epsilon: float = 1e-6) -> torch.Tensor:
    r"""Group-relative advantages, $A_{ij} = (r_{ij} - \bar r_i) / (\sigma_i + \epsilon)$ (GRPO, arXiv 2402.03300).

    Mean and (unbiased) standard deviation run over the rewards of the group that are known. A group without spread and
    a reward that is not known have advantage 0: they give no gradient.

    Args:
        rewards: float `[b, n]`; NaN where a rollout or its verification failed.
        epsilon: added to the standard deviation.

    Returns:
        float `[b, n]`, finite whatever the rewards.
    """
    known = ~rewards.isnan()
    count = known.sum(1, keepdim=True)
    mean = rewards.nan_to_num().sum(1, keepdim=True) / count.clamp_min(1)
    centred = torch.where(known, rewards - mean, 0.0).nan_to_num()
    std = (centred.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return torch.where(std > epsilon, centred / (std + epsilon), 0.0)
