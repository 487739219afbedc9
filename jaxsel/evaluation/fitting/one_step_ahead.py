"""The one-step-ahead log score of a predictor: each group of rollouts is predicted before it is observed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsel.base import Prediction, Predictor, Rollouts
from jaxsel.evaluation.metrics import solve_states
from jaxsel.evaluation.replay import History
from jaxsel.numerics import beta_binomial

Score = Callable[[Prediction, Rollouts], Float[Array, " b"]]


def _score_of_counts(prediction: Prediction, rollouts: Rollouts) -> Float[Array, " b"]:
    rate = prediction.success_rate
    spread = beta_binomial.spread_of(rate, prediction.variance)
    return beta_binomial.log_prob(rollouts.successes, rollouts.group_size, rate, spread)


def _score_of_states(prediction: Prediction, rollouts: Rollouts) -> Float[Array, " b"]:
    states = jnp.stack([prediction.unsolved, prediction.mixed, prediction.solved])
    return solve_states.log_prob(states, rollouts.successes, rollouts.group_size)


SCORES: dict[str, Score] = {"counts": _score_of_counts, "states": _score_of_states}
"""Log probabilities of the success counts, or of the solve states: unsolved, mixed (some rollouts correct), solved."""


def batches_of(history: History) -> tuple[Int[np.ndarray, " v"], Rollouts]:
    """Return the v visited prompts and the batches `[T, b]`, whose ids are positions among the visited prompts.

    Shorter batches are padded with the id v.
    """
    visited, ids = np.unique(history.prompt_ids, return_inverse=True)
    place = np.arange(len(ids)) - np.searchsorted(history.step, history.step)
    shape = (history.num_steps, int(place.max()) + 1)
    padded = (np.full(shape, len(visited), np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    for field, column in zip(padded, (ids, history.successes, history.group_size), strict=True):
        field[history.step, place] = column
    return visited, Rollouts(*map(jnp.asarray, padded))


def row_scores(predictor: Predictor, score: Score, batches: Rollouts, num_prompts: int) -> Float[Array, "T b"]:
    """Return the log score of every group of rollouts, predicted before its observation, and 0 for padding."""
    key = jax.random.key(0)  # only the random fields of a prediction depend on it, and no score reads them

    def step(state: Any, batch: Rollouts) -> tuple[Any, Float[Array, " b"]]:
        there = batch.group_size > 0
        prediction = predictor.predict(key, state, jnp.where(there, batch.prompt_ids, 0))
        # padding is scored as a possible outcome, so that the gradient stays finite
        filled = batch._replace(group_size=jnp.where(there, batch.group_size, 1))
        return predictor.update(key, state, batch), jnp.where(there, score(prediction, filled), 0)

    return jax.lax.scan(step, predictor.init(key, num_prompts), batches)[1]
