"""Probes: fresh rollouts at fixed prompts, to compare how well selection methods train and predict."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxsel import Prediction, metrics
from jaxsel.integrations.history import Visits
from rl import _checks
from rl.batch_selector import BatchSelector
from rl.groups import Groups, judge
from rl.prompts import PromptPool, Task
from rl.rollout import RolloutEngine, Sampling
from rl.verification import Verifier

_STREAM = 0x70726F62  # separates these random numbers from other uses of the same seed


class Probe:
    """Fresh rollouts of the held-out prompts and of a fixed random sample of the pool.

    The prompt selector does not observe these rollouts, and the metric `rollouts` of the run does not count them.

    Args:
        task: The task, whose verifier judges completions.
        pool: The training prompts.
        held_out: Prompts that are never trained on.
        num_pool_prompts: The size of the sample; a larger number than the pool's size means the whole pool.
        group_size: The number of rollouts per prompt. Give the run's own: whether a prompt is unsolved, mixed or
            solved depends on it.
        temperature: The temperature of the rollouts. Give the run's own.
        top_p: The top-p of the rollouts. Give the run's own.
        seed: The seed of the sample.
    """

    def __init__(
        self,
        task: Task,
        pool: PromptPool,
        held_out: PromptPool,
        *,
        num_pool_prompts: int = 200,
        group_size: int = 8,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ):
        _checks.integers(1, num_pool_prompts=num_pool_prompts, group_size=group_size)
        self._task = task
        self._group_size = group_size
        self._sampling = Sampling(task.max_new_tokens, temperature, top_p, task.stop)
        rng = np.random.default_rng([_STREAM, seed])
        self._prompt_ids = np.sort(rng.permutation(len(pool))[:num_pool_prompts]).astype(np.int32)
        self._pool_part = pool.take(self._prompt_ids.tolist())
        self._held_out = held_out

    @property
    def held_out(self) -> PromptPool:
        """The held-out prompts."""
        return self._held_out

    @property
    def spec(self) -> dict[str, Any]:
        """The settings that the metrics depend on. A resumed run needs the same ones."""
        return {
            "prompt_ids": self._prompt_ids.tolist(),
            "held_out": len(self._held_out),
            "held-out texts and answers": self._held_out.fingerprint,
            "group_size": self._group_size,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
        }

    def measure(
        self,
        engine: RolloutEngine,
        selector: BatchSelector,
        seed: int,
        record: Callable[[Visits, Prediction], None] | None = None,
        verifier: Verifier | None = None,
    ) -> dict[str, float]:
        """Return the accuracies and the quality of the selector's predictions, as metrics `probe/...`.

        `probe/pool_accuracy` is the mean over the sampled prompts of the share of successes among the judged
        completions. `probe/held_out_accuracy` is this share over all completions of the held-out prompts. If
        `probe/judged_share` is below 1, some completions were not judged, perhaps because of the time limit. The
        accuracies may then be biased. Only the number of rollouts and the judged share are returned if no completion of
        the sample, or none of the held-out prompts, was judged.

        Args:
            engine: The engine that rolls out.
            selector: The selector whose predictions for the sample are evaluated.
            seed: The seed of the rollouts.
            record: A function that receives the counts of the sampled prompts and the predictions for them.
            verifier: The verifier, see `rl.groups.judge`.
        """
        part = self._roll_out(engine, self._pool_part, seed, verifier)
        held_out = self._roll_out(engine, self._held_out, seed + 1, verifier)
        num_rollouts = part.num_rollouts + held_out.num_rollouts
        judged = int(part.group_size.sum() + held_out.group_size.sum())
        cost = {"probe/rollouts": float(num_rollouts), "probe/judged_share": judged / num_rollouts}
        part = part.take(np.flatnonzero(part.group_size > 0))
        if len(part.prompt_ids) == 0 or not held_out.group_size.any():
            return cost  # without a judged completion there is no accuracy
        truth = part.successes / part.group_size
        prompt_ids = self._prompt_ids[part.prompt_ids]
        prediction = selector.predict(prompt_ids)
        if record is not None:
            record((prompt_ids, part.successes, part.group_size), prediction)
        return cost | {
            "probe/pool_accuracy": float(truth.mean()),
            "probe/pool_mixed_share": float(part.mixed.mean()),
            "probe/held_out_accuracy": float(held_out.successes.sum() / held_out.group_size.sum()),
            "probe/spearman": float(metrics.spearman(prediction.success_rate, truth)),
            "probe/mae": float(metrics.mean_absolute_error(prediction.success_rate, truth)),
            "probe/solve_state_accuracy": float(
                metrics.solve_state_accuracy(prediction, part.successes, part.group_size)
            ),
            "probe/predicted_mixed_share": float(prediction.mixed.mean()),
        }

    def _roll_out(self, engine: RolloutEngine, prompts: PromptPool, seed: int, verifier: Verifier | None) -> Groups:
        completions = engine.generate(prompts.texts, self._group_size, self._sampling, seed=seed)
        return judge(self._task, prompts, np.arange(len(prompts)), completions, verifier)
