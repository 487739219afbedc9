"""A Kalman filter per prompt on the arcsine scale, see `jaxsel.kalman`, in NumPy and in simdkalman."""

import math
from typing import Any

import numpy as np

from experiments.benchmarks.peers.common import KALMAN_STEP_VARIANCE, Peer

try:
    from simdkalman import primitives
except ImportError:
    primitives = None

_PRIOR_MEAN, _PRIOR_VARIANCE = math.pi / 4, math.pi**2 / 16 - 0.5  # of arcsin sqrt(p), for a uniform p
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class NumpyKalman(Peer):
    """Filters on whole float32 arrays. A variance grows with the age of the prompt's last visit when it is read."""

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.mean = np.full(num_prompts, _PRIOR_MEAN, np.float32)
        self.variance = np.full(num_prompts, _PRIOR_VARIANCE, np.float32)
        self.last_step = np.zeros(num_prompts, np.int32)
        self.step = 0

    def believed(self, rows: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Return the means and variances of today."""
        grown = self.variance[rows] + np.float32(KALMAN_STEP_VARIANCE) * (self.step - self.last_step[rows])
        return self.mean[rows], np.minimum(grown, _PRIOR_VARIANCE).astype(np.float32)

    def select(self, batch_size: int) -> np.ndarray:
        """Choose the prompts whose mean success rates are nearest to one half."""
        return np.argpartition(np.abs(self.predict() - 0.5), batch_size)[:batch_size]

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Condition the visited prompts on their outcomes."""
        self.step += 1
        mean, variance = self.believed(prompt_ids)
        noise = 1 / (4 * group_size + 2)
        gain = variance / (variance + noise)
        self.mean[prompt_ids] = mean + gain * (_arcsine(successes, group_size) - mean)
        self.variance[prompt_ids] = gain * noise
        self.last_step[prompt_ids] = self.step

    def predict(self) -> np.ndarray:
        """Return mean success rates, by Gauss-Hermite quadrature with 24 nodes."""
        mean, variance = self.believed()
        deviation, total = np.sqrt(variance), np.zeros_like(mean)
        for node, weight in zip(_NODES.astype(np.float32), _WEIGHTS.astype(np.float32), strict=True):
            total += weight * np.sin(np.clip(mean + node * deviation, 0, np.float32(math.pi / 2))) ** 2
        return total


class SimdKalman(NumpyKalman):
    """Filters by simdkalman, which handles many series at once, with matrices of 1 x 1 in float64.

    At every step it predicts all prompts and conditions the visited ones.
    """

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.mean = np.full((num_prompts, 1, 1), _PRIOR_MEAN)
        self.variance = np.full((num_prompts, 1, 1), _PRIOR_VARIANCE)
        self.filters: Any = primitives
        self.one, self.noise = np.ones((1, 1, 1)), np.full((1, 1, 1), KALMAN_STEP_VARIANCE)

    def believed(self, rows: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Return the means and variances of today, in float32 for the same quadrature."""
        return self.mean[rows, 0, 0].astype(np.float32), self.variance[rows, 0, 0].astype(np.float32)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Advance all prompts by one step, and condition the visited ones on their outcomes."""
        self.mean, variance = self.filters.predict(self.mean, self.variance, self.one, self.noise)
        self.variance = np.minimum(variance, _PRIOR_VARIANCE)
        seen = np.asarray(_arcsine(successes, group_size), np.float64)[:, None, None]
        noise = np.full((1, 1, 1), 1 / (4 * group_size + 2))
        self.mean[prompt_ids], self.variance[prompt_ids] = self.filters.update(
            self.mean[prompt_ids], self.variance[prompt_ids], self.one, noise, seen
        )


def _arcsine(successes: np.ndarray, group_size: int) -> np.ndarray:
    return np.arcsin(np.sqrt((successes + 0.375) / (group_size + 0.75)))
