"""Fresh rollouts at fixed prompts, the same for every method: accuracy and prediction quality on equal terms."""

import numpy as np

from jaxsel import PromptSelector, metrics
from rl.groups import Groups, judge
from rl.prompts import PromptPool, Task
from rl.rollout import RolloutEngine


class Probe:
    """Rolls out a fixed random part of the pool and the held-out prompts. These rollouts are counted apart.

    Args:
        task: verifies completions.
        pool: the training prompts.
        held_out: prompts that are never trained on.
        num_pool_prompts: size of the random part of the pool, at most the pool.
        group_size: rollouts a prompt.
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
        seed: int = 0,
    ):
        self._task = task
        self._group_size = group_size
        rng = np.random.default_rng([seed, 2])
        self._prompt_ids = np.sort(rng.permutation(len(pool))[:num_pool_prompts]).astype(np.int32)
        self._pool_part = pool.take(self._prompt_ids.tolist())
        self._held_out = held_out

    def measure(self, engine: RolloutEngine, selector: PromptSelector, seed: int) -> dict[str, float]:
        """Accuracies (mean over fresh rollouts) and how well the selector predicts the part of the pool."""
        part = self._roll_out(engine, self._pool_part, seed)
        held_out = self._roll_out(engine, self._held_out, seed + 1)
        truth = part.successes / np.maximum(part.group_size, 1)
        prediction = selector.predict(self._prompt_ids)
        return {
            "probe/rollouts": float(part.num_rollouts + held_out.num_rollouts),
            "probe/pool_accuracy": float(truth.mean()),
            "probe/pool_mixed_share": float(part.mixed.mean()),
            "probe/held_out_accuracy": float(held_out.successes.sum() / max(held_out.group_size.sum(), 1)),
            "probe/spearman": float(metrics.spearman(prediction.success_rate, truth)),
            "probe/mae": float(metrics.mean_absolute_error(prediction.success_rate, truth)),
            "probe/solve_state_accuracy": float(
                metrics.solve_state_accuracy(prediction, part.successes, part.group_size)
            ),
            "probe/predicted_mixed_share": float(prediction.mixed.mean()),
        }

    def _roll_out(self, engine: RolloutEngine, prompts: PromptPool, seed: int) -> Groups:
        completions = engine.generate(
            prompts.texts,
            self._group_size,
            max_new_tokens=self._task.max_new_tokens,
            temperature=1.0,
            seed=seed,
        )
        return judge(self._task, prompts, np.arange(len(prompts)), completions)
