"""Python loops over prompts, as in the released code of MoPPS and DPS and in the task samplers of trainers."""

import heapq
import random

import numpy as np

from experiments.benchmarks.peers.common import BAND, DPS_DECAY, MOPPS_DECAY, Peer, solve_state


class DictionaryMopps(Peer):
    """MoPPS with a dictionary of posteriors and a Python loop over the pool."""

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.rng = random.Random(seed)
        self.posterior = dict.fromkeys(range(num_prompts), (1.0, 1.0))

    def select(self, batch_size: int) -> np.ndarray:
        """Choose the prompts whose draws are nearest to one half."""
        distance = {
            prompt: abs(self.rng.betavariate(alpha, beta) - 0.5) for prompt, (alpha, beta) in self.posterior.items()
        }
        return np.array(heapq.nsmallest(batch_size, distance, key=distance.__getitem__))

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Discount the counts of the batch's prompts, and add the new successes and failures."""
        d = MOPPS_DECAY
        for prompt, s in zip(prompt_ids.tolist(), successes.tolist(), strict=True):
            alpha, beta = self.posterior[prompt]
            self.posterior[prompt] = (d * alpha + (1 - d) + s, d * beta + (1 - d) + group_size - s)

    def predict(self) -> list[float]:
        """Return posterior means."""
        return [alpha / (alpha + beta) for alpha, beta in self.posterior.values()]


class DictionaryDps(Peer):
    """DPS with a dictionary of beliefs and transition counts, and a Python loop over the pool."""

    fused = True

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.counts = {prompt: [[1.0] * 3 for _ in range(3)] for prompt in range(num_prompts)}
        self.filtered = {prompt: [1 / 3] * 3 for prompt in range(num_prompts)}
        self.predicted = {prompt: [1 / 3] * 3 for prompt in range(num_prompts)}

    def select(self, batch_size: int) -> np.ndarray:
        """Choose the prompts with the largest predicted P(mixed)."""
        return np.array(heapq.nlargest(batch_size, self.predicted, key=lambda prompt: self.predicted[prompt][1]))

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Advance every prompt by one step, and predict its next group."""
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
        """Return the prediction that `observe` has already computed."""
        return self.predicted


class ListSampler(Peer):
    """One weighted draw per prompt of the batch, each over a list as long as the pool.

    The method threshold admits only prompts whose rate lies in a band. Here, prompts outside of the band only have a
    smaller weight. As in the trainers that do this, a batch can contain a prompt twice.
    """

    INSIDE, OUTSIDE = 1.0, 0.1

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.rng = random.Random(seed)
        self.prompts = list(range(num_prompts))
        self.success_rate: dict[int, float] = {}

    def weight(self, prompt: int) -> float:
        """Return a prompt's weight in a draw; unseen prompts count as prompts in the band."""
        rate = self.success_rate.get(prompt)
        return self.INSIDE if rate is None or BAND[0] <= rate <= BAND[1] else self.OUTSIDE

    def draw(self) -> int:
        """Draw one prompt."""
        return self.rng.choices(self.prompts, weights=[self.weight(prompt) for prompt in self.prompts])[0]

    def select(self, batch_size: int) -> np.ndarray:
        """Draw `batch_size` prompts, one after the other."""
        return np.array([self.draw() for _ in range(batch_size)])

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Keep the last success rate of every prompt in the batch."""
        self.success_rate.update(zip(prompt_ids.tolist(), (successes / group_size).tolist(), strict=True))

    def predict(self) -> list[float]:
        """Return the last success rates, one half for unseen prompts."""
        return [self.success_rate.get(prompt, 0.5) for prompt in self.prompts]
