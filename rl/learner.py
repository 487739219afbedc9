"""The learner, which takes optimiser steps from judged completions."""

import logging
import math
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from rl import losses
from rl.groups import Groups
from rl.lora import Adapters
from rl.lr_schedule import learning_rate
from rl.policy import Policy
from rl.ranks import Ranks, sharded_like, whole
from rl.scorer import Scored, Scorer, loss_of
from rl.token_advantages import estimated
from rl.train_config import PER_TOKEN, TrainConfig
from rl.training_rows import MiniBatch, Rows, join, mini_batches
from rl.value_head import ValueHead

_log = logging.getLogger(__name__)


class Learner:
    """The policy being trained, with its optimiser, a value head (for gae) and a reference policy (for KL terms).

    The reference is a frozen copy of the policy given here, made before a checkpoint is loaded. With adapters (LoRA) it
    is the policy with its adapters switched off.

    Several processes (ranks) can train together. All of them give the same batch to `update`, and each trains on its
    share of the completions. The loss, its gradient and its metrics refer to a mini-batch of all ranks. Advantages are
    computed from the whole batch, not from a rank's share.

    Args:
        config: The settings of the training loop.
        policy: The policy, which is trained in place. If `ranks.sharded` is true, it is also sharded in place.
        ranks: The ranks that train together, starting from the same weights. None: this process alone.
        max_new_tokens: The longest completion that can be generated. The aggregation constant_length needs it.

    Raises:
        ImportError: The settings ask for adapters, and peft is not installed.
        ValueError: The settings ask for adapters, and `ranks.sharded` is true, the policy has adapters already, or no
            layer has the name of a target.
    """

    def __init__(
        self, config: TrainConfig, policy: Policy, ranks: Ranks | None = None, *, max_new_tokens: int | None = None
    ):
        self._config = config
        self._policy = policy
        self._ranks = ranks or Ranks()
        self._max_new_tokens = max_new_tokens
        self._adapters = _adapters(config, policy, self._ranks) if config.lora_rank else None
        # Not `frozen_copy`: the kernel, and with it the rounding, depends on `requires_grad`, even under no_grad.
        has_copy = config.needs_reference and not config.lora_rank
        self._reference = replace(policy, model=deepcopy(policy.model)) if has_copy else None
        self._value_head = ValueHead(policy.hidden_size).to(policy.device) if config.advantage == "gae" else None
        scorer = Scorer(policy, self._value_head, config)
        # without images, the weights that read them have no gradient
        self._scorer = self._ranks.spread(scorer, some_unused=policy.processor is not None)
        trained = (weight for weight in scorer.parameters() if weight.requires_grad or self._adapters is None)
        self._parameters = list(trained)
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )

    def update(self, groups: Groups, step: int) -> dict[str, float]:
        """Take the optimiser steps of one batch of groups, and return their metrics.

        Each of the `updates_per_batch` passes takes one step per mini-batch. The old log-probabilities, the
        denominators of the ratios, stay the ones from before the first step.

        The update uses the completions whose advantage is not 0. With advantages per token or a KL term in the loss it
        uses all judged completions. With `mask_truncated`, truncated ones are left out. Advantages per token are
        normalised over the tokens of the batch, as in TRL and verl.

        An optimiser step whose gradient norm is not finite is skipped: the weights and the optimiser's state stay as
        they were. The loss leaves out tokens without a finite log-probability from the rollout engine.

        Args:
            groups: The batch: judged completions, grouped by prompt.
            step: The number of the training step, from 0. The learning rate depends on it.

        Returns:
            Metrics `policy/...`:

            * From the last pass over the batch, as means over its mini-batches: loss, grad_norm (before clipping) and
              the metrics of the losses.
            * From the whole call: learning_rate; skipped_steps, the number of skipped optimiser steps; and
              non_finite_log_probs, the number of tokens of judged completions without a finite log-probability from
              the engine.
            * From the first pass: entropy, the mean entropy of the policy at the trained tokens.
            * From the first mini-batch of the first pass, before the weights change: log_prob_gap_mean and
              log_prob_gap_max, between trainer and engine. For completions kept from earlier steps, the gap includes
              the change of the weights since then. With a top_p below 1 the gap is no sign of a faulty engine, because
              the engine's log-probabilities belong to the distribution over the kept tokens.

            Entropy and gaps are NaN if there is no completion to train on.

        Raises:
            ValueError: A prompt has images, and several processes train together: a process whose share has no image
                would compute no gradient of the weights that read images.
        """
        if groups.completions.media is not None and self._ranks.count > 1:
            raise ValueError(f"{self._ranks.count} processes train on prompts with images together; start one process")
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._config, step)
        # groups that were kept in a checkpoint are on the CPU
        groups = groups._replace(completions=groups.completions.to(self._policy.device))
        batches, non_finite = mini_batches(groups, self._config)
        rate = self._optimizer.param_groups[0]["lr"]
        health = {"non_finite_log_probs": float(non_finite), "learning_rate": rate}
        if not batches:
            nothing = {
                "loss": 0.0,
                "grad_norm": 0.0,
                "skipped_steps": 0.0,
                "log_prob_gap_mean": math.nan,
                "log_prob_gap_max": math.nan,
                "entropy": math.nan,
            }
            return _named(nothing | health)
        batches = self._prepared(batches)
        with self._policy.gradient_checkpointing() if self._config.gradient_checkpointing else nullcontext():
            first, batches = self._pass(batches, first=True)
            last = first
            for _ in range(1, self._config.updates_per_batch):
                more, batches = self._pass(batches)
                last = more | {"skipped_steps": last["skipped_steps"] + more["skipped_steps"]}
        return _named(health | first | last)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a state dict of the policy's model for an engine, with whole tensors on every rank.

        Adapters are merged into the weights.
        """
        if self._adapters is not None:
            return self._adapters.merged()
        return whole(self._policy.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of policy, optimiser and value head, without the reference. Rank 0 gets whole tensors.

        With adapters, the entry of the policy holds the state of its adapters alone.
        """
        state = {
            "policy": (self._adapters or self._policy.model).state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "value_head": self._value_head.state_dict() if self._value_head is not None else None,
        }
        return whole(state, keep=self._ranks.is_main)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a learner with the same settings, on any number of ranks."""
        if self._adapters is not None:
            self._adapters.load_state_dict(state["policy"])
        else:
            _load(self._policy.model, state["policy"])
        moments = {
            i: {name: sharded_like(value, self._parameters[i]) for name, value in values.items()}
            for i, values in state["optimizer"]["state"].items()
        }
        self._optimizer.load_state_dict(state["optimizer"] | {"state": moments})
        if self._value_head is not None:
            _load(self._value_head, state["value_head"])

    def _pass(self, batches: list[MiniBatch], *, first: bool = False) -> tuple[dict[str, float], list[MiniBatch]]:
        """Take one optimiser step per mini-batch. Return the metrics, and the mini-batches with old log-probabilities.

        Only the first pass measures the entropy and the gap between trainer and engine.
        """
        steps: list[dict[str, float]] = []
        measured: dict[str, float] = {}
        done: list[MiniBatch] = []
        skipped, entropy_sum, entropy_count = 0, 0.0, 0.0
        for rows, totals in batches:
            log_probs, metrics = self._backward(rows, totals, entropy=first)
            if first and not done:
                gap = map(self._ranks.stack, (log_probs, rows.engine_log_probs, rows.counts))
                measured |= losses.log_prob_gap(*gap)
            entropy_sum += metrics.pop("entropy_sum", 0.0)
            entropy_count += metrics.pop("entropy_count", 0.0)
            own_old = log_probs if rows.old_log_probs is None else rows.old_log_probs
            done.append(MiniBatch(rows._replace(old_log_probs=own_old), totals))
            metrics["grad_norm"], stepped = self._step()
            skipped += not stepped
            steps.append(metrics)
        if first:
            measured["entropy"] = entropy_sum / max(entropy_count, 1)
        return _mean(steps) | measured | {"skipped_steps": float(skipped)}, done

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

    @torch.no_grad()
    def _prepared(self, batches: list[MiniBatch]) -> list[MiniBatch]:
        """Return this rank's share of the mini-batches, with all that must be computed before the first step.

        These are reference log-probabilities, values and advantages per token. Old log-probabilities are among them if
        the trainer computes its own, and there are several mini-batches or the reward has a KL penalty. The first pass
        gives them if the trainer computes its own for one mini-batch. Otherwise the engine's are used.
        """
        config = self._config
        shares = [rows.share(self._ranks) for rows, _ in batches]
        rows = join(shares)
        parts = list(rows.parts(config.micro_batch_size))
        if config.needs_reference:
            # computed exactly as the scorer computes, so that an equal policy has equal log-probabilities
            options = {"temperature": config.temperature, "share_prompts": config.share_prompts}
            score = partial((self._reference or self._policy).score, **options)
            with self._adapters.off() if self._adapters is not None else nullcontext():
                reference = torch.cat([score(*part.tokens_and_masks, media=part.media).log_probs for part in parts])
            rows = rows._replace(reference_log_probs=reference)
        scored: list[Scored] = []
        own_old = rows.old_log_probs is None and (len(batches) > 1 or config.reward_kl_weight > 0)
        if own_old or self._value_head is not None:
            scored = [self._scorer(*part.tokens_and_masks, media=part.media) for part in parts]
            if own_old:
                rows = rows._replace(old_log_probs=torch.cat([part.log_probs for part in scored]))
        if config.advantage in PER_TOKEN:
            found = [part.values for part in scored if part.values is not None]
            values = torch.cat(found) if self._value_head is not None else None
            rows = estimated(config, rows, values, self._ranks)
        split = rows.split([len(share.tokens) for share in shares])
        return [MiniBatch(part, totals) for part, (_, totals) in zip(split, batches, strict=True)]

    def _backward(self, rows: Rows, totals: dict[str, int], *, entropy: bool) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the gradient of a mini-batch, `micro_batch_size` rows at a time.

        Returns:
            The log-probabilities of the rows, and the metrics.
        """
        self._optimizer.zero_grad()
        log_probs: list[torch.Tensor] = []
        metrics: dict[str, float] = {}
        parts = list(rows.parts(self._config.micro_batch_size))
        for i, part in enumerate(parts):
            with self._ranks.gradients_of(self._scorer, last=i == len(parts) - 1):
                scored = self._scorer(*part.tokens_and_masks, media=part.media, entropy=entropy)
                loss, more = loss_of(self._config, scored, part, totals, self._max_new_tokens)
                (loss * self._ranks.count).backward()  # ranks exchange the mean; the sum is needed
            log_probs.append(scored.log_probs.detach())
            if scored.entropy is not None:
                inside = scored.entropy[part.counts]
                more |= {"entropy_sum": float(inside.double().sum()), "entropy_count": float(len(inside))}
            for name, value in more.items():
                metrics[name] = metrics.get(name, 0.0) + value
        return torch.cat(log_probs), self._ranks.sum(metrics)


def _adapters(config: TrainConfig, policy: Policy, ranks: Ranks) -> Adapters:
    if ranks.sharded:
        raise ValueError(f"lora_rank is {config.lora_rank} with parallel=fsdp; give 0, or parallel=ddp")
    names = {"targets": config.lora_targets, "seed": config.seed}
    return Adapters(policy.model, rank=config.lora_rank, alpha=config.lora_alpha, **names)


def _load(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    own = module.state_dict()
    module.load_state_dict({name: sharded_like(value, own[name]) for name, value in state.items()})


def _mean(steps: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(metrics[name] for metrics in steps) / len(steps) for name in steps[0]}


def _named(metrics: dict[str, float]) -> dict[str, float]:
    return {f"policy/{name}": value for name, value in metrics.items()}
