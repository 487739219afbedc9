"""The learner, which takes optimiser steps from judged completions."""

import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from rl import advantages, losses
from rl.groups import Groups, advantages_of
from rl.policy import Policy
from rl.ranks import Ranks, sharded_like, whole
from rl.train_config import TrainConfig
from rl.value_head import ValueHead

_log = logging.getLogger(__name__)


class Learner:
    """The policy being trained, with its optimiser, a value head (for gae) and a reference policy (for `kl_weight`).

    The reference is a frozen copy of the policy given here, made before a checkpoint is loaded.

    All ranks give the same batch to `update`, and each trains on its share of the rows. Means, normalisation, gradient
    and metrics refer to the whole batch.

    Args:
        config: The settings of the training loop.
        policy: The policy, which is trained in place. It is also sharded in place if the ranks are sharded.
        ranks: The ranks that train together, starting from the same weights. None: this process alone.
    """

    def __init__(self, config: TrainConfig, policy: Policy, ranks: Ranks | None = None):
        self._config = config
        self._policy = policy
        self._ranks = ranks or Ranks()
        self._reference = policy.frozen_copy() if config.kl_weight else None
        self._value_head = ValueHead(policy.hidden_size).to(policy.device) if config.advantage == "gae" else None
        scorer = _Scorer(policy, self._value_head, config)
        self._scorer = self._ranks.spread(scorer)
        self._parameters = list(scorer.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )

    def update(self, groups: Groups, step: int) -> dict[str, float]:
        """Take `updates_per_batch` optimiser steps on one batch of groups, and return their metrics.

        The update uses the completions whose advantage is not 0. With gae or a KL term it uses all judged completions.
        With gae the advantages are normalised over the tokens of the batch, as TRL and verl do.

        An optimiser step whose gradient norm is not finite is skipped: the weights and the optimiser's state stay as
        they were. A token without a finite log-probability from the engine is masked.

        Args:
            groups: The batch.
            step: The number of the training step, from 0. The learning rate depends on it.

        Returns:
            Metrics `policy/...`. From the last pass over the batch: loss, grad_norm (before clipping) and the metrics
            of the losses. From the whole call: skipped_steps, the number of skipped optimiser steps, and
            non_finite_log_probs, the number of tokens of judged completions without a finite log-probability from the
            engine. From the first pass, before the weights change: log_prob_gap_mean and log_prob_gap_max, between
            trainer and engine. For completions kept from earlier steps, the gap includes the change of the weights
            since then. The gaps are NaN if there is no completion to train on.
        """
        config = self._config
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warm_up_steps)
        rows, totals, non_finite = self._rows(groups)
        health = {"skipped_steps": 0.0, "non_finite_log_probs": float(non_finite)}
        if not len(rows.tokens):
            nothing = {"loss": 0.0, "grad_norm": 0.0, "log_prob_gap_mean": math.nan, "log_prob_gap_max": math.nan}
            return _named(nothing | health)
        rows = self._prepared(rows.share(self._ranks))
        metrics: dict[str, float] = {}
        gap: dict[str, float] = {}
        with self._policy.gradient_checkpointing() if config.gradient_checkpointing else nullcontext():
            for i in range(config.updates_per_batch):
                log_probs, metrics = self._backward(rows, totals)
                if i == 0:
                    gap = losses.log_prob_gap(*map(self._ranks.stack, (log_probs, rows.engine_log_probs, rows.counts)))
                if rows.old_log_probs is None:
                    rows = rows._replace(old_log_probs=log_probs)
                metrics["grad_norm"], stepped = self._step()
                health["skipped_steps"] += not stepped
        return _named(metrics | gap | health)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a state dict of the policy's model for an engine, with whole tensors on every rank."""
        return whole(self._policy.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of policy, optimiser and value head, without the reference. Rank 0 gets whole tensors."""
        state = {
            "policy": self._policy.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "value_head": self._value_head.state_dict() if self._value_head is not None else None,
        }
        return whole(state, keep=self._ranks.is_main)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a learner with the same settings, on any number of ranks."""
        _load(self._policy.model, state["policy"])
        moments = {
            i: {name: sharded_like(value, self._parameters[i]) for name, value in values.items()}
            for i, values in state["optimizer"]["state"].items()
        }
        self._optimizer.load_state_dict(state["optimizer"] | {"state": moments})
        if self._value_head is not None:
            _load(self._value_head, state["value_head"])

    def _step(self) -> tuple[float, bool]:
        """Take an optimiser step if the gradient norm is finite. Return the norm, and whether the step was taken."""
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)))
        finite = all(self._ranks.gather(lambda: math.isfinite(norm)))  # otherwise only some ranks might take the step
        if finite:
            self._optimizer.step()
        else:
            _log.warning("the gradient norm is %s: this optimiser step is skipped", norm)
            self._optimizer.zero_grad()
        return norm, finite

    def _rows(self, groups: Groups) -> tuple["_Rows", dict[str, int], int]:
        """Return the rows that all ranks train on, the divisors of the means, and the number of masked tokens.

        The means run over all judged completions, including those with advantage 0. Tokens are masked if they have no
        finite log-probability.
        """
        config, completions = self._config, groups.completions
        device = completions.tokens.device
        judged = groups.rewards.isfinite().flatten().to(device)
        counts = completions.mask & completions.log_probs.isfinite()
        per_token = config.advantage == "gae"  # `_prepared` computes it, from the values
        advantage = torch.zeros_like(groups.rewards) if per_token else advantages_of(groups, config.advantage)
        advantage = advantage.flatten().to(device)
        every = per_token or config.kl_weight > 0
        learns = (judged if every else advantage != 0) & counts.any(1)
        chosen = learns.nonzero()[:, 0]  # all other completions add nothing to the loss
        prompt = chosen // completions.group_size
        rows = _Rows(
            completions.prompt_tokens[prompt],
            completions.prompt_mask[prompt],
            completions.tokens[chosen],
            completions.mask[chosen],
            counts[chosen],
            groups.rewards.flatten().to(device)[chosen],
            advantage[chosen],
            engine_log_probs=completions.log_probs[chosen],
            old_log_probs=None if config.importance_cap or config.top_p < 1 else completions.log_probs[chosen],
        )
        totals = {"num_tokens": int(counts[judged].sum()), "num_completions": int(counts[judged].any(1).sum())}
        return rows, totals, int(completions.mask[judged].sum()) - totals["num_tokens"]

    @torch.no_grad()
    def _prepared(self, rows: "_Rows") -> "_Rows":
        """Return the rows with reference log-probabilities, values and advantages from before the first step."""
        config = self._config
        parts = list(rows.parts(config.micro_batch_size))
        if self._reference is not None:
            score = partial(self._reference.score, temperature=config.temperature)
            reference = torch.cat([score(*part.tokens_and_masks).log_probs for part in parts])
            rows = rows._replace(reference_log_probs=reference)
        if self._value_head is not None:
            values = torch.cat([self._scorer(*part.tokens_and_masks)[1] for part in parts])
            last = rows.counts & (rows.counts.cumsum(1) == rows.counts.sum(1, keepdim=True))
            rewards = torch.where(last, rows.rewards[:, None], 0.0)
            estimated, returns = advantages.gae(rewards, values, rows.counts, gae_lambda=config.gae_lambda)
            judged = rows.counts & returns.isfinite()
            sizes = torch.where(judged, torch.maximum(rows.rewards[:, None].abs(), values.abs()), 0.0)
            estimated, judged, sizes = map(self._ranks.stack, (estimated, judged, sizes))
            normalised = advantages.normalise(estimated, judged, scale=float(sizes.max()))
            rows = rows._replace(advantages=self._ranks.own(normalised), old_values=values, returns=returns)
        return rows

    def _backward(self, rows: "_Rows", totals: dict[str, int]) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the gradient of the batch in parts. Return the log-probabilities of the rows, and the metrics."""
        self._optimizer.zero_grad()
        log_probs: list[torch.Tensor] = []
        metrics: dict[str, float] = {}
        parts = list(rows.parts(self._config.micro_batch_size))
        for i, part in enumerate(parts):
            with self._ranks.gradients_of(self._scorer, last=i == len(parts) - 1):
                scored, values = self._scorer(*part.tokens_and_masks)
                loss, more = self._loss(scored, values, part, totals)
                (loss * self._ranks.count).backward()  # the exchange averages over ranks
            log_probs.append(scored.detach())
            for name, value in more.items():
                metrics[name] = metrics.get(name, 0.0) + value
        return torch.cat(log_probs), self._ranks.sum(metrics)

    def _loss(
        self, log_probs: torch.Tensor, values: torch.Tensor | None, rows: "_Rows", totals: dict[str, int]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        config = self._config
        weights: dict[str, Any] = {}
        if config.importance_cap:
            weights = {"engine_log_probs": rows.engine_log_probs, "importance_cap": config.importance_cap}
        loss, metrics = losses.clipped_policy_loss(
            log_probs,
            log_probs.detach() if rows.old_log_probs is None else rows.old_log_probs,
            rows.advantages,
            rows.counts,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            aggregation=config.aggregation,
            reference_log_probs=rows.reference_log_probs,
            kl_weight=config.kl_weight,
            **totals,
            **weights,
        )
        if values is not None and rows.old_values is not None and rows.returns is not None:
            value_loss, more = losses.clipped_value_loss(
                values,
                rows.old_values,
                rows.returns,
                rows.counts,
                clip=config.value_clip,
                num_tokens=totals["num_tokens"],
            )
            loss = loss + config.value_weight * value_loss
            metrics |= more | {"value_loss": float(value_loss.detach())}
        return loss, metrics | {"loss": float(loss.detach())}


class _Scorer(torch.nn.Module):
    """All trained weights as one module, whose call exchanges gradients and gathers weights among the ranks."""

    def __init__(self, policy: Policy, value_head: ValueHead | None, config: TrainConfig):
        super().__init__()
        self.model, self.value_head = policy.model, value_head
        self._policy = policy
        self._options: dict[str, Any] = {"temperature": config.temperature, "share_prompts": config.share_prompts}

    def forward(self, *tokens_and_masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the log-probabilities `[r, t]` of completions, and their values if there is a value head."""
        scores = self._policy.score(*tokens_and_masks, **self._options)
        # FSDP attaches its hooks to the outputs, and an in-place change of a view would lose them.
        return scores.log_probs.clone(), self.value_head(scores.hidden) if self.value_head else None


class _Rows(NamedTuple):
    """Completions to train on, one per row.

    `mask` marks the tokens that the model reads, and `counts` marks the tokens among them that the losses include.
    Advantages are one per completion or one per token. If the old log-probabilities are None, the first pass uses the
    current log-probabilities as the old ones.
    """

    prompt_tokens: torch.Tensor
    prompt_mask: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    counts: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor
    engine_log_probs: torch.Tensor
    old_log_probs: torch.Tensor | None
    reference_log_probs: torch.Tensor | None = None
    old_values: torch.Tensor | None = None
    returns: torch.Tensor | None = None

    @property
    def tokens_and_masks(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The arguments of `Policy.score`."""
        return self.prompt_tokens, self.prompt_mask, self.tokens, self.mask

    def parts(self, size: int) -> Iterator["_Rows"]:
        """Yield the rows in order, at most `size` at a time."""
        for start in range(0, len(self.tokens), size):
            yield self._at(slice(start, start + size))

    def share(self, ranks: Ranks) -> "_Rows":
        """Return this rank's share of the rows. Rows without tokens make all shares the same size."""
        total = len(self.tokens)
        index = torch.arange(ranks.rank, -(-total // ranks.count) * ranks.count, ranks.count, device=self.tokens.device)
        rows = self._at(index % total)
        own = (index < total)[:, None]
        return rows._replace(mask=rows.mask & own, counts=rows.counts & own)

    def _at(self, index: slice | torch.Tensor) -> "_Rows":
        columns: list[Any] = [None if column is None else column[index] for column in self]
        return _Rows(*columns)


def _load(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    own = module.state_dict()
    module.load_state_dict({name: sharded_like(value, own[name]) for name, value in state.items()})


def _named(metrics: dict[str, float]) -> dict[str, float]:
    return {f"policy/{name}": value for name, value in metrics.items()}
