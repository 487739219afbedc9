"""Completions, judged: what the policy update and the selector need of a batch."""

import math
from typing import NamedTuple

import numpy as np
import torch

from rl.prompts import PromptPool, Task
from rl.rollout import Completions, join_completions


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


def judge(task: Task, pool: PromptPool, prompt_ids: np.ndarray, completions: Completions) -> Groups:
    """Verifies every completion; a verdict of None, a reward of NaN and a text of None count as not judged."""
    n = completions.group_size
    rewards = torch.full((len(prompt_ids), n), math.nan)
    successes = np.zeros(len(prompt_ids), np.int32)
    for row, text in enumerate(completions.texts):
        i, j = divmod(row, n)
        verdict = None if text is None else task.verify(text, pool.answers[prompt_ids[i]])
        if verdict is not None and verdict.reward is not None and not math.isnan(verdict.reward):
            rewards[i, j] = verdict.reward
            successes[i] += bool(verdict.success)
    group_size = (~rewards.isnan()).sum(1).numpy().astype(np.int32)
    return Groups(np.asarray(prompt_ids, np.int32), completions, rewards, successes, group_size)


def join(parts: list[Groups]) -> Groups:
    """Groups of several batches as one; prompts and completions are padded to the longest."""
    return Groups(
        np.concatenate([part.prompt_ids for part in parts]),
        join_completions([part.completions for part in parts]),
        torch.cat([part.rewards for part in parts]),
        np.concatenate([part.successes for part in parts]),
        np.concatenate([part.group_size for part in parts]),
    )
