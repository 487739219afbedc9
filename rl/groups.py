"""Completions, judged: what the policy update and the selector need of a batch."""

import math
from typing import NamedTuple

import numpy as np
import torch

from rl.prompts import PromptPool, Task
from rl.rollout import Completions


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
    tokens = [part.completions for part in parts]
    return Groups(
        np.concatenate([part.prompt_ids for part in parts]),
        Completions(
            _stack([c.prompt_tokens for c in tokens], pad_left=True),
            _stack([c.prompt_mask for c in tokens], pad_left=True),
            _stack([c.tokens for c in tokens]),
            _stack([c.mask for c in tokens]),
            _stack([c.log_probs for c in tokens]),
            [text for c in tokens for text in c.texts],
        ),
        torch.cat([part.rewards for part in parts]),
        np.concatenate([part.successes for part in parts]),
        np.concatenate([part.group_size for part in parts]),
    )


def _stack(columns: list[torch.Tensor], *, pad_left: bool = False) -> torch.Tensor:
    """Padding is 0, which every mask hides."""
    width = max(column.shape[1] for column in columns)
    padded = []
    for column in columns:
        missing = width - column.shape[1]
        padded.append(torch.nn.functional.pad(column, (missing, 0) if pad_left else (0, missing)))
    return torch.cat(padded)
