import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.support import networks_reference as reference
from tests.support.embedded import (
    EMBEDDINGS,
    GROUP,
    KEY,
    LATENT,
    PLAIN,
    TWINS,
    UNSEEN,
    N,
    compiled,
    history,
    padded,
    quick_jit,
    randomised,
    wild_history,
)
from tests.support.reference import own_evidence

pytestmark = pytest.mark.slow

FEATURES = reference.prompt_features(EMBEDDINGS)
IDS = jnp.asarray([7, 0, 95, 40, 41, 8, 3, 7, 22])


@functools.cache
def learnt():
    method = compiled(**LATENT)
    return method, method.after(history(10))


def assert_close(ours, expected, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), ours, expected)


def test_the_belief_of_a_prompt_is_the_beta_posterior_of_its_own_evidence():
    method = compiled(**PLAIN)
    past = wild_history(6)
    state = method.after(past)
    evidence = own_evidence(past, N, 0.5)
    np.testing.assert_allclose((state.successes, state.failures), evidence, rtol=1e-6)
    shapes = reference.beta_shapes(reference.decoded(state.parameters["decoder"], FEATURES)) + evidence
    exact: Any = stats.beta(*shapes)
    count: Any = stats.betabinom(GROUP, *shapes)
    prediction = method.predict(KEY, state, None)
    np.testing.assert_allclose(prediction.success_rate, exact.mean(), rtol=1e-4)
    np.testing.assert_allclose(prediction.variance, exact.var(), rtol=1e-3)
    np.testing.assert_allclose(prediction.unsolved, count.pmf(0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(prediction.solved, count.pmf(GROUP), rtol=1e-3, atol=1e-6)
    draws = np.stack([method.predict(jax.random.key(seed), state, None).draw for seed in range(20)])
    assert stats.kstest(exact.cdf(draws).ravel(), "uniform").statistic < 2 / np.sqrt(draws.size)


def test_without_decay_a_prompt_keeps_no_evidence_of_its_own():
    method, state = learnt()
    batch = padded([TWINS[0], 4], [GROUP, 0], [GROUP, GROUP])
    state = method.update(KEY, state, batch)
    np.testing.assert_array_equal((state.successes, state.failures), 0)
    seen, unseen = np.asarray(method.predict(KEY, state, None).success_rate)[list(TWINS)]
    assert seen == pytest.approx(unseen, rel=1e-6)
    method = compiled(**PLAIN)
    state = method.update(KEY, method.init(), batch)
    seen, unseen = np.asarray(method.predict(KEY, state, None).success_rate)[list(TWINS)]
    assert seen > unseen + 0.2


def test_a_new_predictor_gives_even_odds_to_all():
    method = compiled(**LATENT)
    prediction = method.predict(KEY, method.init(), None)
    np.testing.assert_allclose(prediction.success_rate, 1 / 2, rtol=1e-6)
    np.testing.assert_allclose(prediction.variance, 1 / 12, rtol=1e-5)
    np.testing.assert_allclose((prediction.unsolved, prediction.solved), 1 / (GROUP + 1), rtol=1e-5)


def test_probabilities_sum_to_1_and_variances_are_possible():
    method, state = learnt()
    for weights in (state.parameters, randomised(state.parameters, 3.0)[0]):
        prediction = method.predict(KEY, state._replace(parameters=weights), None)
        np.testing.assert_allclose(prediction.unsolved + prediction.mixed + prediction.solved, 1, atol=1e-6)
        mean = np.asarray(prediction.success_rate)
        assert (np.asarray(prediction) >= 0).all()
        assert (np.asarray(prediction) <= 1).all()
        assert (np.asarray(prediction.variance) <= mean * (1 - mean) + 1e-6).all()


def test_a_prompt_is_predicted_alike_alone_and_in_the_pool():
    method, state = learnt()
    whole = jax.tree.map(lambda field: field[IDS], method.predict(KEY, state, None))
    assert_close(method.predict(KEY, state, IDS), whole)
    assert_close(method.predict(KEY, state, IDS - 3, 3), whole)
    assert {field.shape for field in jax.eval_shape(method.method.predict, KEY, state, IDS[:0])} == {(0,)}


@pytest.mark.parametrize(("block_size", "ids"), [(7, None), (8, None), (7, IDS)], ids=["uneven", "even", "ids"])
def test_blocks_do_not_change_predictions(block_size, ids):
    method, state = learnt()
    in_blocks = compiled(**LATENT, block_size=block_size)
    assert_close(in_blocks.predict(KEY, state, ids), method.predict(KEY, state, ids))


def test_the_key_determines_the_prediction():
    method, state = learnt()
    one, same, other = (method.predict(jax.random.key(seed), state, None) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (one.draw != other.draw).mean() > 0.9
    assert np.abs(one.success_rate - other.success_rate).max() > 0


def test_only_the_last_batch_conditions_the_latent():
    method, state = learnt()
    other = method.after(history(7, seed=3))
    last = history(1, seed=4)[0]
    one, two = (
        method.predict(KEY, method.update(KEY, past, last)._replace(parameters=state.parameters), None)
        for past in (state, other)
    )
    assert_close(one, two)
    third = method.update(KEY, state, history(1, 0 * FEATURES[:, 0], seed=5)[0])._replace(parameters=state.parameters)
    assert np.abs(method.predict(KEY, third, None).success_rate - one.success_rate).max() > 1e-3


def test_variance_and_mean_match_the_draws():
    method = compiled(**LATENT, num_draws=64)
    state = method.init()._replace(parameters=randomised(learnt()[1].parameters)[0])
    ids, trials = jnp.asarray(UNSEEN[:8]), 4000

    @quick_jit
    def predictions(keys):
        return jax.lax.map(lambda key: method.method.predict(key, state, ids), keys, batch_size=200)

    ours = jax.tree.map(np.asarray, predictions(jax.random.split(KEY, trials)))
    between = 64 * ours.success_rate.var(0)
    assert (between > 0.2 * ours.variance.mean(0)).any()
    assert (between < 0.8 * ours.variance.mean(0)).any()
    variance = ours.draw.var(0)
    assert (np.abs(ours.draw.mean(0) - ours.success_rate.mean(0)) < 5 * np.sqrt(variance / trials)).all()
    np.testing.assert_allclose(ours.variance.mean(0), variance, rtol=0.1)


@pytest.mark.parametrize("likelihood", ["binomial", "squared_error"])
def test_all_prompts_are_drawn_with_one_latent(likelihood):
    method = compiled(latent_size=1, likelihood=likelihood, decay=None, history_conditioned=False, num_draws=3)
    weights = randomised(method.init().parameters)[0]
    state = method.init()._replace(parameters=weights)
    latents = np.linspace(-5, 5, 10_001)
    some = np.arange(12)
    decoded = np.stack([reference.decoded(weights["decoder"], FEATURES[some], [z]) for z in latents])
    rates = reference.success_rate(decoded)
    found = []
    for seed in range(100):
        draw = np.asarray(method.predict(jax.random.key(seed), state, None).draw)
        distance = np.abs(rates - draw[some]).max(1)
        assert distance.min() < 2e-3
        found.append(latents[distance.argmin()])
    assert stats.kstest(found, "norm").pvalue > 1e-3
