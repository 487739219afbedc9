"""Advantages from rewards: pure functions.

A reward of NaN or of plus or minus infinity means that a completion was not judged: it counts nowhere, and its
advantage is 0. Sums are computed in float64. Rewards have no spread where their range is at most `RELATIVE_SPREAD`
times the largest absolute reward: a difference that small is the rounding error of float32.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float

RELATIVE_SPREAD = 1e-6
"""The range of rewards, relative to the largest of them, up to which they count as equal."""


def grpo(
    rewards: Float[torch.Tensor, "b n"], *, divide_by_std: bool = True, epsilon: float = 1e-6
) -> Float[torch.Tensor, "b n"]:
    r"""Group-relative advantages, $A_{ij} = (r_{ij} - \bar r_i) / (\sigma_i + \epsilon)$ (GRPO, arXiv 2402.03300).

    Mean and (unbiased) standard deviation run over the rewards of the group that are known. A group without spread and
    a reward that is not known have advantage 0: they give no gradient.

    Args:
        rewards: one row per group; not finite where a rollout or its verification failed.
        divide_by_std: false: $A_{ij} = r_{ij} - \bar r_i$, as in Dr. GRPO (arXiv 2503.20783).
        epsilon: added to the standard deviation.

    Returns:
        Finite whatever the rewards.
    """
    centred, std, _ = _centre(rewards)
    return _like(rewards, centred / (std + epsilon) if divide_by_std else centred)


def rloo(rewards: Float[torch.Tensor, "b n"]) -> Float[torch.Tensor, "b n"]:
    r"""Leave-one-out advantages, $A_{ij} = r_{ij} - \frac{1}{n - 1} \sum_{k \ne j} r_{ik}$ (RLOO, arXiv 2402.14740).

    That is $\frac{n}{n - 1} (r_{ij} - \bar r_i)$ with n the rewards of the group that are known. A reward without
    another one to compare it with has advantage 0, and so has a group without spread.

    Args:
        rewards: one row per group; not finite where a rollout or its verification failed.

    Returns:
        Finite whatever the rewards.
    """
    centred, _, count = _centre(rewards)
    return _like(rewards, centred * count / (count - 1).clamp_min(1))


def reinforce_pp(
    rewards: Float[torch.Tensor, "b n"], *, group_baseline: bool = False, epsilon: float = 1e-6
) -> Float[torch.Tensor, "b n"]:
    r"""Advantages normalised over the batch, $A_{ij} = (r_{ij} - \bar r) / (\sigma + \epsilon)$ (arXiv 2501.03262).

    REINFORCE++ without its penalty on the reward; mean and (unbiased) standard deviation run over all completions that
    were judged, each counting once. A group of equal rewards has a gradient here, a batch of equal rewards has none.

    Args:
        rewards: one row per group; not finite where a rollout or its verification failed.
        group_baseline: REINFORCE++ w/ Baseline: the mean of the group is taken off before the batch is normalised, so
            that a group of equal rewards has advantage 0.
        epsilon: added to the standard deviation.

    Returns:
        Finite whatever the rewards.
    """
    if not group_baseline:
        return grpo(rewards.reshape(1, -1), epsilon=epsilon).reshape(rewards.shape)
    centred, _, count = _centre(rewards)  # of mean 0 in every group, and so in the batch
    std = (centred.square().sum() / (count.sum() - 1).clamp_min(1)).sqrt()
    return _like(rewards, centred / (std + epsilon))


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
        rewards_per_token: the reward of a verified completion stands at its last token. One that is not finite, at a
            token that counts, means that the whole completion was not judged.
        values: of the state before each token; no gradient flows into them. A completion with a value that is not
            finite is treated as one that was not judged.
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
    judged = (rewards_per_token.isfinite() & values.isfinite() | ~mask).all(1)
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
    advantages: Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    scale: float = 0.0,
    epsilon: float = 1e-6,
) -> Float[torch.Tensor, "r t"]:
    """Advantages of mean 0 and (unbiased) standard deviation 1 over the tokens that count, as TRL and verl do in PPO.

    Args:
        advantages: of tokens.
        mask: the tokens that count; advantages of the others are ignored, and 0 in the result.
        scale: the largest absolute value among the rewards and values that the advantages are differences of. All
            results are 0 where the range of the advantages is within the rounding error of numbers of that size.
        epsilon: added to the standard deviation.
    """
    rows = torch.where(mask, advantages, torch.nan).reshape(1, -1)
    centred, std, _ = _centre(rows, scale)
    return _like(rows, centred / (std + epsilon)).reshape(advantages.shape)


FROM_REWARDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "grpo": grpo,
    "dr_grpo": partial(grpo, divide_by_std=False),
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": partial(reinforce_pp, group_baseline=True),
}
"""Advantages of completions by name; gae, of tokens, needs values as well."""


def _centre(
    rewards: Float[torch.Tensor, "b n"], scale: float = 0.0
) -> tuple[Float[torch.Tensor, "b n"], Float[torch.Tensor, "b 1"], Float[torch.Tensor, "b 1"]]:
    """Known rewards minus their group's mean (0 without spread), their standard deviation and their number, in float64.

    Rewards have no spread where their range is small beside the largest of them, or beside `scale`.
    """
    if not rewards.numel():
        nothing = rewards.new_zeros((len(rewards), 1), dtype=torch.float64)
        return rewards.double(), nothing, nothing
    known = rewards.isfinite()
    count = known.sum(1, keepdim=True).double()
    exact = torch.where(known, rewards.double(), 0.0)
    low = torch.where(known, exact, torch.inf).amin(1, keepdim=True)
    high = torch.where(known, exact, -torch.inf).amax(1, keepdim=True)
    spread = high - low > RELATIVE_SPREAD * exact.abs().amax(1, keepdim=True).clamp_min(scale)
    mean = exact.sum(1, keepdim=True) / count.clamp_min(1)
    centred = torch.where(known & spread, exact - mean, 0.0)
    std = (centred.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return centred, std, count


def _like(rewards: Float[torch.Tensor, "b n"], advantages: Float[torch.Tensor, "b n"]) -> Float[torch.Tensor, "b n"]:
    """The advantages in the type of the rewards, within its range: 1e38 times 2 stays finite in float32."""
    dtype = rewards.dtype if rewards.is_floating_point() else torch.get_default_dtype()
    limits = torch.finfo(dtype)
    return advantages.nan_to_num(0.0).clamp(limits.min, limits.max).to(dtype)
