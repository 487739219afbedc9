"""The learner: optimiser steps from judged completions."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from rl import advantages, losses
from rl.groups import Groups
from rl.policy import Policy, Scores
from rl.train_config import TrainConfig
from rl.value_head import ValueHead


class Learner:
    """Trains the policy in place, and owns what that takes: the optimiser, a value head (gae), a reference (kl_weight).

    The reference is a frozen copy of the policy as it is handed over here, before anything is loaded into it.

    Args:
        config: see `TrainConfig`.
        policy: trained in place.
    """

    def __init__(self, config: TrainConfig, policy: Policy):
        self._config = config
        self._policy = policy
        self._reference = _frozen_copy(policy) if config.kl_weight else None
        self._value_head = ValueHead(policy.hidden_size).to(policy.device) if config.advantage == "gae" else None
        self._parameters = list(policy.model.parameters())
        if self._value_head is not None:
            self._parameters += self._value_head.parameters()
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )

    def update(self, groups: Groups, step: int) -> dict[str, float]:
        """Optimiser steps on one batch of groups, `updates_per_batch` of them.

        Trained on are the completions whose advantage is not 0; with gae and with a KL term all that were judged. With
        gae the advantages are normalised over the tokens of the batch, as TRL and verl do.

        Args:
            groups: the batch.
            step: of the run, from 0; the learning rate depends on it.

        Returns:
            policy/loss, policy/grad_norm (before clipping) and the metrics of the losses, of the last pass over the
            batch; policy/log_prob_gap_mean and policy/log_prob_gap_max, between trainer and engine, of the first,
            before anything has changed.
        """
        config = self._config
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warm_up_steps)
        rows, totals = self._rows(groups)
        if not len(rows.tokens):
            return _named(dict.fromkeys(("loss", "grad_norm", "log_prob_gap_mean", "log_prob_gap_max"), 0.0))
        rows = self._prepared(rows)
        metrics: dict[str, float] = {}
        gap: dict[str, float] = {}
        with self._policy.gradient_checkpointing() if config.gradient_checkpointing else nullcontext():
            for i in range(config.updates_per_batch):
                log_probs, metrics = self._backward(rows, totals)
                if i == 0:
                    gap = losses.log_prob_gap(log_probs, rows.engine_log_probs, rows.mask)
                if rows.old_log_probs is None:
                    rows = rows._replace(old_log_probs=log_probs)
                norm = torch.nn.utils.clip_grad_norm_(self._parameters, config.max_grad_norm)
                metrics["grad_norm"] = float(norm)
                self._optimizer.step()
        return _named(metrics | gap)

    def state_dict(self) -> dict[str, Any]:
        """All that changes: policy, optimiser and value head; not the reference."""
        return {
            "policy": self._policy.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "value_head": self._value_head.state_dict() if self._value_head is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another learner of the same configuration was."""
        self._policy.model.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._value_head is not None:
            self._value_head.load_state_dict(state["value_head"])

    def _rows(self, groups: Groups) -> tuple["_Rows", dict[str, int]]:
        """What to train on, and what the means run over: all that was judged, with an advantage or without."""
        config, completions = self._config, groups.completions
        device = completions.tokens.device
        judged = ~groups.rewards.isnan().flatten().to(device)
        if config.advantage == "gae":
            advantage = torch.zeros_like(groups.rewards)  # of tokens, once there are values
        else:
            advantage = advantages.FROM_REWARDS[config.advantage](groups.rewards)
        advantage = advantage.flatten().to(device)
        every = config.advantage == "gae" or config.kl_weight > 0
        chosen = (judged if every else advantage != 0).nonzero()[:, 0]  # the others add nothing to the loss
        prompt = chosen // completions.group_size
        rows = _Rows(
            completions.prompt_tokens[prompt],
            completions.prompt_mask[prompt],
            completions.tokens[chosen],
            completions.mask[chosen],
            groups.rewards.flatten().to(device)[chosen],
            advantage[chosen],
            engine_log_probs=completions.log_probs[chosen],
            old_log_probs=None if config.importance_cap else completions.log_probs[chosen],
        )
        counted = completions.mask[judged]
        return rows, {"num_tokens": int(counted.sum()), "num_completions": int(counted.any(1).sum())}

    @torch.no_grad()
    def _prepared(self, rows: "_Rows") -> "_Rows":
        """With what the reference and the value head say before the first optimiser step."""
        config = self._config
        parts = list(rows.parts(config.micro_batch_size))
        if self._reference is not None:
            reference = torch.cat([self._score(self._reference, part).log_probs for part in parts])
            rows = rows._replace(reference_log_probs=reference)
        if self._value_head is not None:
            values = torch.cat([self._value_head(self._score(self._policy, part).hidden) for part in parts])
            last = rows.mask & (rows.mask.cumsum(1) == rows.mask.sum(1, keepdim=True))
            rewards = torch.where(last, rows.rewards[:, None], 0.0)
            estimated, returns = advantages.gae(rewards, values, rows.mask, gae_lambda=config.gae_lambda)
            normalised = advantages.normalise(estimated, rows.mask)
            rows = rows._replace(advantages=normalised, old_values=values, returns=returns)
        return rows

    def _backward(self, rows: "_Rows", totals: dict[str, int]) -> tuple[torch.Tensor, dict[str, float]]:
        """The gradient of the whole batch, part by part; its log-probabilities and metrics, which add up."""
        self._optimizer.zero_grad()
        log_probs: list[torch.Tensor] = []
        metrics: dict[str, float] = {}
        for part in rows.parts(self._config.micro_batch_size):
            scores = self._score(self._policy, part)
            loss, more = self._loss(scores, part, totals)
            loss.backward()
            log_probs.append(scores.log_probs.detach())
            for name, value in more.items():
                metrics[name] = metrics.get(name, 0.0) + value
        return torch.cat(log_probs), metrics

    def _loss(self, scores: Scores, rows: "_Rows", totals: dict[str, int]) -> tuple[torch.Tensor, dict[str, float]]:
        config = self._config
        weights: dict[str, Any] = {}
        if config.importance_cap:
            weights = {"engine_log_probs": rows.engine_log_probs, "importance_cap": config.importance_cap}
        loss, metrics = losses.clipped_policy_loss(
            scores.log_probs,
            scores.log_probs.detach() if rows.old_log_probs is None else rows.old_log_probs,
            rows.advantages,
            rows.mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            aggregation=config.aggregation,
            reference_log_probs=rows.reference_log_probs,
            kl_weight=config.kl_weight,
            **totals,
            **weights,
        )
        if self._value_head is not None and rows.old_values is not None and rows.returns is not None:
            value_loss, more = losses.clipped_value_loss(
                self._value_head(scores.hidden),
                rows.old_values,
                rows.returns,
                rows.mask,
                clip=config.value_clip,
                num_tokens=totals["num_tokens"],
            )
            loss = loss + config.value_weight * value_loss
            metrics |= more | {"value_loss": float(value_loss.detach())}
        return loss, metrics | {"loss": float(loss.detach())}

    def _score(self, policy: Policy, rows: "_Rows") -> Scores:
        return policy.score(
            rows.prompt_tokens, rows.prompt_mask, rows.tokens, rows.mask, temperature=self._config.temperature
        )


class _Rows(NamedTuple):
    """Completions to train on, one a row.

    Advantages are one a completion, or one a token. Old log-probabilities of None are the trainer's own in the first
    pass, where they are the current ones.
    """

    prompt_tokens: torch.Tensor
    prompt_mask: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor
    engine_log_probs: torch.Tensor
    old_log_probs: torch.Tensor | None
    reference_log_probs: torch.Tensor | None = None
    old_values: torch.Tensor | None = None
    returns: torch.Tensor | None = None

    def parts(self, size: int) -> Iterator["_Rows"]:
        """The rows in order, at most `size` at a time."""
        for start in range(0, len(self.tokens), size):
            columns: list[Any] = [None if column is None else column[start : start + size] for column in self]
            yield _Rows(*columns)


def _frozen_copy(policy: Policy) -> Policy:
    return replace(policy, model=copy.deepcopy(policy.model).requires_grad_(False))


def _named(metrics: dict[str, float]) -> dict[str, float]:
    return {f"policy/{name}": value for name, value in metrics.items()}
