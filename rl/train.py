"""The training loop: choose, roll out, verify, learn."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rl import advantages, losses
from rl.curriculum import Collected, Curriculum
from rl.groups import Groups, judge
from rl.policy import Policy
from rl.probe import Probe
from rl.prompts import PromptPool, Task
from rl.rollout import RolloutEngine
from rl.run_log import RunLog, load_checkpoint, read_metrics, save_checkpoint

ADVANTAGES = {"grpo": advantages.grpo, "rloo": advantages.rloo, "reinforce_pp": advantages.reinforce_pp}


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on, besides its policy, task, pool and curriculum.

    Attributes:
        steps: policy updates.
        group_size: rollouts a prompt.
        temperature: of the rollouts.
        learning_rate: of AdamW, betas 0.9 and 0.99, no weight decay; linear warm-up over `warm_up_steps`.
        warm_up_steps: see `learning_rate`.
        max_grad_norm: gradients are clipped to this norm.
        advantage: grpo: a reward minus its group's mean, over the group's standard deviation; rloo: minus the mean of
            the group's other rewards; reinforce_pp: minus the batch's mean, over the batch's standard deviation.
        aggregation: token_mean: every token of a step counts the same in the loss; sequence_mean: every completion.
        clip_low: see `losses.clipped_policy_loss`.
        clip_high: likewise.
        updates_per_batch: passes over a step's batch; each is one optimiser step.
        micro_batch_size: completions in one backward pass; bounds the memory, changes nothing else.
        probe_every: steps between probes; 0: only before the first step and after the last.
        checkpoint_every: steps between checkpoints; 0: none.
        seed: of the rollouts and the probes.
    """

    steps: int = 300
    group_size: int = 8
    temperature: float = 1.0
    learning_rate: float = 4e-5
    warm_up_steps: int = 10
    max_grad_norm: float = 1.0
    advantage: str = "grpo"
    aggregation: str = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.28
    updates_per_batch: int = 1
    micro_batch_size: int = 256
    probe_every: int = 25
    checkpoint_every: int = 25
    seed: int = 0

    def __post_init__(self):
        at_least_one = ("steps", "group_size", "warm_up_steps", "updates_per_batch", "micro_batch_size")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give an integer of at least 1")
        for name in ("temperature", "learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0")
        for name in ("probe_every", "checkpoint_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give an integer of at least 0")
        for name, choices in {"advantage": ADVANTAGES, "aggregation": losses.AGGREGATIONS}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give one of {', '.join(choices)}")


def train(
    config: TrainConfig,
    *,
    task: Task,
    pool: PromptPool,
    policy: Policy,
    engine: RolloutEngine,
    curriculum: Curriculum,
    probe: Probe,
    run_dir: Path,
    resume: bool = False,
    progress: Callable[[range], Any] | None = None,
) -> list[dict[str, float]]:
    """Trains the policy in place.

    Writes `metrics.jsonl`, TensorBoard events and `checkpoint.pt` to `run_dir`. A run that was killed at any moment
    and is started again with `resume` gives the same numbers (times apart) as one that was not, on the CPU.

    The belief is updated and the next batch chosen while the policy is updated: `seconds/selecting` is what the loop
    waited for, not what selection computed.

    Args:
        config: see `TrainConfig`.
        task: verifies completions.
        pool: the prompts to train on; its rows are the selector's.
        policy: trained in place.
        engine: rolls out with the policy's current weights.
        curriculum: chooses prompts and filters groups.
        probe: fresh rollouts at fixed prompts, counted apart.
        run_dir: made when missing.
        resume: go on from `run_dir`'s checkpoint, if there is one.
        progress: wraps the range of steps, for a progress bar; None: a tqdm bar.

    Returns:
        The metrics of every step, what `metrics.jsonl` holds.

    Raises:
        ValueError: `run_dir` already holds a run and `resume` is false, or its checkpoint is of another configuration.
    """
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    identity = {"train": asdict(config), "curriculum": curriculum.spec, "probe": probe.spec, "task": task.name}
    checkpoint = run_dir / "checkpoint.pt"
    start, num_rollouts = 0, 0
    if resume and checkpoint.exists():
        saved = load_checkpoint(checkpoint, identity)
        policy.model.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        curriculum.load_state_dict(saved["curriculum"])
        start, num_rollouts = saved["step"], saved["num_rollouts"]
    elif resume and read_metrics(run_dir / "metrics.jsonl") and not config.checkpoint_every:
        raise ValueError(f"resume is true, but {run_dir} has no checkpoint; give another folder, or delete this one")
    log = RunLog(run_dir, first_step=start, resume=resume)
    steps = range(start, config.steps)
    with log:
        for step in progress(steps) if progress else tqdm(steps, unit="step"):
            clock = _Clock()
            record: dict[str, float] = {"step": step, "rollouts": num_rollouts}
            if step == 0 or (config.probe_every and step % config.probe_every == 0):
                with clock("probing"):
                    record |= probe.measure(engine, curriculum.selector, _seed(config, _PROBE, step))
            collected = _collect(config, task, pool, engine, curriculum, step, clock)
            if step + 1 < config.steps:
                with clock("selecting"):
                    curriculum.prepare()  # JAX chooses while torch updates the policy
            with clock("updating"):
                record |= _update(config, policy, optimizer, collected.groups, step)
            with clock("selecting"):
                record |= curriculum.selector.metrics()  # waits for the selector's own update, where it has to
            num_rollouts += collected.num_rollouts
            record |= _summary(collected) | clock.seconds
            log.write(record | {"rollouts": num_rollouts})
            if config.checkpoint_every and (step + 1) % config.checkpoint_every == 0:
                save_checkpoint(
                    checkpoint,
                    identity,
                    policy=policy.model.state_dict(),
                    optimizer=optimizer.state_dict(),
                    curriculum=curriculum.state_dict(),
                    step=step + 1,
                    num_rollouts=num_rollouts,
                )
        if not log.records or log.records[-1]["step"] < config.steps:
            last = probe.measure(engine, curriculum.selector, _seed(config, _PROBE, config.steps))
            log.write({"step": config.steps, "rollouts": num_rollouts} | last)
    return log.records


_ROLLOUT, _PROBE = 0, 1


def _seed(config: TrainConfig, stream: int, *counters: int) -> int:
    """A seed for every use, from the run's seed and the step: nothing of it has to be saved."""
    return int(np.random.SeedSequence([config.seed, stream, *counters]).generate_state(1)[0])


def _collect(
    config: TrainConfig,
    task: Task,
    pool: PromptPool,
    engine: RolloutEngine,
    curriculum: Curriculum,
    step: int,
    clock: "_Clock",
) -> Collected:
    batches = 0

    def roll_out(prompt_ids: np.ndarray) -> Groups:
        nonlocal batches
        batches += 1
        with clock("generating"):
            completions = engine.generate(
                pool.take(prompt_ids.tolist()).texts,
                config.group_size,
                max_new_tokens=task.max_new_tokens,
                temperature=config.temperature,
                seed=_seed(config, _ROLLOUT, step, batches),
            )
            return judge(task, pool, prompt_ids, completions)

    with clock("selecting"):
        collected = curriculum.collect(roll_out)
    clock.seconds["seconds/selecting"] -= clock.seconds["seconds/generating"]
    return collected


def _update(
    config: TrainConfig, policy: Policy, optimizer: torch.optim.Optimizer, groups: Groups, step: int
) -> dict[str, float]:
    """Optimiser steps on one batch of groups."""
    completions = groups.completions
    device = completions.tokens.device
    advantage = ADVANTAGES[config.advantage](groups.rewards).flatten().to(device)
    prompt = torch.arange(len(groups.prompt_ids), device=device).repeat_interleave(completions.group_size)
    judged = ~groups.rewards.isnan().flatten().to(device)
    counted = completions.mask[judged]  # the means run over all that was judged, with an advantage or without
    num_tokens, num_completions = int(counted.sum()), int(counted.any(1).sum())
    informative = advantage.nonzero()[:, 0]  # the others add nothing to the sum that the loss is
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warm_up_steps)
    metrics = {"policy/grad_norm": 0.0, "policy/loss": 0.0}
    for _ in range(config.updates_per_batch):
        optimizer.zero_grad()
        metrics = dict.fromkeys(metrics, 0.0)
        for start in range(0, len(informative), config.micro_batch_size):
            rows = informative[start : start + config.micro_batch_size]
            log_probs = policy.token_log_probs(
                completions.prompt_tokens[prompt[rows]],
                completions.prompt_mask[prompt[rows]],
                completions.tokens[rows],
                completions.mask[rows],
                temperature=config.temperature,
            )
            loss, parts = losses.clipped_policy_loss(
                log_probs,
                completions.log_probs[rows],
                advantage[rows],
                completions.mask[rows],
                clip_low=config.clip_low,
                clip_high=config.clip_high,
                aggregation=config.aggregation,
                num_tokens=num_tokens,
                num_completions=num_completions,
            )
            loss.backward()
            for name, value in {"loss": float(loss.detach()), **parts}.items():
                metrics[f"policy/{name}"] = metrics.get(f"policy/{name}", 0.0) + value
        if len(informative):
            norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.max_grad_norm)
            metrics["policy/grad_norm"] = float(norm)
            optimizer.step()
    return metrics


def _summary(collected: Collected) -> dict[str, float]:
    groups = collected.groups
    return {
        "train/mixed_share": collected.mixed_share,
        "train/batch_mixed_share": float(groups.mixed.sum() / max((groups.group_size > 0).sum(), 1)),
        "train/reward": float(groups.rewards.nanmean()),
        "train/completion_length": float(groups.completions.mask.sum(1).float().mean()),
    }


class _Clock:
    """Adds up the seconds spent under each name."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        key = f"seconds/{name}"
        self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - start
