"""The interface of all peers, and the settings of the methods.

A peer is an implementation of a method that the benchmark times beside jaxsel: in NumPy, torch, JAX libraries or Python
loops. The calls of jaxsel have the same interface. All implementations of a method use the same settings.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

GROUP_SIZE = 8
MOPPS_DECAY, DPS_DECAY = 0.5, 0.7
BAND = (0.3, 0.7)
KALMAN_STEP_VARIANCE = 0.002


class Peer(ABC):
    """One implementation of one method, over the whole pool. A call returns when its work is done, also on a GPU."""

    fused = False  # whether `observe` also predicts, so that `predict` has no work left

    def __init__(self, num_prompts: int, seed: int):
        self.num_prompts, self.seed = num_prompts, seed

    def place(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> tuple[Any, Any, int]:
        """Return a batch where the implementation needs it, for example on the GPU. This call is not timed."""
        return prompt_ids, successes, group_size

    def tune(self, step: Callable[[], object]) -> None:
        """Choose the settings that are fastest on this machine, by timing steps. Called once, after the warm-up."""
        del step

    @abstractmethod
    def select(self, batch_size: int) -> Any:
        """Choose distinct prompts."""

    def forget(self) -> None:  # noqa: B027  (most peers have nothing to forget)
        """Forget the choice, because the benchmark observes other prompts. Not timed."""

    @abstractmethod
    def observe(self, prompt_ids: Any, successes: Any, group_size: int) -> None:
        """Update the beliefs with the outcomes of a batch."""

    @abstractmethod
    def predict(self) -> Any:
        """Predict the whole pool: posterior means, shape [N]; dps: P(unsolved), P(mixed), P(solved), shape [3, N]."""


def solve_state(successes: np.ndarray, group_size: int) -> np.ndarray:
    """Return, for each group, 0 if no rollout is right, 1 if some are, and 2 if all are."""
    return np.where(successes == 0, 0, np.where(successes == group_size, 2, 1))
