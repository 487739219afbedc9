"""Advantages from rewards, as pure functions.

A reward of NaN or of plus or minus infinity means that a completion was not judged: its generation or its verification
failed. No mean or deviation includes it, and its advantage is 0. Sums are computed in float64. Rewards count as equal
if their range is at most `RELATIVE_SPREAD` times the largest absolute reward: such a difference is the rounding error
of float32.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float

from rl import _checks

RELATIVE_SPREAD = 1e-6
"""The range of rewards, relative to the largest absolute reward, up to which rewards count as equal."""
SMALLEST_RATE = 1e-6
"""The smallest mean of a belief about a success rate in `mapp`. The largest mean is 1 minus this number."""
PSEUDO_COUNTS = (1e-3, 1e6)
"""The smallest and the largest a + b of a belief Beta(a, b) in `mapp`."""


def grpo(
    rewards: Float[torch.Tensor, "b n"], *, divide_by_std: bool = True, epsilon: float = 1e-6
) -> Float[torch.Tensor, "b n"]:
    r"""Group-relative advantages, $A_{ij} = (r_{ij} - \bar r_i) / (\sigma_i + \epsilon)$ (GRPO, arXiv 2402.03300).

    The mean and the (unbiased) standard deviation run over the finite rewards of the group. Groups of equal rewards and
    rewards that are not finite have advantage 0: they give no gradient.

    Args:
        rewards: Rewards, one row per group; not finite where a rollout or its verification failed.
        divide_by_std: Whether to divide by the standard deviation. False gives $A_{ij} = r_{ij} - \bar r_i$, as in
            Dr. GRPO (arXiv 2503.20783).
        epsilon: A constant of at least 0 that is added to the standard deviation.

    Returns:
        The advantages, which are always finite.
    """
    _checks.at_least_zero(epsilon=epsilon)
    centred, std, _ = _centre(rewards)
    return _like(rewards, centred / (std + epsilon) if divide_by_std else centred)


def rloo(rewards: Float[torch.Tensor, "b n"]) -> Float[torch.Tensor, "b n"]:
    r"""Leave-one-out advantages, $A_{ij} = r_{ij} - \frac{1}{n - 1} \sum_{k \ne j} r_{ik}$ (RLOO, arXiv 2402.14740).

    This equals $\frac{n}{n - 1} (r_{ij} - \bar r_i)$, where n is the number of finite rewards of the group. The
    advantage is 0 for the only finite reward of a group, and for groups of equal rewards.

    Args:
        rewards: Rewards, one row per group; not finite where a rollout or its verification failed.

    Returns:
        The advantages, which are always finite.
    """
    centred, _, count = _centre(rewards)
    return _like(rewards, centred * count / (count - 1).clamp_min(1))


def reinforce_pp(
    rewards: Float[torch.Tensor, "b n"], *, group_baseline: bool = False, epsilon: float = 1e-6
) -> Float[torch.Tensor, "b n"]:
    r"""Advantages normalised over the batch, $A_{ij} = (r_{ij} - \bar r) / (\sigma + \epsilon)$ (arXiv 2501.03262).

    This is REINFORCE++ without the KL penalty in its reward. The mean and the (unbiased) standard deviation run over
    all judged completions, each with the same weight. By default a group of equal rewards has a gradient here, but a
    batch of equal rewards has none.

    Args:
        rewards: Rewards, one row per group; not finite where a rollout or its verification failed.
        group_baseline: Whether to subtract the mean of each group before the batch is normalised, as in REINFORCE++ w/
            Baseline. A group of equal rewards then has advantage 0.
        epsilon: A constant of at least 0 that is added to the standard deviation.

    Returns:
        The advantages, which are always finite.
    """
    _checks.at_least_zero(epsilon=epsilon)
    if not group_baseline:
        return grpo(rewards.reshape(1, -1), epsilon=epsilon).reshape(rewards.shape)
    centred, _, count = _centre(rewards)  # the mean is 0 in every group, and therefore in the batch
    std = (centred.square().sum() / (count.sum() - 1).clamp_min(1)).sqrt()
    return _like(rewards, centred / (std + epsilon))


def mapp(
    rewards: Float[torch.Tensor, "b n"], success_rate: Float[torch.Tensor, " b"], variance: Float[torch.Tensor, " b"]
) -> Float[torch.Tensor, "b n"]:
    r"""Advantages denoised by a predicted distribution of the success rate, as in MaPP (arXiv 2609.34990).

    Let a prompt have n judged completions, S of them correct. GRPO with the population's standard deviation gives a
    correct completion the advantage $\sqrt{(n - S) / S}$. MaPP replaces it by its expectation over the results of the
    other completions, under the belief (the predicted distribution):

    $$A_{ij} = \sum_{S = 1}^{n - 1} w_S(a, b) \sqrt{\tfrac{n - S}{S}} \text{ if completion j is correct, else }
    -\sum_{S = 1}^{n - 1} w_S(b, a) \sqrt{\tfrac{n - S}{S}}.$$

    $w_S(a, b)$ is the Beta-Binomial probability of S - 1 successes among n - 1 completions. Beta(a, b) is the belief
    before the step, with the counts of the group's other judged completions added. A belief that is not a Beta
    distribution is replaced by the Beta distribution with its mean and variance. Means are clipped to the range from
    `SMALLEST_RATE` to 1 minus it, and a + b to the range `PSEUDO_COUNTS`.

    A group of equal rewards has a gradient here if the belief leaves a chance that the other completions differ.

    Args:
        rewards: 1 for a correct completion, 0 for a wrong one, and not finite where a rollout or its verification
            failed.
        success_rate: The mean of the belief before the step, one per group.
        variance: The variance of the belief before the step, one per group.

    Returns:
        The advantages. Their absolute values are at most $\sqrt{n - 1}$.

    Raises:
        ValueError: A finite reward is neither 0 nor 1, or a belief is not finite or out of its range.
    """
    known = rewards.isfinite()
    correct = torch.where(known, rewards.double(), 0.0)
    other = correct[(correct != 0) & (correct != 1)]
    if len(other):
        cure = "give 1 for a correct completion and 0 for a wrong one"
        raise ValueError(f"rewards holds {float(other[0])}, and mapp reads 0 and 1 alone; {cure}")
    alpha, beta = (column[:, None] for column in _beta(success_rate.double(), variance.double()))
    count, successes = (column.double().sum(1, keepdim=True) for column in (known, correct))
    own = torch.tensor([1.0, 0.0], dtype=correct.dtype, device=correct.device)  # a correct completion, and a wrong one
    a = alpha + successes - own
    b = beta + (count - successes) - (1 - own)
    # where a group has no such completion, a or b may be below 0, and the result is not used
    sizes = _expected_size(torch.where(own == 1, a, b), torch.where(own == 1, b, a), count, rewards.shape[1])
    sizes = torch.where(correct == 1, sizes[:, :1], sizes[:, 1:])
    return _like(rewards, torch.where(known, (2 * correct - 1) * sizes, 0.0))


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

    $A_t = \delta_t + \gamma \lambda A_{t+1}$ with $\delta_t = r_t + \gamma V_{t+1} - V_t$. After the last token, value
    and advantage are 0, also in a completion that was cut short. Tokens outside the mask are skipped: t + 1 is the next
    token of the mask.

    Args:
        rewards_per_token: Rewards per token. The reward of a verified completion belongs to its last token. If a reward
            within the mask is not finite, the whole completion was not judged.
        values: Values of the state before each token, through which no gradient flows. If a value within the mask is
            not finite, the completion is treated as not judged.
        mask: The tokens that count.
        discount: $\gamma$, from 0 to 1.
        gae_lambda: $\lambda$, from 0 to 1: 0 relies on the values, 1 on the rewards.

    Returns:
        The advantages, which are 0 outside the mask and in completions that were not judged. The returns $A_t + V_t$,
        the targets of the values, which are 0 outside the mask and NaN in completions that were not judged.

    Raises:
        ValueError: `discount` or `gae_lambda` is not between 0 and 1.
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
    """Scale advantages to mean 0 and (unbiased) standard deviation 1 over the mask, as TRL and verl do in PPO.

    Args:
        advantages: Advantages per token.
        mask: The tokens that count. The advantages of all other tokens are ignored, and are 0 in the result.
        scale: The largest absolute value among the rewards and values from which the advantages were computed. All
            results are 0 if the range of the advantages is within the rounding error of numbers of this size.
        epsilon: A constant of at least 0 that is added to the standard deviation.
    """
    _checks.at_least_zero(epsilon=epsilon)
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
"""The advantages that need rewards alone, by name. `mapp` needs a belief too, and `gae` needs values."""


def _beta(
    mean: Float[torch.Tensor, " b"], variance: Float[torch.Tensor, " b"]
) -> tuple[Float[torch.Tensor, " b"], Float[torch.Tensor, " b"]]:
    """Return a and b of the Beta distributions with these means and variances, within the limits of `mapp`."""
    for name, values, high in (("success_rate", mean, 1.0), ("variance", variance, torch.inf)):
        cure = "give a finite number " + ("from 0 to 1" if high == 1 else "of at least 0")
        wrong = ~(values.isfinite() & (values >= 0) & (values <= high))
        if wrong.any():
            row = int(wrong.to(torch.uint8).argmax())
            raise ValueError(f"{name}[{row}] is {float(values[row])}; {cure}")
    mean = mean.clamp(SMALLEST_RATE, 1 - SMALLEST_RATE)
    total = (mean * (1 - mean) / variance - 1).clamp(*PSEUDO_COUNTS)
    return mean * total, (1 - mean) * total


def _expected_size(
    a: Float[torch.Tensor, "b k"], b: Float[torch.Tensor, "b k"], count: Float[torch.Tensor, "b 1"], largest: int
) -> Float[torch.Tensor, "b k"]:
    r"""Return $\sum_{S = 1}^{m - 1} w_S(a, b) \sqrt{(m - S) / S}$ with m = `count`, at most `largest`; see `mapp`."""
    a, b, m = a[:, :, None], b[:, :, None], count[:, :, None]
    s = torch.arange(1, max(largest, 1), dtype=a.dtype, device=a.device)
    others = (m - s).clamp_min(0)
    binomial = torch.lgamma(m.clamp_min(1)) - torch.lgamma(s) - torch.lgamma(others + 1)
    log_w = binomial + _log_beta(a + s - 1, b + others) - _log_beta(a, b)
    return torch.where(others > 0, log_w.exp() * (others / s).sqrt(), 0.0).sum(2)


def _log_beta(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _centre(
    rewards: Float[torch.Tensor, "b n"], scale: float = 0.0
) -> tuple[Float[torch.Tensor, "b n"], Float[torch.Tensor, "b 1"], Float[torch.Tensor, "b 1"]]:
    """Return finite rewards minus their group's mean, their standard deviation and their number, in float64.

    The differences are 0 in a group of equal rewards. Rewards count as equal if their range is at most
    `RELATIVE_SPREAD` times the largest absolute reward or `scale`, whichever is larger.
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
    """Return the advantages in the dtype of the rewards, clamped to its range, so that none overflows to infinity."""
    dtype = rewards.dtype if rewards.is_floating_point() else torch.get_default_dtype()
    limits = torch.finfo(dtype)
    return advantages.nan_to_num(0.0).clamp(limits.min, limits.max).to(dtype)
