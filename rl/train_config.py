"""What a training run depends on."""

from dataclasses import dataclass
from typing import Any

from rl import _checks, advantages, losses

ADVANTAGES = (*advantages.FROM_REWARDS, "gae")
GROUP_BASELINES = ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline")
"""Advantages that compare a completion with the others of its prompt."""


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on, besides its policy, task, pool and curriculum.

    Attributes:
        steps: policy updates.
        group_size: rollouts a prompt.
        temperature: of the rollouts.
        top_p: of the rollouts. The policy that is trained is not truncated: below 1, old log-probabilities are the
            trainer's own, as with `importance_cap`, or its first ratios would be clipped for what the engine left out.
        verify_timeout: seconds that a verifier may take for one completion, which otherwise was not judged; 0: no
            limit.
        verify_process: call the verifier in a process of its own, which is killed at the limit. Compiled code cannot be
            interrupted otherwise. The verifier must be a function at the top of a module.
        learning_rate: of AdamW, betas 0.9 and 0.99, no weight decay; linear warm-up over `warm_up_steps`.
        warm_up_steps: see `learning_rate`.
        max_grad_norm: gradients are clipped to this norm.
        advantage: grpo: a reward minus its group's mean, over the group's standard deviation; dr_grpo: the same, not
            divided; rloo: minus the mean of the group's other rewards; reinforce_pp: minus the batch's mean, over the
            batch's standard deviation; reinforce_pp_baseline: minus the group's mean, over that of the batch; gae: PPO
            with a value head, generalised advantage estimation over tokens, normalised over the batch.
        aggregation: token_mean: every token of a step counts the same in the loss; sequence_mean: every completion.
        clip_low: see `losses.clipped_policy_loss`.
        clip_high: likewise.
        kl_weight: of the KL divergence to the policy as it was at the start; 0: none, and no copy of it is kept.
        importance_cap: above 0: old log-probabilities are the trainer's own, and tokens are weighted with their ratio
            to the engine's, at most this; 0: old log-probabilities are the engine's.
        gae_lambda: of gae, 0 to 1: 0 trusts the values, 1 the rewards.
        value_weight: of gae: weight of the value loss beside the policy loss.
        value_clip: of gae: how far a value may move in a step and still have a gradient.
        updates_per_batch: passes over a step's batch; each is one optimiser step.
        micro_batch_size: completions in one backward pass; bounds the memory, changes nothing else.
        gradient_checkpointing: compute activations again in the backward pass; saves memory, changes nothing else.
        probe_every: steps between probes; 0: only before the first step and after the last.
        checkpoint_every: steps between checkpoints, of which one is after the last step; 0: none.
        history: write what the selector observed, what it had predicted and what probes found to the folder `history`,
            as Parquet; see `jaxsel.integrations.history`.
        save_policy: write the policy after the last step to the folder `policy`, as Transformers' Auto classes and
            `load_policy` read it.
        seed: of the rollouts and the probes.
    """

    steps: int = 300
    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    verify_timeout: float = 10.0
    verify_process: bool = False
    learning_rate: float = 4e-5
    warm_up_steps: int = 10
    max_grad_norm: float = 1.0
    advantage: str = "grpo"
    aggregation: str = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl_weight: float = 0.0
    importance_cap: float = 0.0
    gae_lambda: float = 0.95
    value_weight: float = 0.1
    value_clip: float = 0.2
    updates_per_batch: int = 1
    micro_batch_size: int = 256
    gradient_checkpointing: bool = False
    probe_every: int = 25
    checkpoint_every: int = 25
    history: bool = False
    save_policy: bool = True
    seed: int = 0

    def __post_init__(self):
        _checks.integers(1, **self._chosen("steps", "group_size", "warm_up_steps", "updates_per_batch"))
        _checks.integers(1, micro_batch_size=self.micro_batch_size)
        _checks.integers(0, **self._chosen("probe_every", "checkpoint_every", "seed"))
        _checks.booleans(**self._chosen("gradient_checkpointing", "history", "verify_process", "save_policy"))
        _checks.above_zero(**self._chosen("temperature", "learning_rate", "value_weight"))
        _checks.above_zero(infinite=True, **self._chosen("max_grad_norm", "value_clip"))
        _checks.at_least_zero(kl_weight=self.kl_weight, verify_timeout=self.verify_timeout)
        _checks.at_least_zero(infinite=True, **self._chosen("importance_cap", "clip_high"))
        _checks.from_zero_to_one(gae_lambda=self.gae_lambda)
        losses.check_clips(self.clip_low, self.clip_high)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; give a number above 0 and up to 1")
        if self.verify_process and not self.verify_timeout:
            raise ValueError("verify_timeout is 0 with verify_process; give the seconds after which it is killed")
        for name, choices in {"advantage": ADVANTAGES, "aggregation": losses.AGGREGATIONS}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give one of {', '.join(choices)}")
        if self.group_size == 1 and self.advantage in GROUP_BASELINES:
            raise ValueError(
                f"group_size is 1 with the advantage {self.advantage}, which compares the rollouts of one prompt, so "
                "that nothing would be learnt; give at least 2, or the advantage reinforce_pp or gae"
            )

    def _chosen(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}
