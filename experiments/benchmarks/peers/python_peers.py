"""Python loops over prompts, in the manner of the released code of MoPPS and DPS, and of a trainer's task sampler."""

import heapq
import random

import numpy as np

from experiments.benchmarks.peers.common import BAND, DPS_DECAY, MOPPS_DECAY, Peer, solve_state


class DictionaryMopps(Peer):
    """A dictionary of posteriors and a Python loop over the pool."""

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.rng = random.Random(seed)
        self.posterior = dict.fromkeys(range(num_prompts), (1.0, 1.0))

    def select(self, batch_size: int) -> np.ndarray:
        """The draws nearest to one half."""
        distance = {
            prompt: abs(self.rng.betavariate(alpha, beta) - 0.5) for prompt, (alpha, beta) in self.posterior.items()
        }
        return np.array(heapq.nsmallest(batch_size, distance, key=distance.__getitem__))

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Discounts the visited prompts and adds their counts."""
        d = MOPPS_DECAY
        for prompt, s in zip(prompt_ids.tolist(), successes.tolist(), strict=True):
            alpha, beta = self.posterior[prompt]
            self.posterior[prompt] = (d * alpha + (1 - d) + s, d * beta + (1 - d) + group_size - s)

    def predict(self) -> list[float]:
        """Posterior means."""
        return [alpha / (alpha + beta) for alpha, beta in self.posterior.values()]


class DictionaryDps(Peer):
    """A dictionary of beliefs and transition counts, and a Python loop over the pool."""

    fused = True

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.counts = {prompt: [[1.0] * 3 for _ in range(3)] for prompt in range(num_prompts)}
        self.filtered = {prompt: [1 / 3] * 3 for prompt in range(num_prompts)}
        self.predicted = {prompt: [1 / 3] * 3 for prompt in range(num_prompts)}

    def select(self, batch_size: int) -> np.ndarray:
        """The largest predicted P(mixed)."""
        return np.array(heapq.nlargest(batch_size, self.predicted, key=lambda prompt: self.predicted[prompt][1]))

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """One step of everybody's clock; the prediction of the next group comes with it."""
        states = solve_state(successes, group_size).tolist()
        observed = dict(zip(prompt_ids.tolist(), states, strict=True))
        for prompt, counts in self.counts.items():
            xi = [0.0, 0.0, 0.0]
            state = observed.get(prompt)
            if state is None:
                filtered = self.predicted[prompt]
            else:
                before = self.filtered[prompt]
                joint = [before[i] * counts[i][state] / sum(counts[i]) for i in range(3)]
                xi = [value / sum(joint) for value in joint]
                filtered = [float(i == state) for i in range(3)]
            for row in counts:
                row[:] = [DPS_DECAY * count + (1 - DPS_DECAY) for count in row]
            if state is not None:
                for i in range(3):
                    counts[i][state] += xi[i]
            weight = [filtered[i] / sum(counts[i]) for i in range(3)]
            self.filtered[prompt] = filtered
            self.predicted[prompt] = [sum(weight[i] * counts[i][j] for i in range(3)) for j in range(3)]

    def predict(self) -> dict[int, list[float]]:
        """What the last observation left; no work."""
        return self.predicted


class ListSampler(Peer):
    """A task at a time, weighted by the last success rate: every draw walks a list as long as the pool.

    The weights stand in the place of threshold's band. As in the trainers that do this, a batch can hold a prompt
    twice.
    """

    INSIDE, OUTSIDE = 1.0, 0.1

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.rng = random.Random(seed)
        self.prompts = list(range(num_prompts))
        self.success_rate: dict[int, float] = {}

    def weight(self, prompt: int) -> float:
        """Of a prompt in a draw; unseen prompts count as in the band."""
        rate = self.success_rate.get(prompt)
        return self.INSIDE if rate is None or BAND[0] <= rate <= BAND[1] else self.OUTSIDE

    def draw(self) -> int:
        """One prompt."""
        return self.rng.choices(self.prompts, weights=[self.weight(prompt) for prompt in self.prompts])[0]

    def select(self, batch_size: int) -> np.ndarray:
        """Draws as many."""
        return np.array([self.draw() for _ in range(batch_size)])

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Keeps the last success rate."""
        self.success_rate.update(zip(prompt_ids.tolist(), (successes / group_size).tolist(), strict=True))

    def predict(self) -> list[float]:
        """The last success rates, one half where there is none."""
        return [self.success_rate.get(prompt, 0.5) for prompt in self.prompts]
