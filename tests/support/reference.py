"""Reference implementations of jaxsel's parts in float64 NumPy: slow and plain, one prompt and one step at a time."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

UNSOLVED, MIXED, SOLVED = 0, 1, 2


def merged(prompt_ids, successes, group_size, num_prompts: int) -> dict[int, tuple[int, int]]:
    """Return {row: (s, n)} of the visited prompts. Repeated ids are summed; n = 0 and ids outside the pool are
    dropped."""
    visits: dict[int, tuple[int, int]] = {}
    for row, s, n in zip(prompt_ids, successes, group_size, strict=True):
        if n > 0 and 0 <= row < num_prompts:
            old_s, old_n = visits.get(int(row), (0, 0))
            visits[int(row)] = (old_s + int(s), old_n + int(n))
    return visits


class MoppsModel:
    """MoPPS (arXiv 2507.04632): alpha and beta of every prompt, in a dictionary."""

    def __init__(
        self,
        num_prompts: int,
        *,
        prior_alpha: ArrayLike = 1.0,
        prior_beta: ArrayLike = 1.0,
        decay: float = 0.5,
        ageing: str = "visit",
    ):
        self.decay, self.ageing, self.num_prompts = decay, ageing, num_prompts
        self.prior = np.stack([np.broadcast_to(p, num_prompts) for p in (prior_alpha, prior_beta)], 1)
        self.parameters = {row: self.prior[row].astype(float) for row in range(num_prompts)}

    def observe(self, prompt_ids, successes, group_size) -> None:
        visits = merged(prompt_ids, successes, group_size, self.num_prompts)
        for row in self.parameters if self.ageing == "step" else visits:
            aged = self.decay * self.parameters[row] + (1 - self.decay) * self.prior[row]
            s, n = visits.get(row, (0, 0))
            self.parameters[row] = aged + np.array([s, n - s])

    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        alpha, beta = np.array([self.parameters[row] for row in range(self.num_prompts)]).T
        return alpha, beta

    def success_rate(self) -> np.ndarray:
        alpha, beta = self.posterior()
        return alpha / (alpha + beta)


class DpsModel:
    """DPS (arXiv 2603.10887): belief and transition counts of every prompt, updated in a loop."""

    def __init__(
        self,
        num_prompts: int,
        *,
        decay: float = 0.7,
        prior_counts: ArrayLike | None = None,
        initial_belief: ArrayLike | None = None,
    ):
        self.decay, self.num_prompts = decay, num_prompts
        self.prior = np.ones((3, 3)) if prior_counts is None else np.asarray(prior_counts, float)
        belief = np.ones(3) / 3 if initial_belief is None else np.asarray(initial_belief, float)
        self.filtered = [belief.copy() for _ in range(num_prompts)]
        self.ahead = [belief.copy() for _ in range(num_prompts)]
        self.counts = [self.prior.copy() for _ in range(num_prompts)]

    def observe(self, prompt_ids, successes, group_size) -> None:
        visits = merged(prompt_ids, successes, group_size, self.num_prompts)
        for row in range(self.num_prompts):
            before, transition = self.filtered[row], _row_normalised(self.counts[row])
            xi = np.zeros((3, 3))
            after = self.ahead[row]
            if row in visits:
                after = np.eye(3)[solve_state(*visits[row])]
                xi = before[:, None] * transition * after[None, :]
                xi = xi / xi.sum() if xi.sum() > 0 else np.zeros((3, 3))
            self.filtered[row] = after
            self.counts[row] = self.decay * self.counts[row] + (1 - self.decay) * self.prior + xi
            self.ahead[row] = after @ _row_normalised(self.counts[row])

    def predicted(self) -> np.ndarray:
        """Return the predicted beliefs, [3, N]."""
        return np.array(self.ahead).T

    def success_rate(self) -> np.ndarray:
        _, mixed, solved = self.predicted()
        return solved + mixed / 2


def _row_normalised(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum(1, keepdims=True)


def solve_state(successes: int, group_size: int) -> int:
    if successes == 0:
        return UNSOLVED
    return SOLVED if successes == group_size else MIXED


def filtered_by_enumeration(
    initial: np.ndarray, transition: np.ndarray, observations: Sequence[int | None]
) -> np.ndarray:
    """Return the belief about the last state, by a sum over all paths of states; without observations, `initial`."""
    if not observations:
        return initial
    posterior = np.zeros(3)
    for path in itertools.product(range(3), repeat=len(observations)):
        if all(seen is None or seen == state for seen, state in zip(observations, path, strict=True)):
            steps = [transition[i, j] for i, j in itertools.pairwise(path)]
            posterior[path[-1]] += initial[path[0]] * np.prod(steps)
    return posterior / posterior.sum()


def filtered_with_known_transitions(
    initial: np.ndarray, transition: np.ndarray, history: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted and the filtered beliefs, [T, 3, m], for m prompts' states [T, m], where -1 is no visit."""
    belief = np.tile(initial[:, None], history.shape[1])
    predicted, filtered = [], []
    for seen in history:
        predicted.append(belief)
        belief = np.where(seen >= 0, np.eye(3)[:, seen], belief)
        filtered.append(belief)
        belief = transition.T @ belief
    return np.stack(predicted), np.stack(filtered)


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the k largest scores, best first."""
    return np.argsort(-scores, kind="stable")[:k]


def inclusion_probabilities(weights: np.ndarray, k: int) -> np.ndarray:
    """Return P(i is among k draws without replacement in proportion to the weights), over all ordered draws."""
    included = np.zeros(len(weights))
    for draws in itertools.permutations(range(len(weights)), k):
        left, probability = weights.sum(), 1.0
        for i in draws:
            probability *= weights[i] / left
            left -= weights[i]
        included[list(draws)] += probability
    return included


def assert_frequency(count: ArrayLike, trials: int, probability: ArrayLike) -> None:
    """Check that binomial counts lie within five standard deviations of their mean."""
    probability = np.asarray(probability)
    deviation = np.abs(np.asarray(count) - trials * probability)
    bound = 5 * np.sqrt(trials * probability * (1 - probability)) + 1e-9
    assert (deviation <= bound).all(), (count, trials * probability, bound)


def own_evidence(batches, num_prompts: int, decay: float) -> np.ndarray:
    """Return discounted successes and failures, [2, N]: S <- d * S + s and F <- d * F + n - s at each visit."""
    evidence = np.zeros((2, num_prompts))
    for batch in batches:
        visits = merged(batch.prompt_ids, batch.successes, batch.group_size, num_prompts)
        for row, (s, n) in visits.items():
            evidence[:, row] = decay * evidence[:, row] + (s, n - s)
    return evidence


def diversified(
    scores: np.ndarray,
    embeddings: np.ndarray,
    batch_size: int,
    *,
    weight: float,
    latest: np.ndarray | Sequence[np.ndarray] = (),
    shortlist: int | None = None,
) -> tuple[list[int], float]:
    """Return the greedy batch in the order of choice, and the smallest lead of a chosen prompt over the next best.

    `latest` contains the embeddings of the prompts in the last batches, and may be empty.
    """
    ranked = largest(scores, len(scores))
    left = ranked[: shortlist * batch_size if shortlist else None].tolist()
    leads = [scores[left[-1]] - scores[ranked[len(left)]]] if len(left) < len(ranked) else []
    chosen: list[int] = []
    while len(chosen) < batch_size:
        values = []
        for i in left:
            apart = sum(cosine_distance(embeddings[i], embeddings[j]) for j in chosen) / max(batch_size - 1, 1)
            ago = sum(cosine_distance(embeddings[i], other) for other in latest) / max(len(latest), 1)
            values.append(scores[i] + weight * (apart + ago))
        order = largest(np.array(values), len(values))
        leads += [values[order[0]] - values[order[1]]] if len(values) > 1 else []
        chosen.append(left.pop(order[0]))
    return chosen, float(min(leads, default=np.inf))


def cosine_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine distance, which is 1 for a zero vector."""
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(1 - first @ second / lengths) if lengths > 0 else 1.0
