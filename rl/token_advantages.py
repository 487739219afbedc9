"""Rewards per token, and the advantages of gae and of REINFORCE++ over tokens, for one process's share of a batch."""

import torch
from jaxtyping import Bool, Float

from rl import advantages
from rl.ranks import Ranks
from rl.train_config import TrainConfig
from rl.training_rows import Rows


def rewards_per_token(
    rewards: Float[torch.Tensor, " r"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    log_probs: Float[torch.Tensor, "r t"] | None = None,
    reference_log_probs: Float[torch.Tensor, "r t"] | None = None,
    kl_weight: float = 0.0,
) -> Float[torch.Tensor, "r t"]:
    r"""Return rewards per token: the completion's reward at its last token, minus a KL penalty at every token.

    The penalty is $\beta (\log p - \log p_\mathrm{ref})$ (REINFORCE++, arXiv 2501.03262; verl's use_kl_in_reward). The
    penalty is 0 where it is not finite.

    Args:
        rewards: Rewards, one per completion.
        mask: The tokens that count.
        log_probs: Log-probabilities under the policy before the step.
        reference_log_probs: Log-probabilities under the reference policy.
        kl_weight: $\beta$. 0: no penalty, and no log-probabilities are needed.
    """
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    per_token = torch.where(last, rewards[:, None], 0.0)
    if not kl_weight or log_probs is None or reference_log_probs is None:
        return per_token
    gap = log_probs - reference_log_probs
    return per_token - kl_weight * torch.where(mask & gap.isfinite(), gap, 0.0)


def estimated(config: TrainConfig, rows: Rows, values: torch.Tensor | None, ranks: Ranks) -> Rows:
    """Return the rows with advantages per token, normalised over the whole batch. With `values`, returns are added.

    gae estimates them from the values. reinforce_pp_tokens takes the discounted sum of the rewards of a token and all
    later tokens, which is gae with a lambda of 1 and values of 0.

    Args:
        config: The settings of the run.
        rows: The rows of one process (rank). With `reward_kl_weight`, they hold old and reference log-probabilities.
        values: The value head's values before each token; None for reinforce_pp_tokens.
        ranks: The ranks that hold the other rows.
    """
    rewards = rewards_per_token(
        rows.rewards,
        rows.counts,
        log_probs=rows.old_log_probs,
        reference_log_probs=rows.reference_log_probs,
        kl_weight=config.reward_kl_weight,
    )
    known = torch.zeros_like(rewards) if values is None else values
    gae_lambda = 1.0 if values is None else config.gae_lambda
    found, returns = advantages.gae(rewards, known, rows.counts, discount=config.discount, gae_lambda=gae_lambda)
    judged = rows.counts & returns.isfinite()
    largest = rewards.abs().amax(1, keepdim=True) if config.reward_kl_weight else rows.rewards[:, None].abs()
    sizes = torch.where(judged, torch.maximum(largest, known.abs()), 0.0)
    found, judged, sizes = map(ranks.stack, (found, judged, sizes))
    rows = rows._replace(advantages=ranks.own(advantages.normalise(found, judged, scale=float(sizes.max()))))
    return rows if values is None else rows._replace(old_values=values, returns=returns)
