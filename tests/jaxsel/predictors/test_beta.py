import functools
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

import jaxsel
from jaxsel.predictors import beta
from tests.support.histories import batches, random_history, rollouts
from tests.support.reference import MoppsModel

N, BATCH = 7, 6
DECAYS = (0.0, 0.3, 0.5, 0.7, 0.95, 1.0)
KEY = jax.random.key(0)
VECTOR_PRIOR = jaxsel.informative_prior([0, 1, 8, 4, 2, 8, 0], 8)


@functools.cache
def predictor(decay: float, ageing: str = "visit", vector_prior: bool = False) -> jaxsel.Predictor:
    alpha, beta = VECTOR_PRIOR if vector_prior else (1.0, 1.0)
    return jaxsel.beta_bernoulli(decay=decay, ageing=ageing, prior_alpha=alpha, prior_beta=beta)


@functools.cache
def compiled_update(decay: float, ageing: str = "visit"):
    return jax.jit(predictor(decay, ageing).update)


def parameters(state: beta.BetaState, decay: float, ageing: str) -> tuple[np.ndarray, np.ndarray]:
    alpha, beta_ = beta.posterior(state, decay if ageing == "step" else 1.0, None)
    return np.asarray(alpha), np.asarray(beta_)


@pytest.mark.parametrize("vector_prior", [False, True])
@pytest.mark.parametrize("ageing", ["visit", "step"])
@pytest.mark.parametrize("decay", DECAYS)
def test_posterior_follows_the_equations(decay, ageing, vector_prior):
    history = random_history(1, num_prompts=N, steps=80, batch_size=BATCH)
    alpha, beta_ = VECTOR_PRIOR if vector_prior else (1.0, 1.0)
    model = MoppsModel(N, prior_alpha=alpha, prior_beta=beta_, decay=decay, ageing=ageing)
    state = predictor(decay, ageing, vector_prior).init(KEY, N)

    def step(state, rollouts):
        state = compiled_update(decay, ageing)(KEY, state, rollouts)
        return state, beta.posterior(state, decay if ageing == "step" else 1.0, None)

    _, posteriors = jax.lax.scan(step, state, history)
    for t in range(80):
        model.observe(*(np.asarray(column[t]) for column in history))
        for ours, exact in zip(posteriors, model.posterior(), strict=True):
            np.testing.assert_allclose(ours[t], exact, rtol=1e-5)


@pytest.mark.parametrize("ageing", ["visit", "step"])
def test_repeated_ids_are_one_visit_with_summed_counts(ageing):
    state = compiled_update(0.5, ageing)(KEY, predictor(0.5).init(KEY, N), rollouts([2, 2], [1, 3], [4, 4]))
    for repeated, summed in [
        (rollouts([2, 5, 2, 5], [1, 0, 3, 2], [4, 2, 8, 2]), rollouts([2, 5], [4, 2], [12, 4])),
        (rollouts([2, 2, 2, 5], [0, 4, 0, 2], [8, 4, 0, 4]), rollouts([5, 2], [2, 4], [4, 12])),
    ]:
        jax.tree.map(
            np.testing.assert_array_equal,
            compiled_update(0.5, ageing)(KEY, state, repeated),
            compiled_update(0.5, ageing)(KEY, state, summed),
        )


@pytest.mark.parametrize("nothing", [([0, 1], [0, 0], [0, 0]), ([-1, N], [3, 2], [8, 8]), ([], [], [])])
def test_a_batch_without_visits_changes_nothing(nothing):
    state = compiled_update(0.5)(KEY, predictor(0.5).init(KEY, N), rollouts([0, 3], [1, 3], [4, 4]))
    after = compiled_update(0.5)(KEY, state, rollouts(*nothing))
    for before, now in zip(parameters(state, 0.5, "visit"), parameters(after, 0.5, "visit"), strict=True):
        np.testing.assert_array_equal(before, now)


def test_ageing_by_step_goes_on_without_observations():
    state = compiled_update(0.5, "step")(KEY, predictor(0.5, "step").init(KEY, N), rollouts([1], [6], [8]))
    for _ in range(2):
        state = compiled_update(0.5, "step")(KEY, state, rollouts([], [], []))
    alpha, beta_ = parameters(state, 0.5, "step")
    assert (alpha[1], beta_[1]) == (1 + 6 / 4, 1 + 2 / 4)


@hypothesis.given(batches(num_prompts=N, batch_size=BATCH), batches(num_prompts=N, batch_size=BATCH))
def test_decay_1_is_the_batch_posterior(first, second):
    state = predictor(1.0).init(KEY, N)
    for batch in (first, second):
        state = compiled_update(1.0)(KEY, state, batch)
    model = MoppsModel(N, decay=1.0)
    model.observe(*(np.concatenate(columns) for columns in zip(first, second, strict=True)))
    for ours, exact in zip(parameters(state, 1.0, "visit"), model.posterior(), strict=True):
        np.testing.assert_array_equal(ours, exact)


@pytest.mark.parametrize("ageing", ["visit", "step"])
@hypothesis.given(batch=batches(num_prompts=N, batch_size=BATCH), order=st.permutations(range(N)))
def test_permuting_the_pool_commutes_with_update(ageing, batch, order):
    history = random_history(2, num_prompts=N, steps=1, batch_size=BATCH)
    state = compiled_update(0.7, ageing)(
        KEY, predictor(0.7, ageing).init(KEY, N), jax.tree.map(lambda column: column[0], history)
    )
    order = np.array(order)
    new_row = np.argsort(order)  # row i of the pool is row new_row[i] of the permuted pool
    known = (batch.prompt_ids >= 0) & (batch.prompt_ids < N)
    moved = batch._replace(
        prompt_ids=jnp.where(known, jnp.asarray(new_row, jnp.int32)[batch.prompt_ids], batch.prompt_ids)
    )

    def permuted(state):
        return jax.tree.map(lambda leaf: leaf[order] if leaf.ndim else leaf, state)

    jax.tree.map(
        np.testing.assert_array_equal,
        compiled_update(0.7, ageing)(KEY, permuted(state), moved),
        permuted(compiled_update(0.7, ageing)(KEY, state, batch)),
    )


@hypothesis.given(batches(num_prompts=N, batch_size=BATCH))
def test_untouched_rows_stay_as_they_are(batch):
    state = compiled_update(0.3)(KEY, predictor(0.3).init(KEY, N), rollouts([0, 3, 6], [1, 3, 0], [4, 4, 8]))
    untouched = np.setdiff1d(np.arange(N), np.asarray(batch.prompt_ids)[np.asarray(batch.group_size) > 0])
    after = compiled_update(0.3)(KEY, state, batch)
    for before, now in zip(parameters(state, 0.3, "visit"), parameters(after, 0.3, "visit"), strict=True):
        np.testing.assert_array_equal(before[untouched], now[untouched])


@pytest.mark.parametrize("ageing", ["visit", "step"])
def test_eager_equals_jit(ageing):
    method = predictor(0.7, ageing)
    state, batch = method.init(KEY, N), rollouts([0, 3, 3, N], [1, 3, 0, 1], [4, 4, 8, 1])
    eager, jitted = method.update(KEY, state, batch), compiled_update(0.7, ageing)(KEY, state, batch)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), eager, jitted)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        method.predict(KEY, eager, None),
        jax.jit(method.predict)(KEY, jitted, None),
    )


@pytest.mark.parametrize("ageing", ["visit", "step"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_ten_thousand_steps_stay_finite(decay, ageing):
    method = predictor(decay, ageing)
    history = random_history(3, num_prompts=N, steps=100, batch_size=2)
    history = jax.tree.map(lambda column: jnp.tile(column, (100, 1)), history)
    state, _ = jax.jit(lambda state: jax.lax.scan(lambda s, r: (method.update(KEY, s, r), None), state, history))(
        method.init(KEY, N)
    )
    assert state.step == 10_000
    prediction = method.predict(KEY, state, None)
    assert all(np.isfinite(field).all() for field in prediction)
    np.testing.assert_allclose(prediction.unsolved + prediction.mixed + prediction.solved, 1, atol=1e-6)


@pytest.mark.parametrize("group_size", [1, 2, 8, 64])
def test_solve_states_equal_scipys_beta_binomial(group_size):
    grid = np.array([1e-3, 0.1, 0.5, 1.0, 3.0, 20.0, 500.0, 1e5])
    alpha, beta_ = (column.ravel() for column in np.meshgrid(grid, grid))
    unsolved, mixed, solved = beta.solve_state_probabilities(
        jnp.asarray(alpha, jnp.float32), jnp.asarray(beta_, jnp.float32), group_size
    )
    exact: Any = stats.betabinom(group_size, alpha, beta_)
    np.testing.assert_allclose(unsolved, exact.pmf(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(solved, exact.pmf(group_size), rtol=1e-4, atol=1e-6)
    rounding = 2e-7 * max(group_size, 4)  # P(0) and P(n) are products of `group_size` rounded factors
    np.testing.assert_allclose(mixed, 1 - exact.pmf(0) - exact.pmf(group_size), atol=rounding)
    np.testing.assert_allclose(unsolved + mixed + solved, 1, atol=1e-6)
    assert (np.asarray(mixed) >= 0).all()


def test_prediction_is_the_posterior_of_the_requested_rows():
    method = predictor(0.5, "visit", vector_prior=True)
    state = method.update(KEY, method.init(KEY, N), rollouts([4, 0], [5, 8], [8, 8]))
    model = MoppsModel(N, prior_alpha=VECTOR_PRIOR[0], prior_beta=VECTOR_PRIOR[1])
    model.observe([4, 0], [5, 8], [8, 8])
    exact = stats.beta(*model.posterior())
    whole, some = method.predict(KEY, state, None), method.predict(KEY, state, jnp.array([4, 1]))
    np.testing.assert_allclose(whole.success_rate, exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(whole.variance, exact.var(), rtol=1e-5)
    for field in ("success_rate", "variance", "unsolved", "mixed", "solved"):
        np.testing.assert_allclose(getattr(some, field), getattr(whole, field)[np.array([4, 1])], rtol=1e-6)


def test_draws_follow_the_posterior():
    method = jaxsel.beta_bernoulli(prior_alpha=2.0, prior_beta=0.5)
    draws = method.predict(KEY, method.init(KEY, 20_000), None).draw
    assert stats.kstest(np.asarray(draws), stats.beta(2.0, 0.5).cdf).statistic < 2.5 / np.sqrt(20_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.5}, r"decay is 1\.5; give a number from 0 to 1"),
        ({"decay": float("nan")}, "decay is nan"),
        ({"group_size": 0}, "group_size is 0; give an integer of at least 1"),
        ({"ageing": "never"}, "ageing is 'never'; give one of 'visit', 'step'"),
        ({"prior_alpha": 0.0}, r"prior_alpha is 0\.0; give numbers above 0 and up to 1e30, one for all"),
        ({"prior_beta": [1.0, -1.0]}, "prior_beta is"),
        ({"prior_beta": float("inf")}, "prior_beta is inf"),
        ({"prior_alpha": np.ones((2, 2))}, "prior_alpha is"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.beta_bernoulli(**arguments)


def test_a_prior_of_another_length_is_refused():
    method = jaxsel.beta_bernoulli(prior_alpha=np.ones(3), prior_beta=np.ones(3))
    with pytest.raises(ValueError, match="prior_alpha has 3 entries for 4 prompts"):
        method.init(KEY, 4)


def test_the_spec_tells_priors_apart():
    one, other = (jaxsel.beta_bernoulli(prior_alpha=np.full(4, value)).spec for value in (1.0, 2.0))
    assert one != other
    assert one == jaxsel.beta_bernoulli(prior_alpha=np.ones(4)).spec
