"""Advantages from rewards: pure functions. A reward of NaN is no judgement: it counts nowhere and has advantage 0."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float


def grpo(
    rewards: Float[torch.Tensor, "b n"], *, divide_by_std: bool = True, epsilon: float = 1e-6
) -> Float[torch.Tensor, "b n"]:
    r"""Group-relative advantages, $A_{ij} = (r_{ij} - \bar r_i) / (\sigma_i + \epsilon)$ (GRPO, arXiv 2402.03300).

    Mean and (unbiased) standard deviation run over the rewards of the group that are known. A group without spread and
    a reward that is not known have advantage 0: they give no gradient.

    Args:
        rewards: a row is a group; NaN where a rollout or its verification failed.
        divide_by_std: false: $A_{ij} = r_{ij} - \bar r_i$, as in Dr. GRPO (arXiv 2503.20783).
        epsilon: added to the standard deviation; a group whose standard deviation is not above it has no spread.

    Returns:
        Finite whatever the rewards.
    """
    centred, std, _ = _centre(rewards)
    return torch.where(std > epsilon, centred / (std + epsilon) if divide_by_std else centred, 0.0)


def rloo(rewards: Float[torch.Tensor, "b n"], *, epsilon: float = 1e-6) -> Float[torch.Tensor, "b n"]:
    r"""Leave-one-out advantages, $A_{ij} = r_{ij} - \frac{1}{n - 1} \sum_{k \ne j} r_{ik}$ (RLOO, arXiv 2402.14740).

    That is $\frac{n}{n - 1} (r_{ij} - \bar r_i)$ with n the rewards of the group that are known. A reward without
    another one to compare it with has advantage 0.

    Args:
        rewards: a row is a group; NaN where a rollout or its verification failed.
        epsilon: a group whose standard deviation is not above it has advantage 0.

    Returns:
        Finite whatever the rewards.
    """
    centred, std, count = _centre(rewards)
    return torch.where(std > epsilon, centred * count / (count - 1).clamp_min(1), 0.0)


def reinforce_pp(
    rewards: Float[torch.Tensor, "b n"], *, group_baseline: bool = False, epsilon: float = 1e-6
) -> Float[torch.Tensor, "b n"]:
    r"""Advantages normalised over the batch, $A_{ij} = (r_{ij} - \bar r) / (\sigma + \epsilon)$ (arXiv 2501.03262).

    REINFORCE++ without its penalty on the reward; mean and (unbiased) standard deviation run over all completions that
    were judged, each counting once. A group of equal rewards has a gradient here, a batch of equal rewards has none.

    Args:
        rewards: a row is a group; NaN where a rollout or its verification failed.
        group_baseline: REINFORCE++ w/ Baseline: the mean of the group is taken off before the batch is normalised, so
            that a group of equal rewards has advantage 0.
        epsilon: added to the standard deviation; rewards whose standard deviation is not above it have no spread.

    Returns:
        Finite whatever the rewards.
    """
    if not group_baseline:
        return grpo(rewards.reshape(1, -1), epsilon=epsilon).reshape(rewards.shape)
    centred = grpo(rewards, divide_by_std=False, epsilon=epsilon)  # of mean 0 in every group, and so in the batch
    std = (centred.square().sum() / ((~rewards.isnan()).sum() - 1).clamp_min(1)).sqrt()
    return torch.where(std > epsilon, centred / (std + epsilon), 0.0)


@torch.no_grad()
def gae(
    rewards_per_token: Float[torch.Tensor, "r t"],
    values: Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    discount: float = 1.0,
    gae_lambda: float = 0.95,
) -> tuple[Float[torch.Tensor, "r t"], Float[torch.Tensor, "r t"]]:
    r"""Generalised advantage estimation over the tokens of a completion (arXiv 1506.02438, equation 16).

    $A_t = \delta_t + \gamma \lambda A_{t+1}$ with $\delta_t = r_t + \gamma V_{t+1} - V_t$. After the last token value
    and advantage are 0, also where a completion was cut short. Tokens that the mask hides are stepped over: t + 1 is
    the next token that counts.

    Args:
        rewards_per_token: the reward of a verified completion stands at its last token; NaN at a token that counts: the
            whole completion was not judged.
        values: of the state before each token; no gradient flows into them.
        mask: the tokens that count.
        discount: $\gamma$, 0 to 1.
        gae_lambda: $\lambda$, 0 to 1: 0 trusts the values, 1 the rewards.

    Returns:
        The advantages, 0 where the mask is false and in completions that were not judged; and the returns
        $A_t + V_t$, what the values should have been: 0 where the mask is false, NaN in completions not judged.

    Raises:
        ValueError: `discount` or `gae_lambda` is not in 0 to 1.
    """
    for name, value in {"discount": discount, "gae_lambda": gae_lambda}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; give a number from 0 to 1")
    judged = ~(rewards_per_token.isnan() & mask).any(1)
    advantages = torch.zeros_like(values)
    advantage = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards_per_token[:, t] + discount * next_value - values[:, t]
        advantage = torch.where(mask[:, t], delta + discount * gae_lambda * advantage, advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        advantages[:, t] = advantage
    counts = mask & judged[:, None]
    returns = torch.where(mask, torch.where(judged[:, None], advantages + values, torch.nan), 0.0)
    return torch.where(counts, advantages, 0.0), returns


def normalise(
    advantages: Float[torch.Tensor, "r t"], mask: Bool[torch.Tensor, "r t"], *, epsilon: float = 1e-6
) -> Float[torch.Tensor, "r t"]:
    """Advantages of mean 0 and (unbiased) standard deviation 1 over the tokens that count, as TRL and verl do in PPO.

    Args:
        advantages: of tokens.
        mask: the tokens that count; advantages of the others are ignored, and 0 in the result.
        epsilon: see `reinforce_pp`, which does the same to completions.
    """
    return reinforce_pp(torch.where(mask, advantages, torch.nan), epsilon=epsilon)


FROM_REWARDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "grpo": grpo,
    "dr_grpo": partial(grpo, divide_by_std=False),
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": partial(reinforce_pp, group_baseline=True),
}
"""Advantages of completions by name; gae, of tokens, needs values as well."""


def _centre(
    rewards: Float[torch.Tensor, "b n"],
) -> tuple[Float[torch.Tensor, "b n"], Float[torch.Tensor, "b 1"], Float[torch.Tensor, "b 1"]]:
    """Known rewards minus their group's mean (0 for the others), their standard deviation and their number."""
    known = ~rewards.isnan()
    count = known.sum(1, keepdim=True)
    mean = rewards.nan_to_num().sum(1, keepdim=True) / count.clamp_min(1)
    centred = torch.where(known, rewards - mean, 0.0).nan_to_num()
    std = (centred.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return centred, std, count
