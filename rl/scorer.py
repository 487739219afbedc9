"""The trained weights as one module, and the loss of its scores."""

from typing import Any, NamedTuple

import torch

from rl import losses
from rl.media import Media
from rl.policy import Policy
from rl.train_config import TrainConfig
from rl.training_rows import Rows
from rl.value_head import ValueHead


class Scored(NamedTuple):
    """What the trained weights compute for completions.

    Attributes:
        log_probs: The log-probability of each token, `[r, t]`.
        values: The value head's estimate of the return before each token, `[r, t]`; None without a value head.
        entropy: The entropy of the distribution of each token, `[r, t]`, without a gradient; None if it was not asked
            for.
    """

    log_probs: torch.Tensor
    values: torch.Tensor | None
    entropy: torch.Tensor | None


class Scorer(torch.nn.Module):
    """All trained weights as one module, for `Ranks.spread`.

    A call of the spread module gathers sharded weights. Its backward pass averages the gradients over the processes.
    """

    def __init__(self, policy: Policy, value_head: ValueHead | None, config: TrainConfig):
        super().__init__()
        self.model, self.value_head = policy.model, value_head
        self._policy = policy
        self._options: dict[str, Any] = {"temperature": config.temperature, "share_prompts": config.share_prompts}

    def forward(self, *tokens_and_masks: torch.Tensor, media: Media | None = None, entropy: bool = False) -> Scored:
        """Return log-probabilities, values if there is a value head, and the entropy if it is asked for."""
        scores = self._policy.score(*tokens_and_masks, **self._options, media=media, entropy=entropy)
        # `clone`, because FSDP attaches its hooks to the outputs, and a view of a larger tensor could lose them.
        return Scored(
            scores.log_probs.clone(), self.value_head(scores.hidden) if self.value_head else None, scores.entropy
        )


def loss_of(
    config: TrainConfig, scored: Scored, rows: Rows, totals: dict[str, int], max_new_tokens: int | None
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss and the metrics of a part of a mini-batch. Both add up over its parts.

    Args:
        config: The settings of the run.
        scored: The scores of the rows under the trained weights.
        rows: The rows.
        totals: The divisors of the means over the whole mini-batch; see `rl.training_rows.MiniBatch`.
        max_new_tokens: The longest completion that could be generated, for the aggregation constant_length.
    """
    options: dict[str, Any] = {"dual_clip": config.dual_clip} if config.policy_loss == "ppo" else {}
    if config.importance_cap:
        options |= {"engine_log_probs": rows.engine_log_probs, "importance_cap": config.importance_cap}
    loss, metrics = losses.POLICY_LOSSES[config.policy_loss](
        scored.log_probs,
        scored.log_probs.detach() if rows.old_log_probs is None else rows.old_log_probs,
        rows.advantages,
        rows.counts,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        aggregation=config.aggregation,
        max_new_tokens=max_new_tokens,
        reference_log_probs=rows.reference_log_probs,
        kl_weight=config.kl_weight,
        **totals,
        **options,
    )
    if scored.values is not None and rows.old_values is not None and rows.returns is not None:
        value_loss, more = losses.clipped_value_loss(
            scored.values,
            rows.old_values,
            rows.returns,
            rows.counts,
            clip=config.value_clip,
            num_tokens=totals["num_tokens"],
        )
        loss = loss + config.value_weight * value_loss
        metrics |= more | {"value_loss": float(value_loss.detach())}
    return loss, metrics | {"loss": float(loss.detach())}
