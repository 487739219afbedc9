"""Rollouts of a training run: for the policy update, for probes at fixed prompts, and for evaluation sets."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from jaxsel import Prediction
from jaxsel.integrations.history import Visits
from rl.curriculum import Collected, Curriculum
from rl.evaluation import Evaluation
from rl.finish import finish_reasons, overlong_penalty
from rl.groups import Groups, judge
from rl.probe import Probe
from rl.prompts import PromptPool, Task
from rl.ranks import Ranks
from rl.rollout import RolloutEngine, Sampling
from rl.seeds import derived_seed
from rl.step_metrics import Clock
from rl.train_config import TrainConfig
from rl.verification import Verifier

_ROLLOUT, _PROBE, _EVALUATION = 0, 1, 2  # streams of random numbers


class VisitLog(Protocol):
    """A record of the prompt selector's observations and of the predictions that preceded them.

    An observation (visits) holds prompts with their counts of successes and of judged rollouts.
    """

    def observed(self, step: int, visits: Visits, prediction: Prediction) -> None:
        """Record the counts of a batch that the selector observes next, and the prediction for this batch."""
        ...

    def probed(self, step: int, visits: Visits, prediction: Prediction) -> None:
        """Record the counts of a probe, which the selector does not observe, and the prediction for its prompts."""
        ...

    def flush(self) -> None:
        """Write the records to disk."""
        ...


@dataclass(frozen=True)
class RolloutWorker:
    """Everything that one step needs to generate, verify and record its rollouts.

    Attributes:
        config: The settings of the run.
        task: The task, with its longest completion and its stop texts.
        pool: The training prompts.
        engine: The rollout engine, with the current weights of the policy.
        curriculum: The curriculum that chooses the prompts.
        probe: The probe, whose prompts stay the same.
        evaluation: The evaluation sets.
        verifier: The verifier that judges the completions.
        log: The record of counts and predictions; it is written to only if `config.history` is true.
        ranks: The processes of the run.
        eos_token_ids: The tokens that end a sequence.
        interrupting: A function that returns a context, in which probes and evaluation sets are measured, for example
            one that a signal ends. Nothing is recorded in it.
    """

    config: TrainConfig
    task: Task
    pool: PromptPool
    engine: RolloutEngine
    curriculum: Curriculum
    probe: Probe
    evaluation: Evaluation
    verifier: Verifier
    log: VisitLog
    ranks: Ranks
    eos_token_ids: tuple[int, ...]
    interrupting: Callable[[], AbstractContextManager[None]] = nullcontext

    def collect(self, step: int, clock: Clock) -> Collected:
        """Return the groups that the step trains on, with their rollouts generated, verified and observed."""
        batches = 0

        def roll_out(prompt_ids: np.ndarray) -> Groups:
            nonlocal batches
            batches += 1
            with clock("generating"):
                groups = self._roll_out(prompt_ids, self._seed(_ROLLOUT, step, batches))
            if self.config.history:
                with clock("recording"):
                    visits = (groups.prompt_ids, groups.successes, groups.group_size)
                    self.log.observed(step, visits, self.curriculum.selector.predict(groups.prompt_ids))
            return self._with_belief(groups) if self.config.advantage == "mapp" else groups

        with clock.excluding("selecting", "generating", "recording"):
            return self.curriculum.collect(roll_out)

    def measure(self, step: int) -> dict[str, float]:
        """Return the metrics of the probe before this step."""
        probed: list[tuple[Visits, Prediction]] = []
        seed, selector = self._seed(_PROBE, step), self.curriculum.selector
        with self.interrupting():
            metrics = self.probe.measure(
                self.engine, selector, seed, lambda *counts: probed.append(counts), self.verifier
            )
        if self.config.history:
            for visits, prediction in probed:
                self.log.probed(step, visits, prediction)
        return metrics

    def evaluate(self, step: int) -> dict[str, float]:
        """Return the metrics of the evaluation sets before this step."""
        seed, config = self._seed(_EVALUATION, step), self.config
        with self.interrupting():
            return self.evaluation.measure(
                self.engine, seed, timeout=config.verify_timeout, own_process=config.verify_process, ranks=self.ranks
            )

    def _roll_out(self, prompt_ids: np.ndarray, seed: int) -> Groups:
        texts = self.pool.take(prompt_ids.tolist()).texts
        sampling = Sampling(self.task.max_new_tokens, self.config.temperature, self.config.top_p, self.task.stop)
        completions = self.engine.generate(texts, self.config.group_size, sampling, seed=seed)
        groups = judge(self.task, self.pool, prompt_ids, completions, self.verifier)
        finish = finish_reasons(completions, self.eos_token_ids, self.task.stop).reshape(groups.rewards.shape)
        if self.config.overlong_buffer:
            groups = groups._replace(rewards=groups.rewards + self._penalties(groups))
        return groups._replace(finish=finish)

    def penalty_of(self, groups: Groups) -> dict[str, float]:
        """Return the mean overlong penalty in the rewards of judged completions; empty without `overlong_buffer`."""
        if not self.config.overlong_buffer:
            return {}
        return {"train/overlong_penalty": float(self._penalties(groups)[groups.rewards.isfinite()].mean())}

    def _penalties(self, groups: Groups) -> torch.Tensor:
        lengths = groups.completions.mask.sum(1).reshape(groups.rewards.shape).to(groups.rewards.device)
        limit, config = self.task.max_new_tokens, self.config
        return overlong_penalty(lengths, limit, config.overlong_buffer, config.overlong_penalty)

    def _with_belief(self, groups: Groups) -> Groups:
        """Return the groups with the selector's predictions for their prompts, made before it observes the groups."""
        predicted = self.curriculum.selector.predict(groups.prompt_ids)
        return groups._replace(belief=np.stack([predicted.success_rate, predicted.variance], 1).astype(np.float64))

    def _seed(self, stream: int, *counters: int) -> int:
        """Return a seed from the run's seed, the stream and the counters alone, so that checkpoints store none."""
        return derived_seed(self.config.seed, stream, *counters)
