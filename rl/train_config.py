"""The settings of a training run. Importing them does not load torch."""

from dataclasses import dataclass
from typing import Any

from rl import _checks, loss_options

PER_TOKEN = ("gae", "reinforce_pp_tokens")
"""The advantages that differ between the tokens of a completion."""
ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "mapp", *PER_TOKEN)
"""The names of `rl.advantages.FROM_REWARDS`, `mapp`, and `PER_TOKEN`."""
LR_SCHEDULES = ("constant", "linear", "cosine")
GROUP_BASELINES = ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline", "mapp")
"""The advantages that compare a completion with the other completions of its prompt."""

MAY_CHANGE = (
    *("steps", "probe_every", "checkpoint_every", "micro_batch_size", "gradient_checkpointing", "save_policy"),
    *("share_prompts", "verify_timeout", "verify_process", "keep_completions"),
)
"""The settings of `TrainConfig` that a resumed run may change: they affect no number that it has already written.

`steps` may not change if the learning rate decays; see `may_change`.
"""


@dataclass(frozen=True)
class TrainConfig:
    """The settings of the training loop; policy, task, pool and curriculum are given beside them.

    Attributes:
        steps: The number of policy updates.
        group_size: The number of rollouts per prompt.
        temperature: The sampling temperature of the rollouts.
        top_p: The top-p of the rollouts: the total probability of the likeliest tokens to draw from. The update
            applies no top-p. Below 1, the trainer therefore computes the old log-probabilities itself, as with
            `importance_cap`. Otherwise the first ratios would be clipped because of the tokens that the engine left
            out.
        verify_timeout: The time limit for the verification of one completion, in seconds. A completion that exceeds it
            is not judged. 0: no limit. In the trainer's process, the limit works in the main thread alone, and not for
            compiled code; see `verify_process`.
        verify_process: Whether the verifier runs in a process of its own, which is killed at the time limit. Compiled
            code cannot be interrupted otherwise. The verifier must be a function at the top level of a module.
        learning_rate: The learning rate of AdamW, with betas 0.9 and 0.99 and no weight decay.
        warm_up_steps: The number of steps over which the learning rate rises linearly.
        lr_schedule: The learning rate after the warm-up. constant: it stays; linear and cosine: it decays, and would
            reach 0 in the step after the last. A resumed run with linear or cosine may not change `steps`.
        max_grad_norm: The norm that gradients are clipped to.
        advantage: grpo: a reward minus its group's mean, divided by the group's standard deviation; dr_grpo: the same
            without the division; rloo: a reward minus the mean of the group's other rewards; reinforce_pp: a reward
            minus the batch's mean, divided by the batch's standard deviation; reinforce_pp_baseline: a reward minus its
            group's mean, divided by the batch's standard deviation; mapp: the expectation of grpo's advantage under the
            selector's prediction, where only the verdict counts and not the reward; gae: PPO with a value head and
            generalised advantage estimation over tokens, normalised over the batch; reinforce_pp_tokens: REINFORCE++
            over tokens: the discounted sum of a token's and all later rewards, normalised over the batch.
        discount: The discount of the rewards of later tokens, from 0 to 1, for gae and reinforce_pp_tokens.
        reward_kl_weight: The weight of a KL penalty inside the reward of every token, log p - log p_ref with the policy
            at the start of the run as the reference, for gae and reinforce_pp_tokens. Above 0, the trainer computes the
            old log-probabilities itself: where the two policies are equal, the penalty must be exactly 0, not the
            rounding between engine and trainer. 0: no such penalty.
        policy_loss: ppo: PPO's clipped loss; gspo: ratios of whole completions, with clips of about 3e-4 and the
            aggregation sequence_mean in its paper; cispo: log-probabilities with clipped, constant importance weights.
        aggregation: token_mean: every token of a step has the same weight in the loss; sequence_mean: every completion
            has the same weight; constant_length: the sum over tokens is divided by the number of completions times the
            task's longest completion, as in Dr. GRPO.
        clip_low: The largest decrease of a ratio below 1, see `losses.clipped_policy_loss`.
        clip_high: The largest increase of a ratio above 1, see `losses.clipped_policy_loss`.
        dual_clip: The largest ratio that counts where the advantage is negative, above 1, for the loss ppo. 3 is usual.
            0: no such bound.
        mask_truncated: Whether completions that reached the length limit are left out of the update (DAPO's overlong
            filtering). Their rewards still count in the baseline of their group.
        overlong_buffer: The number of tokens below the length limit in which a penalty on the reward rises linearly
            (DAPO's soft overlong punishment). It changes no verdict, and so nothing that the selector observes. 0: no
            penalty.
        overlong_penalty: The penalty of a completion that reaches the length limit, for `overlong_buffer`.
        kl_weight: The weight in the loss of the KL divergence to the policy at the start of the run. 0: no such term,
            and no copy of that policy is kept, unless `reward_kl_weight` needs it.
        importance_cap: The largest importance weight of a token. Above 0, the trainer computes the old
            log-probabilities itself, and a token's weight is the ratio of its old probability to the engine's. 0: the
            old log-probabilities are the engine's, unless `top_p` is below 1 or `reward_kl_weight` above 0, and tokens
            have no importance weights.
        gae_lambda: The lambda of gae, from 0 to 1: 0 relies on the values, 1 on the rewards.
        value_weight: The weight of the value loss beside the policy loss, for gae.
        value_clip: The largest change of a value in one training step that still has a gradient, for gae.
        lora_rank: The rank of low-rank adapters (LoRA, extra `lora`), which are then trained in place of the policy's
            weights. The policy without adapters is the reference of KL terms, so that no copy is kept. Engines and the
            folder `policy` get merged weights. A usual rank is 16, with a learning rate about ten times as high. 0: all
            weights are trained.
        lora_alpha: The scale of the adapters, whose product is multiplied by `lora_alpha / lora_rank`.
        lora_targets: The names of the linear layers with adapters, separated by commas; all-linear: all of them but the
            output layer.
        updates_per_batch: The number of passes over a step's batch; each pass takes one optimiser step per mini-batch.
        mini_batch_size: The number of consecutive completions of the batch per optimiser step. 0: the whole batch.
        micro_batch_size: The number of completions per backward pass. It bounds the memory, and changes results by
            rounding alone.
        gradient_checkpointing: Whether the backward pass computes activations again. It saves memory and changes
            nothing else.
        share_prompts: Whether the update reads the prompt of a group once, and not once per completion. It saves time,
            the more the longer the prompts are, and changes nothing but rounding. It has no effect on models with
            other layers than attention.
        probe_every: The number of steps between probes. 0: probe only before the first step and after the last.
        checkpoint_every: The number of steps between checkpoints; the last step has one too. 0: no checkpoints.
        keep_completions: The number of prompts per step whose completions are kept in the folder `completions`, as
            Parquet files; see `rl.run_folder.completions`. 0: none.
        history: Whether the run writes what the selector observed and predicted to the folder `history`, as Parquet
            files; see `jaxsel.integrations.history`.
        save_policy: Whether the run writes the policy after the last step to the folder `policy`. Transformers' Auto
            classes and `load_policy` can load it.
        seed: The seed of the rollouts, the probes, the evaluation sets and the adapters' initial weights.

    Raises:
        ValueError: A setting is out of its range, or two settings contradict each other.
    """

    steps: int = 300
    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    verify_timeout: float = 10.0
    verify_process: bool = False
    learning_rate: float = 4e-5
    warm_up_steps: int = 10
    lr_schedule: str = "constant"
    max_grad_norm: float = 1.0
    advantage: str = "grpo"
    discount: float = 1.0
    reward_kl_weight: float = 0.0
    policy_loss: str = "ppo"
    aggregation: str = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 0.0
    mask_truncated: bool = False
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0
    kl_weight: float = 0.0
    importance_cap: float = 0.0
    gae_lambda: float = 0.95
    value_weight: float = 0.1
    value_clip: float = 0.2
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_targets: str = "all-linear"
    updates_per_batch: int = 1
    mini_batch_size: int = 0
    micro_batch_size: int = 256
    gradient_checkpointing: bool = False
    share_prompts: bool = False
    probe_every: int = 25
    checkpoint_every: int = 25
    keep_completions: int = 0
    history: bool = False
    save_policy: bool = True
    seed: int = 0

    def __post_init__(self):
        self._check_ranges()
        choices = {"advantage": ADVANTAGES, "aggregation": loss_options.AGGREGATIONS, "lr_schedule": LR_SCHEDULES}
        for name, known in (choices | {"policy_loss": loss_options.POLICY_LOSS_NAMES}).items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give one of {', '.join(known)}")
        self._check_combinations()

    @property
    def needs_reference(self) -> bool:
        """Whether a term of the loss or of the reward compares the policy with the policy at the start of the run."""
        return self.kl_weight > 0 or self.reward_kl_weight > 0

    def _check_ranges(self) -> None:
        _checks.integers(1, **self._chosen("steps", "group_size", "warm_up_steps", "updates_per_batch"))
        _checks.integers(1, micro_batch_size=self.micro_batch_size)
        _checks.integers(0, **self._chosen("probe_every", "checkpoint_every", "seed"))
        _checks.integers(0, **self._chosen("overlong_buffer", "mini_batch_size", "keep_completions", "lora_rank"))
        _checks.booleans(**self._chosen("gradient_checkpointing", "history", "verify_process", "save_policy"))
        _checks.booleans(mask_truncated=self.mask_truncated, share_prompts=self.share_prompts)
        _checks.temperatures(temperature=self.temperature, greedy=False)
        _checks.above_zero(**self._chosen("learning_rate", "value_weight", "lora_alpha"))
        _checks.above_zero(infinite=True, **self._chosen("max_grad_norm", "value_clip"))
        _checks.at_least_zero(kl_weight=self.kl_weight, verify_timeout=self.verify_timeout)
        _checks.at_least_zero(**self._chosen("reward_kl_weight", "overlong_penalty"))
        _checks.at_least_zero(infinite=True, **self._chosen("importance_cap", "clip_high"))
        _checks.from_zero_to_one(gae_lambda=self.gae_lambda, discount=self.discount)
        loss_options.check_clips(self.clip_low, self.clip_high)
        loss_options.check_dual_clip(self.dual_clip)
        if not (_checks.is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p!r}; give a number above 0 and up to 1")

    def _check_combinations(self) -> None:
        if self.share_prompts and self.gradient_checkpointing:
            raise ValueError("share_prompts is True with gradient_checkpointing, which excludes it; set one to False")
        if self.group_size == 1 and self.advantage in GROUP_BASELINES:
            raise ValueError(
                f"group_size is 1 with the advantage {self.advantage}, which compares the rollouts of one prompt, so "
                "that nothing would be learnt; give at least 2, or the advantage reinforce_pp or gae"
            )
        if self.dual_clip and self.policy_loss != "ppo":
            raise ValueError(f"dual_clip is {self.dual_clip} with the policy_loss {self.policy_loss}; give 0, or ppo")
        if self.reward_kl_weight and self.advantage not in PER_TOKEN:
            raise ValueError(
                f"reward_kl_weight is {self.reward_kl_weight} with the advantage {self.advantage}, which has one "
                f"reward per completion; give kl_weight, or one of the advantages {', '.join(PER_TOKEN)}"
            )
        if self.overlong_buffer and self.advantage == "mapp":
            raise ValueError(
                f"overlong_buffer is {self.overlong_buffer} with the advantage mapp, which depends on verdicts alone; "
                "give 0, or another advantage"
            )

    def _chosen(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


def may_change(name: str, lr_schedule: str) -> bool:
    """Return whether a resumed run may change a setting of `TrainConfig`, given the setting `lr_schedule`."""
    return name in MAY_CHANGE and not (name == "steps" and lr_schedule != "constant")
