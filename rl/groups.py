"""Judged completions of a batch, with the numbers that the policy update and the prompt selector need."""

import math
from typing import NamedTuple

import numpy as np
import torch

from rl import advantages
from rl.prompts import PromptPool, Task
from rl.rollout import Completions, join_completions
from rl.verification import Verifier


class Groups(NamedTuple):
    """Judged completions of `b` prompts, with `n` completions per prompt.

    Attributes:
        prompt_ids: Rows of the pool, int32 `[b]`.
        completions: The completions, in the order of the prompts.
        rewards: Rewards, float32 `[b, n]`; NaN where a completion was not judged.
        successes: The number of correct completions per prompt, int32 `[b]`.
        group_size: The number of judged completions per prompt, int32 `[b]`. A completion whose generation or
            verification failed is not judged, and does not count as a failure of the policy.
        correct: Whether each completion is judged and correct, bool `[b, n]`; None if only the counts are known.
        belief: The selector's prediction of each prompt's success rate before it observed the group, as mean and
            variance, float64 `[b, 2]`; None if nothing needs them.
        finish: Why each completion ended, as a number in `rl.finish.REASONS`, int8 `[b, n]`; None if it is unknown.
    """

    prompt_ids: np.ndarray
    completions: Completions
    rewards: torch.Tensor
    successes: np.ndarray
    group_size: np.ndarray
    correct: np.ndarray | None = None
    belief: np.ndarray | None = None
    finish: np.ndarray | None = None

    @property
    def num_rollouts(self) -> int:
        """The number of generated completions, judged or not."""
        return self.rewards.numel()

    @property
    def mixed(self) -> np.ndarray:
        """Whether some but not all judged completions of a prompt are correct, bool `[b]`."""
        return (self.successes > 0) & (self.successes < self.group_size)

    def within(self, margin: float) -> np.ndarray:
        """Whether a group is mixed and its share of successes is from `margin` to 1 - `margin`, bool `[b]`."""
        rate = self.successes / np.maximum(self.group_size, 1)
        return self.mixed & (rate >= margin - 1e-6) & (rate <= 1 - margin + 1e-6)

    def take(self, rows: np.ndarray) -> "Groups":
        """Return the groups at the given positions."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return Groups(
            self.prompt_ids[rows],
            self.completions.take(index.to(self.completions.tokens.device)),
            self.rewards[index],
            self.successes[rows],
            self.group_size[rows],
            None if self.correct is None else self.correct[rows],
            None if self.belief is None else self.belief[rows],
            None if self.finish is None else self.finish[rows],
        )


def judge(
    task: Task, pool: PromptPool, prompt_ids: np.ndarray, completions: Completions, verifier: Verifier | None = None
) -> Groups:
    """Verify every completion. `rl.verification` explains which verdicts mean "not judged".

    Args:
        task: The task, whose verifier judges.
        pool: The pool, which holds the answers.
        prompt_ids: Rows of the pool, one per group.
        completions: The completions of these prompts.
        verifier: A wrapper that calls the task's verifier and counts its failures. None: call the verifier in this
            process, without a time limit.
    """
    n = completions.group_size
    rows = [int(i) for i in np.repeat(prompt_ids, n)]
    names = [f"row {i} (key {pool.keys[i]!r})" for i in rows]
    verdicts = (verifier or Verifier(task.verify))(completions.texts, [pool.answers[i] for i in rows], names)
    judged = np.array([verdict is not None for verdict in verdicts], bool).reshape(-1, n)
    success = np.array([verdict is not None and verdict.success for verdict in verdicts], bool).reshape(-1, n)
    rewards = torch.tensor([math.nan if verdict is None else verdict.reward for verdict in verdicts])
    return Groups(
        np.asarray(prompt_ids, np.int32),
        completions,
        rewards.to(torch.float32).reshape(-1, n),
        success.sum(1, dtype=np.int32),
        judged.sum(1, dtype=np.int32),
        success,
    )


def advantages_of(groups: Groups, name: str) -> torch.Tensor:
    """Return the advantage that `name` names, one per completion `[b, n]`.

    Raises:
        ValueError: The name is mapp, and the groups have no verdicts per completion or no belief.
    """
    if name != "mapp":
        return advantages.FROM_REWARDS[name](groups.rewards)
    if groups.correct is None or groups.belief is None:
        missing = "correct" if groups.correct is None else "belief"
        raise ValueError(f"groups.{missing} is None with the advantage mapp; give it, or another advantage")
    correct, belief = (torch.as_tensor(array).to(groups.rewards.device) for array in (groups.correct, groups.belief))
    verdicts = torch.where(groups.rewards.isfinite(), correct.to(groups.rewards.dtype), torch.nan)
    return advantages.mapp(verdicts, *belief.unbind(1))


def join(parts: list[Groups]) -> Groups:
    """Join the groups of several batches; prompts and completions are padded to the longest."""
    return Groups(
        np.concatenate([part.prompt_ids for part in parts]),
        join_completions([part.completions for part in parts]),
        torch.cat([part.rewards for part in parts]),
        np.concatenate([part.successes for part in parts]),
        np.concatenate([part.group_size for part in parts]),
        _joined([part.correct for part in parts]),
        _joined([part.belief for part in parts]),
        _joined([part.finish for part in parts]),
    )


def _joined(columns: list[np.ndarray | None]) -> np.ndarray | None:
    known = [column for column in columns if column is not None]
    return np.concatenate(known) if len(known) == len(columns) else None
