"""The same methods without jaxsel, to be measured beside it.

Each has `select(batch_size) -> prompt_ids` and `observe(prompt_ids, successes, group_size)`, for distinct prompts
and at least one rollout, and does nothing else: no checks, no random tie-break, no counters.
"""

# ruff: noqa: D102 (said above, once for all)

import heapq
import random

import jax
import jax.numpy as jnp
import numpy as np

GROUP_SIZE = 8
MOPPS_DECAY, DPS_DECAY = 0.5, 0.7


def _argmax_many(scores: np.ndarray, batch_size: int) -> np.ndarray:
    return np.argpartition(scores, len(scores) - batch_size)[-batch_size:]


def _solve_state(successes: np.ndarray, group_size: int) -> np.ndarray:
    return np.where(successes == 0, 0, np.where(successes == group_size, 2, 1))


class NumpyUniform:
    """`Generator.choice` without replacement, which does not look at the pool."""

    def __init__(self, num_prompts: int, seed: int):
        self.num_prompts, self.rng = num_prompts, np.random.default_rng(seed)

    def select(self, batch_size: int) -> np.ndarray:
        return self.rng.choice(self.num_prompts, batch_size, replace=False, shuffle=False)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        pass


class NumpyMopps:
    """`Generator.beta` of the whole pool and an argpartition."""

    def __init__(self, num_prompts: int, seed: int):
        self.rng = np.random.default_rng(seed)
        self.alpha = np.ones(num_prompts, np.float32)
        self.beta = np.ones(num_prompts, np.float32)

    def draw(self) -> np.ndarray:
        return self.rng.beta(self.alpha, self.beta)

    def select(self, batch_size: int) -> np.ndarray:
        return _argmax_many(-np.abs(self.draw() - 0.5), batch_size)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        d, ids = MOPPS_DECAY, prompt_ids
        self.alpha[ids] = d * self.alpha[ids] + (1 - d) + successes
        self.beta[ids] = d * self.beta[ids] + (1 - d) + group_size - successes


class NumpyThreshold(NumpyMopps):
    """Random ones of those whose draw lies in the band."""

    def select(self, batch_size: int) -> np.ndarray:
        draw = self.draw()
        inside = np.flatnonzero((draw >= 0.3) & (draw <= 0.7))
        if len(inside) >= batch_size:
            return self.rng.choice(inside, batch_size, replace=False, shuffle=False)
        return _argmax_many(-np.abs(draw - 0.5), batch_size)


class NumpyDps:
    """The recursion on whole arrays, float32, prompts on the fastest axis, in place where it can be."""

    def __init__(self, num_prompts: int, seed: int):
        del seed
        self.counts = np.ones((3, 3, num_prompts), np.float32)
        self.filtered = np.full((3, num_prompts), 1 / 3, np.float32)
        self.predicted = self.filtered.copy()
        self.weight = np.empty_like(self.filtered)

    def select(self, batch_size: int) -> np.ndarray:
        return _argmax_many(self.predicted[1], batch_size)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        state = _solve_state(successes, group_size)
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


class DictionaryMopps:
    """A dictionary of posteriors and a Python loop over the pool."""

    def __init__(self, num_prompts: int, seed: int):
        self.rng = random.Random(seed)
        self.posterior = dict.fromkeys(range(num_prompts), (1.0, 1.0))

    def select(self, batch_size: int) -> np.ndarray:
        distance = {
            prompt: abs(self.rng.betavariate(alpha, beta) - 0.5) for prompt, (alpha, beta) in self.posterior.items()
        }
        return np.array(heapq.nsmallest(batch_size, distance, key=distance.__getitem__))

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        d = MOPPS_DECAY
        for prompt, s in zip(prompt_ids.tolist(), successes.tolist(), strict=True):
            alpha, beta = self.posterior[prompt]
            self.posterior[prompt] = (d * alpha + (1 - d) + s, d * beta + (1 - d) + group_size - s)


class DictionaryDps:
    """A dictionary of beliefs and transition counts, and a Python loop over the pool."""

    def __init__(self, num_prompts: int, seed: int):
        del seed
        self.counts = {prompt: [[1.0] * 3 for _ in range(3)] for prompt in range(num_prompts)}
        self.filtered = {prompt: [1 / 3] * 3 for prompt in range(num_prompts)}
        self.predicted = {prompt: [1 / 3] * 3 for prompt in range(num_prompts)}

    def select(self, batch_size: int) -> np.ndarray:
        return np.array(heapq.nlargest(batch_size, self.predicted, key=lambda prompt: self.predicted[prompt][1]))

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        states = _solve_state(successes, group_size).tolist()
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


class JaxBetaMopps:
    """`jax.random.beta` and `jax.lax.top_k`, compiled, the state donated."""

    def __init__(self, num_prompts: int, seed: int):
        self.key = jax.random.key(seed)
        self.alpha = jnp.ones(num_prompts)
        self.beta = jnp.ones(num_prompts)
        self._select = jax.jit(_jax_select, static_argnums=3)
        self._observe = jax.jit(_jax_observe, donate_argnums=(0, 1))

    def select(self, batch_size: int) -> np.ndarray:
        self.key, key = jax.random.split(self.key)
        return np.asarray(self._select(key, self.alpha, self.beta, batch_size))

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        self.alpha, self.beta = jax.block_until_ready(
            self._observe(self.alpha, self.beta, prompt_ids, successes, group_size)
        )


def _jax_select(key, alpha, beta, batch_size):
    return jax.lax.top_k(-jnp.abs(jax.random.beta(key, alpha, beta) - 0.5), batch_size)[1]


def _jax_observe(alpha, beta, ids, successes, group_size):
    d = MOPPS_DECAY
    return (
        alpha.at[ids].set(d * alpha[ids] + (1 - d) + successes),
        beta.at[ids].set(d * beta[ids] + (1 - d) + group_size - successes),
    )
