"""The learner: optimiser steps from judged completions."""

import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from rl import advantages, losses
from rl.groups import Groups
from rl.policy import Policy
from rl.ranks import Ranks, sharded_like, whole
from rl.train_config import TrainConfig
from rl.value_head import ValueHead

_log = logging.getLogger(__name__)


class Learner:
    """Trains the policy in place, and owns what that takes: the optimiser, a value head (gae), a reference (kl_weight).

    The reference is a frozen copy of the policy as it is handed over here, before anything is loaded into it.

    Several ranks give the same batch to `update`. Each has its share of the rows to train on; means, normalisation,
    gradient and metrics are those of the whole batch.

    Args:
        config: see `TrainConfig`.
        policy: trained in place; sharded in place where the ranks are.
        ranks: that train together, from the same weights; None: this process alone.
    """

    def __init__(self, config: TrainConfig, policy: Policy, ranks: Ranks | None = None):
        self._config = config
        self._policy = policy
        self._ranks = ranks or Ranks()
        self._reference = policy.frozen_copy() if config.kl_weight else None
        self._value_head = ValueHead(policy.hidden_size).to(policy.device) if config.advantage == "gae" else None
        scorer = _Scorer(policy, self._value_head, config.temperature)
        self._scorer = self._ranks.spread(scorer)
        self._parameters = list(scorer.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )

    def update(self, groups: Groups, step: int) -> dict[str, float]:
        """Optimiser steps on one batch of groups, `updates_per_batch` of them.

        Trained on are the completions whose advantage is not 0; with gae and with a KL term all that were judged. With
        gae the advantages are normalised over the tokens of the batch, as TRL and verl do.

        A step whose gradient norm is not finite is skipped: weights and the optimiser's state stay as they were. Tokens
        to which the engine gave no finite log-probability count nowhere.

        Args:
            groups: the batch.
            step: of the run, from 0; the learning rate depends on it.

        Returns:
            policy/loss, policy/grad_norm (before clipping) and the metrics of the losses, of the last pass over the
            batch; policy/skipped_steps, of this call; policy/non_finite_log_probs, tokens of judged completions that
            count nowhere for that reason; policy/log_prob_gap_mean and policy/log_prob_gap_max, between trainer and
            engine, of the first, before anything has changed (of completions kept from earlier steps, with what was
            learnt since), NaN where nothing is trained on.
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
        """A state dict of the policy's model for an engine, whole on every rank."""
        return whole(self._policy.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """All that changes: policy, optimiser and value head; not the reference. Whole on rank 0, which saves it."""
        state = {
            "policy": self._policy.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "value_head": self._value_head.state_dict() if self._value_head is not None else None,
        }
        return whole(state, keep=self._ranks.is_main)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another learner of the same configuration was, on however many ranks."""
        _load(self._policy.model, state["policy"])
        moments = {
            i: {name: sharded_like(value, self._parameters[i]) for name, value in values.items()}
            for i, values in state["optimizer"]["state"].items()
        }
        self._optimizer.load_state_dict(state["optimizer"] | {"state": moments})
        if self._value_head is not None:
            _load(self._value_head, state["value_head"])

    def _step(self) -> tuple[float, bool]:
        """One optimiser step, unless the gradient's norm is not finite; the norm, and whether the step was made."""
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)))
        finite = all(self._ranks.gather(lambda: math.isfinite(norm)))  # ranks that differ here would never agree again
        if finite:
            self._optimizer.step()
        else:
            _log.warning("the gradient's norm is %s: this optimiser step is skipped", norm)
            self._optimizer.zero_grad()
        return norm, finite

    def _rows(self, groups: Groups) -> tuple["_Rows", dict[str, int], int]:
        """What all ranks train on; what the means run over; how many tokens have no finite log-probability.

        The means run over all completions that were judged, with an advantage or without.
        """
        config, completions = self._config, groups.completions
        device = completions.tokens.device
        judged = groups.rewards.isfinite().flatten().to(device)
        counts = completions.mask & completions.log_probs.isfinite()
        if config.advantage == "gae":
            advantage = torch.zeros_like(groups.rewards)  # of tokens, once there are values
        else:
            advantage = advantages.FROM_REWARDS[config.advantage](groups.rewards)
        advantage = advantage.flatten().to(device)
        every = config.advantage == "gae" or config.kl_weight > 0
        learns = (judged if every else advantage != 0) & counts.any(1)
        chosen = learns.nonzero()[:, 0]  # the others add nothing to the loss
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
        """With what the reference and the value head say before the first optimiser step."""
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
        """The gradient of the whole batch, part by part; the log-probabilities of these rows; metrics, which add up."""
        self._optimizer.zero_grad()
        log_probs: list[torch.Tensor] = []
        metrics: dict[str, float] = {}
        parts = list(rows.parts(self._config.micro_batch_size))
        for i, part in enumerate(parts):
            with self._ranks.gradients_of(self._scorer, last=i == len(parts) - 1):
                scored, values = self._scorer(*part.tokens_and_masks)
                loss, more = self._loss(scored, values, part, totals)
                (loss * self._ranks.count).backward()  # the exchange takes the mean over ranks
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
    """All that is trained, as one module: a gradient is exchanged, and weights are gathered, where it is called."""

    def __init__(self, policy: Policy, value_head: ValueHead | None, temperature: float):
        super().__init__()
        self.model, self.value_head = policy.model, value_head
        self._policy, self._temperature = policy, temperature

    def forward(self, *tokens_and_masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities `[r, t]` of completions, see `Policy.score`, and values where there is a head for them."""
        scores = self._policy.score(*tokens_and_masks, temperature=self._temperature)
        # FSDP hangs its work on what comes out, and would lose it with a view that is changed in place.
        return scores.log_probs.clone(), self.value_head(scores.hidden) if self.value_head else None


class _Rows(NamedTuple):
    """Completions to train on, one per row.

    `mask` says which tokens the model reads, `counts` which of them the losses and their means see. Advantages are one
    a completion, or one a token. Old log-probabilities of None are the trainer's own in the first pass, where they are
    the current ones.
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
        """What `Policy.score` takes."""
        return self.prompt_tokens, self.prompt_mask, self.tokens, self.mask

    def parts(self, size: int) -> Iterator["_Rows"]:
        """The rows in order, at most `size` at a time."""
        for start in range(0, len(self.tokens), size):
            yield self._at(slice(start, start + size))

    def share(self, ranks: Ranks) -> "_Rows":
        """Every count-th row. All ranks have as many, for they pass together: if need be one where no token counts."""
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
