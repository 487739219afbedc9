"""Rollouts for tests: random batches, and a hypothesis strategy."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jaxsel import Rollouts


def rollouts(prompt_ids, successes, group_size) -> Rollouts:
    return Rollouts(*(jnp.asarray(column, jnp.int32) for column in (prompt_ids, successes, group_size)))


def random_history(seed: int, *, num_prompts: int, steps: int, batch_size: int) -> Rollouts:
    """Return batches `[steps, batch_size]` with repeated ids, ids outside the pool, and groups without rollouts."""
    rng = np.random.default_rng(seed)
    shape = (steps, batch_size)
    prompt_ids = rng.integers(-1, num_prompts + 1, shape)
    group_size = rng.choice([0, 1, 2, 8], shape)
    rate = rng.choice([0.0, 0.3, 0.7, 1.0], shape)
    return rollouts(prompt_ids, rng.binomial(group_size, rate), group_size)


@st.composite
def batches(draw: st.DrawFn, *, num_prompts: int, batch_size: int) -> Rollouts:
    """Draw one step's rollouts, including repeated ids, ids outside the pool and groups without rollouts."""
    rows = st.integers(-1, num_prompts)
    prompt_ids = draw(st.lists(rows, min_size=batch_size, max_size=batch_size))
    group_size = draw(st.lists(st.integers(0, 8), min_size=batch_size, max_size=batch_size))
    return rollouts(prompt_ids, [draw(st.integers(0, n)) for n in group_size], group_size)
