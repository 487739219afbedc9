"""Methods of selection in NumPy on whole arrays, which the benchmark times beside jaxsel's."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from experiments.benchmarks.peers.common import BAND, DPS_DECAY, MOPPS_DECAY, Peer, solve_state


class NumpyMopps(Peer):
    """MoPPS by `Generator.beta` over the whole pool and an argpartition."""

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.rng = np.random.default_rng(seed)
        self.alpha = np.ones(num_prompts, np.float32)
        self.beta = np.ones(num_prompts, np.float32)

    def draw(self) -> np.ndarray:
        """Draw once per prompt from the posterior."""
        return self.rng.beta(self.alpha, self.beta)

    def select(self, batch_size: int) -> np.ndarray:
        """Choose the prompts whose draws are nearest to one half."""
        return _argmax_many(-np.abs(self.draw() - 0.5), batch_size)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Discount the counts of the batch's prompts, and add the new successes and failures."""
        d, ids = MOPPS_DECAY, prompt_ids
        self.alpha[ids] = d * self.alpha[ids] + (1 - d) + successes
        self.beta[ids] = d * self.beta[ids] + (1 - d) + group_size - successes

    def predict(self) -> np.ndarray:
        """Return posterior means."""
        return self.alpha / (self.alpha + self.beta)


class ThreadedNumpyMopps(NumpyMopps):
    """MoPPS with one thread per core, each of which draws for its part of the pool."""

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        threads = os.cpu_count() or 1
        self.threads = ThreadPoolExecutor(threads)
        self.generators = self.rng.spawn(threads)

    def draw(self) -> np.ndarray:
        """Draw once per prompt from the posterior; NumPy lets other threads run while it draws."""
        parts = [np.array_split(column, len(self.generators)) for column in (self.alpha, self.beta)]
        return np.concatenate(list(self.threads.map(np.random.Generator.beta, self.generators, *parts)))


class TrinityMopps(NumpyMopps):
    """The arithmetic of Trinity-RFT's selector by difficulty, without its evidence from reference models.

    Its counts have twice the bytes, and every update discounts those of all prompts, visited or not. So it equals MoPPS
    where every prompt is visited at every step. Like MoPPS, it chooses by draws.
    """

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.alpha, self.beta = self.alpha.astype(np.float64), self.beta.astype(np.float64)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Discount the counts of all prompts, and add the new successes and failures, which are zero elsewhere."""
        right, wrong = np.zeros(self.num_prompts), np.zeros(self.num_prompts)
        right[prompt_ids], wrong[prompt_ids] = successes, group_size - successes
        d = MOPPS_DECAY
        self.alpha = d * self.alpha + (1 - d) + right
        self.beta = d * self.beta + (1 - d) + wrong


class NumpyUniform(NumpyMopps):
    """Uniform choice by `Generator.choice` without replacement. The posterior is updated, and no choice uses it."""

    def select(self, batch_size: int) -> np.ndarray:
        """Choose random prompts."""
        return self.rng.choice(self.num_prompts, batch_size, replace=False, shuffle=False)


class NumpyThreshold(NumpyMopps):
    """Random choice among the prompts whose draw lies in the band."""

    def select(self, batch_size: int) -> np.ndarray:
        """Choose random prompts in the band, or the prompts nearest to its middle if too few lie in the band."""
        draw = self.draw()
        inside = np.flatnonzero((draw >= BAND[0]) & (draw <= BAND[1]))
        if len(inside) >= batch_size:
            return self.rng.choice(inside, batch_size, replace=False, shuffle=False)
        return _argmax_many(-np.abs(draw - 0.5), batch_size)


class NumpyDps(Peer):
    """DPS on whole float32 arrays with prompts on the last axis, updated in place where possible."""

    fused = True

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.counts = np.ones((3, 3, num_prompts), np.float32)
        self.filtered = np.full((3, num_prompts), 1 / 3, np.float32)
        self.predicted = self.filtered.copy()
        self.weight = np.empty_like(self.filtered)

    def select(self, batch_size: int) -> np.ndarray:
        """Choose the prompts with the largest predicted P(mixed)."""
        return _argmax_many(self.predicted[1], batch_size)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Advance every prompt by one step, and predict its next group."""
        state = solve_state(successes, group_size)
        rows = self.counts[:, :, prompt_ids]
        into = np.take_along_axis(rows, state[None, None], axis=1)[:, 0]
        xi = self.filtered[:, prompt_ids] * into / rows.sum(1)
        self.counts *= DPS_DECAY
        self.counts += np.float32(1 - DPS_DECAY)
        self.counts[:, state, prompt_ids] += xi / xi.sum(0)
        self.filtered, self.predicted = self.predicted, self.filtered
        self.filtered[:, prompt_ids] = np.eye(3, dtype=np.float32)[:, state]
        np.sum(self.counts, axis=1, out=self.weight)
        np.divide(self.filtered, self.weight, out=self.weight)
        np.einsum("in,ijn->jn", self.weight, self.counts, out=self.predicted)

    def predict(self) -> np.ndarray:
        """Return the prediction that `observe` has already computed."""
        return self.predicted


def _argmax_many(scores: np.ndarray, batch_size: int) -> np.ndarray:
    return np.argpartition(scores, len(scores) - batch_size)[-batch_size:]
