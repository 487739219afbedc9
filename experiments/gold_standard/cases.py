"""Histories with known success rates: data of the state-space model itself, and data of a simulated learner.

A history holds the batches of a run, with the number of successes of every prompt in them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from jaxsel import simulate


@dataclass(frozen=True)
class Config:
    """The settings of the experiment, without the seeds.

    Attributes:
        num_prompts: Size of the pool.
        never_visited: Number of prompts that are never drawn.
        steps: Number of steps in the history.
        batch_size: Prompts per step.
        group_size: Rollouts per prompt.
        mean: Mean of the logits of the success rates at step 0.
        spread: Standard deviation of the part of the logits at step 0 that embeddings do not explain.
        told: Standard deviation of the part of the logits at step 0 that embeddings explain.
        drift: Mean change of every logit per step.
        volatility: Standard deviation of that change per step.
        num_warmup: Warm-up transitions of each chain.
        num_samples: Draws of each chain.
        num_chains: Number of chains.
    """

    num_prompts: int = 300
    never_visited: int = 60
    steps: int = 16
    batch_size: int = 60
    group_size: int = 8
    mean: float = -0.5
    spread: float = 1.2
    told: float = 0.9
    drift: float = 0.03
    volatility: float = 0.3
    num_warmup: int = 300
    num_samples: int = 750
    num_chains: int = 2


class Case(NamedTuple):
    """A history, the embeddings of the pool, and the true success rates at the end of the history."""

    history: jaxsel.History
    embeddings: np.ndarray
    truth: np.ndarray


def drawn_ids(config: Config, rng: np.random.Generator) -> np.ndarray:
    """Draw random batches, without the last `never_visited` prompts."""
    visited = config.num_prompts - config.never_visited
    return np.stack([rng.choice(visited, config.batch_size, replace=False) for _ in range(config.steps)])


def recorded(config: Config, ids: np.ndarray, successes: np.ndarray) -> jaxsel.History:
    """Return batches `[steps, batch]` as a history."""
    step = np.repeat(np.arange(config.steps), config.batch_size)
    return jaxsel.make_history(step, ids.ravel(), successes.ravel(), config.group_size, num_prompts=config.num_prompts)


def state_space_case(config: Config, seed: int) -> Case:
    """Return a case drawn from the state-space model: every logit is a random walk."""
    rng = np.random.default_rng([seed, 0])
    embeddings = rng.normal(size=(config.num_prompts, 8))
    direction = rng.normal(size=8)
    told = config.told * embeddings @ (direction / np.linalg.norm(direction))
    start = config.mean + told + config.spread * rng.normal(size=config.num_prompts)
    moves = config.drift + config.volatility * rng.normal(size=(config.steps, config.num_prompts))
    rates = 1 / (1 + np.exp(-np.cumsum([start, *moves], axis=0)))
    ids = drawn_ids(config, rng)
    successes = rng.binomial(config.group_size, np.take_along_axis(rates[:-1], ids, axis=1))
    return Case(recorded(config, ids, successes), embeddings.astype(np.float32), rates[-1].astype(np.float32))


def learner_case(config: Config, seed: int) -> Case:
    """Return a case of a simulated learner with 16 skills, which trains on the drawn batches."""
    pool_key, embedding_key, steps_key = jax.random.split(jax.random.key(seed), 3)
    pool = simulate.make_learner(
        pool_key, config.num_prompts, num_skills=16, difficulty_mean=0.5, difficulty_spread=1.5
    )
    state, ids, successes = simulate.initial_state(pool), drawn_ids(config, np.random.default_rng([seed, 1])), []
    rollout, train = jax.jit(simulate.rollout, static_argnums=4), jax.jit(simulate.train)
    for t, batch in enumerate(ids):
        key = jax.random.fold_in(steps_key, t)
        rollouts = rollout(key, pool, state, jnp.asarray(batch, jnp.int32), config.group_size)
        successes.append(np.asarray(rollouts.successes))
        state = train(pool, state, rollouts)
    embeddings = np.asarray(simulate.embed(embedding_key, pool, num_features=8))
    return Case(recorded(config, ids, np.stack(successes)), embeddings, np.asarray(simulate.success_rate(pool, state)))
