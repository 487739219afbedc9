"""A pool whose embeddings determine its success rates, and compiled predictors that tests share."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxsel
from jaxsel.predictors.amortized.state import AmortizedState
from tests.support.histories import random_history, rollouts

N, DIM, CONTEXT, GROUP = 96, 4, 24, 8
KEY = jax.random.key(0)
SEEN, UNSEEN = np.arange(0, N, 2), np.arange(1, N, 2)
TWINS = (0, 1)
"""Two prompts with equal embeddings, one in SEEN and one in UNSEEN."""

_rng = np.random.default_rng(0)
EMBEDDINGS = _rng.normal(size=(N, DIM)).astype(np.float32)
EMBEDDINGS[TWINS[1]] = EMBEDDINGS[TWINS[0]]
_score = EMBEDDINGS @ np.array([1.0, -0.5, 0.8, 0.3])
RATE = 0.5 + 0.4 * _score / np.abs(_score).max()

LATENT: dict[str, Any] = {"latent_size": 4, "decay": None}
PLAIN: dict[str, Any] = {"latent_size": 0, "replayed": 0}
PLAIN_OF = {
    "beta_binomial": PLAIN,
    "binomial": {**PLAIN, "likelihood": "binomial", "decay": None},
    "squared_error": {**PLAIN, "likelihood": "squared_error", "decay": None},
}

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""`jax.jit` for functions that run for milliseconds and compile for seconds."""


class Compiled(NamedTuple):
    method: jaxsel.Predictor
    update: Callable[..., AmortizedState]
    predict: Callable[..., jaxsel.Prediction]

    def init(self, key=KEY) -> AmortizedState:
        return self.method.init(key, N)

    def after(self, batches: Iterable[jaxsel.Rollouts], state: AmortizedState | None = None) -> AmortizedState:
        state = self.init() if state is None else state
        for number, batch in enumerate(batches):
            state = self.update(jax.random.fold_in(KEY, number), state, batch)
        return state


def small(embeddings: Any = EMBEDDINGS, **options: Any) -> jaxsel.Predictor:
    size = {"width": 16, "num_heads": 2, "context_size": CONTEXT, "inner_steps": 5, "history": 16, "group_size": GROUP}
    return jaxsel.amortized(embeddings, **{**size, **options})


@functools.cache
def compiled(**options: Any) -> Compiled:
    method = small(**options)
    return Compiled(method, quick_jit(method.update), quick_jit(method.predict))


def padded(prompt_ids, successes, group_size) -> jaxsel.Rollouts:
    """Return a batch of N rows, so that all updates share one compilation."""
    columns = np.zeros((3, N), int)
    columns[0] = -1
    for column, values in zip(columns, (prompt_ids, successes, group_size), strict=True):
        column[: len(prompt_ids)] = values
    return rollouts(*columns)


def history(steps: int, rate: np.ndarray = RATE, *, seed: int = 0) -> list[jaxsel.Rollouts]:
    """Return batches of CONTEXT prompts from SEEN."""
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(SEEN, CONTEXT, replace=False) for _ in range(steps)]
    return [padded(ids, rng.binomial(GROUP, rate[ids]), np.full(CONTEXT, GROUP)) for ids in chosen]


def wild_history(steps: int) -> list[jaxsel.Rollouts]:
    """Return batches with repeated ids, ids outside the pool, and groups without rollouts."""
    columns = random_history(0, num_prompts=N, steps=steps, batch_size=N)
    return [jax.tree.map(lambda column, t=t: column[t], columns) for t in range(steps)]


def randomised(weights: Any, scale: float = 0.5) -> tuple[Any, Any]:
    """Return the module or tree with random weights in place of its own, and these weights as a tree of arrays."""
    rng = np.random.default_rng(1)
    state = nnx.state(weights) if isinstance(weights, nnx.Module) else weights
    state = jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), state)
    if isinstance(weights, nnx.Module):
        return nnx.merge(nnx.graphdef(weights), state), nnx.to_pure_dict(state)
    return state, state
