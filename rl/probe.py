"""Fresh rollouts at fixed prompts, the same for every method: accuracy and prediction quality on equal terms."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxsel import Prediction, metrics
from jaxsel.integrations.history import Visits
from rl import _checks
from rl.groups import Groups, judge
from rl.prompts import PromptPool, Task
from rl.rollout import RolloutEngine, Sampling
from rl.shared import AnySelector
from rl.verification import Verifier

_STREAM = 0x70726F62  # others that draw from the same seed start with another number


class Probe:
    """Rolls out a fixed random part of the pool and the held-out prompts. These rollouts are counted apart.

    Args:
        task: verifies completions.
        pool: the training prompts.
        held_out: prompts that are never trained on.
        num_pool_prompts: size of the random part of the pool, at most the pool.
        group_size: rollouts a prompt; the run's own, so that predictions of solve states are of the same n.
        temperature: of the rollouts, the run's own.
        top_p: likewise.
        seed: of the choice of the part.
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
    def spec(self) -> dict[str, Any]:
        """What its numbers depend on; a resumed run has to have the same."""
        return {
            "prompt_ids": self._prompt_ids.tolist(),
            "held_out": len(self._held_out),
            "group_size": self._group_size,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
        }

    def measure(
        self,
        engine: RolloutEngine,
        selector: AnySelector,
        seed: int,
        record: Callable[[Visits, Prediction], None] | None = None,
        verifier: Verifier | None = None,
    ) -> dict[str, float]:
        """Accuracies (mean over fresh rollouts) and how well the selector predicts the part of the pool.

        They are of the completions that were judged: where judged_share is below 1, those that came in time, perhaps.

        Args:
            engine: rolls out.
            selector: is asked what it predicts; it sees nothing of the rollouts.
            seed: of the rollouts.
            record: is told what came of the part of the pool, and what was predicted.
            verifier: calls the task's verifier; see `rl.groups.judge`.
        """
        part = self._roll_out(engine, self._pool_part, seed, verifier)
        held_out = self._roll_out(engine, self._held_out, seed + 1, verifier)
        num_rollouts = part.num_rollouts + held_out.num_rollouts
        judged = int(part.group_size.sum() + held_out.group_size.sum())
        cost = {"probe/rollouts": float(num_rollouts), "probe/judged_share": judged / num_rollouts}
        part = part.take(np.flatnonzero(part.group_size > 0))
        if len(part.prompt_ids) == 0 or not held_out.group_size.any():
            return cost  # every generation failed: nothing is known
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
