"""The level of the state-space model, which all prompts share, over many visits of the same prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import Rollouts

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize("location", [-2.0, 2.0])
def test_the_level_stays_where_it_is_while_success_rates_stand_still(location):
    """A third of the pool is visited once or never; the predictions of these prompts have nothing but the level."""
    size, again, once = 300, 200, 250
    logit = location + 2 * np.random.default_rng(0).normal(size=size).astype(np.float32)
    rate = jax.nn.sigmoid(jnp.asarray(logit))
    predictor = jaxsel.state_space()

    def visit(state, key, ids):
        successes = jax.random.binomial(key, 8, rate[ids]).astype(jnp.int32)
        return predictor.update(key, state, Rollouts(ids, successes, jnp.full(len(ids), 8, jnp.int32)))

    def step(state, key):
        return visit(state, key, jax.random.permutation(key, again)[:20]), None

    run = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0])
    start = predictor.init(KEY, size)
    for ids in np.arange(once).reshape(-1, 25):
        start = visit(start, jax.random.key(ids[0]), jnp.asarray(ids, jnp.int32))
    state = run(start, jax.random.split(KEY, 2000))  # 200 epochs
    assert abs(float(state.weights.drift[-1])) < 0.6  # 1.1 and -1.7 without an anchor
    before, after = (np.asarray(predictor.predict(KEY, each, None).success_rate) for each in (start, state))
    for rows in (slice(again, once), slice(once, None)):
        assert after[rows].mean() == pytest.approx(before[rows].mean(), abs=0.05)


def test_the_level_follows_visited_prompts_to_those_without_a_visit():
    predictor = jaxsel.state_space()

    def step(state, t):
        key = jax.random.fold_in(KEY, t)
        ids = jax.random.permutation(key, 40)[:10]
        successes = jax.random.binomial(key, 8, jax.nn.sigmoid(-2 + 4 * jnp.minimum(t / 200, 1)), (10,))
        return predictor.update(
            key, state, Rollouts(ids, successes.astype(jnp.int32), jnp.full(10, 8, jnp.int32))
        ), None

    run = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(400))[0])
    rates = np.asarray(predictor.predict(KEY, run(predictor.init(KEY, 50)), jnp.arange(50)).success_rate)
    assert rates[:40].mean() == pytest.approx(0.88, abs=0.05)
    assert rates[40:].mean() == pytest.approx(0.88, abs=0.15)
