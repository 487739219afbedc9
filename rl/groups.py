"""Completions, judged: what the policy update and the selector need of a batch."""

import math
from typing import NamedTuple

import numpy as np
import torch

from rl.prompts import PromptPool, Task
from rl.rollout import Completions, join_completions
from rl.verification import Verifier


class Groups(NamedTuple):
    """Judged completions of `b` prompts, `n` each.

    Attributes:
        prompt_ids: int32 `[b]`, rows of the pool.
        completions: see `Completions`.
        rewards: float32 `[b, n]`; NaN where the generation or its verification failed.
        successes: int32 `[b]`, completions that were correct.
        group_size: int32 `[b]`, completions that were judged: a failure to judge is no failure of the policy.
    """

    prompt_ids: np.ndarray
    completions: Completions
    rewards: torch.Tensor
    successes: np.ndarray
    group_size: np.ndarray

    @property
    def num_rollouts(self) -> int:
        """Completions generated, judged or not."""
        return self.rewards.numel()

    @property
    def mixed(self) -> np.ndarray:
        """Neither all correct nor none, bool `[b]`."""
        return (self.successes > 0) & (self.successes < self.group_size)

    def take(self, rows: np.ndarray) -> "Groups":
        """The groups at the given positions."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return Groups(
            self.prompt_ids[rows],
            self.completions.take(index.to(self.completions.tokens.device)),
            self.rewards[index],
            self.successes[rows],
            self.group_size[rows],
        )


def judge(
    task: Task, pool: PromptPool, prompt_ids: np.ndarray, completions: Completions, verifier: Verifier | None = None
) -> Groups:
    """Verify every completion; `rl.verification` says what counts as not judged.

    Args:
        task: its verifier judges.
        pool: holds the answers.
        prompt_ids: rows of the pool, one per group.
        completions: of these prompts.
        verifier: calls the task's verifier, and counts failures; None: called in this process without a time limit.
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
    )


def join(parts: list[Groups]) -> Groups:
    """Groups of several batches as one; prompts and completions are padded to the longest."""
    return Groups(
        np.concatenate([part.prompt_ids for part in parts]),
        join_completions([part.completions for part in parts]),
        torch.cat([part.rewards for part in parts]),
        np.concatenate([part.successes for part in parts]),
        np.concatenate([part.group_size for part in parts]),
    )
