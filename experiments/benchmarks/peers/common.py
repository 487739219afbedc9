"""The interface of all peers, and the settings of the methods that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

GROUP_SIZE = 8
MOPPS_DECAY, DPS_DECAY = 0.5, 0.7
BAND = (0.3, 0.7)


class Peer(ABC):
    """One implementation of one method, over the whole pool. Calls return when the work is done."""

    fused = False  # whether `observe` also predicts, so that `predict` has no work left

    def __init__(self, num_prompts: int, seed: int):
        self.num_prompts, self.seed = num_prompts, seed

    def place(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> tuple[Any, Any, int]:
        """Copy a batch to where the implementation needs it; this is not timed."""
        return prompt_ids, successes, group_size

    def tune(self, step: Callable[[], object]) -> None:
        """Choose settings that depend on the machine by trying steps; called once, after the warm-up."""
        del step

    @abstractmethod
    def select(self, batch_size: int) -> Any:
        """Choose distinct prompts."""

    @abstractmethod
    def observe(self, prompt_ids: Any, successes: Any, group_size: int) -> None:
        """Update the belief by the outcomes of a batch."""

    @abstractmethod
    def predict(self) -> Any:
        """Predict the whole pool: posterior means [N], or for dps P(unsolved), P(mixed), P(solved) [3, N]."""


def solve_state(successes: np.ndarray, group_size: int) -> np.ndarray:
    """Return 0 where no rollout of a group is right, 1 where some are, and 2 where all are."""
    return np.where(successes == 0, 0, np.where(successes == group_size, 2, 1))
