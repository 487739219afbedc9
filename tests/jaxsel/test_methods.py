"""Conditions that every method obeys, so that other code can use any method. For gps see test_gps."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel.predictors import hidden_markov
from tests.support.histories import random_history

N, BATCH = 30, 4
KEY = jax.random.key(0)
MAPP = {"acquisition": jaxsel.mixed_probability(log=True), "rule": jaxsel.gumbel_top_k()}
METHODS = {
    "mopps": jaxsel.mopps(),
    "mopps, ageing by step": jaxsel.mopps(ageing="step"),
    "mopps, vector prior": jaxsel.mopps(prior_alpha=np.linspace(1, 9, N), prior_beta=np.linspace(9, 1, N)),
    "mopps, mean": jaxsel.mopps(acquisition=jaxsel.target_success_rate()),
    "mopps, mixed probability": jaxsel.mopps(**MAPP),
    "threshold": jaxsel.threshold(),
    **{f"dps, {prior}": jaxsel.dps(prior_counts=prior) for prior in hidden_markov.PRIOR_COUNTS},
    "dps, entropy bonus": jaxsel.dps(entropy_weight=0.3),
    "adaptive": jaxsel.adaptive(),
    "arcus": jaxsel.arcus(),
    "uniform": jaxsel.uniform(),
}


@pytest.fixture(params=METHODS)
def method(request) -> str:
    return request.param


@functools.cache
def compiled_select(method: str) -> Any:
    return jax.jit(METHODS[method].select, static_argnums=2)


@functools.cache
def after_a_run(method: str):
    """Run twenty steps in one scan; return the states before and after, the selections and the last predictions."""
    selector = METHODS[method]
    history = random_history(4, num_prompts=N, steps=20, batch_size=BATCH)

    def step(state, batch):
        selection = selector.select(KEY, state, BATCH)
        return selector.update(KEY, state, batch._replace(prompt_ids=selection.prompt_ids)), selection

    @jax.jit
    def run(state):
        state, selections = jax.lax.scan(step, state, history)
        return state, selections, selector.predict(KEY, state, None)

    state = selector.init(KEY, N)
    return state, *run(state)


def check_selection(selection: jaxsel.Selection, candidates: range) -> None:
    assert selection.prompt_ids.dtype == jnp.int32
    assert selection.prompt_ids.shape == (BATCH,)
    ids = selection.prompt_ids.tolist()
    assert len(set(ids)) == BATCH
    assert set(ids) <= set(candidates)
    for field in (selection.scores, *selection.prediction):
        assert field.shape == (BATCH,)
        assert field.dtype == jnp.float32
        assert not np.isnan(field).any()


def test_selections_are_distinct_rows_of_the_pool(method):
    _, _, selections, _ = after_a_run(method)
    for t in range(20):
        check_selection(jax.tree.map(lambda field, t=t: field[t], selections), range(N))


def test_selections_are_among_the_candidates(method):
    state, _, _, _ = after_a_run(method)
    candidates = range(5, 25, 2)
    check_selection(compiled_select(method)(KEY, state, BATCH, jnp.array(candidates)), candidates)


@pytest.mark.parametrize("method", ["mopps", "dps, local"])
def test_a_scan_selects_as_a_loop_would(method):
    state, after, selections, _ = after_a_run(method)
    history = random_history(4, num_prompts=N, steps=20, batch_size=BATCH)
    update = jax.jit(METHODS[method].update)
    for t in range(20):
        selection = compiled_select(method)(KEY, state, BATCH)
        np.testing.assert_array_equal(selection.prompt_ids, selections.prompt_ids[t])
        batch = jax.tree.map(lambda column, t=t: column[t], history)
        state = update(KEY, state, batch._replace(prompt_ids=selection.prompt_ids))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), state, after)


def test_predictions_are_finite_probabilities_of_the_whole_pool(method):
    _, _, _, prediction = after_a_run(method)
    for name, field in prediction._asdict().items():
        assert field.shape == (N,), name
        assert field.dtype == jnp.float32, name
        assert ((np.asarray(field) >= 0) & (np.asarray(field) <= 1)).all(), name
    total = prediction.unsolved + prediction.mixed + prediction.solved
    np.testing.assert_allclose(total, 1, atol=1e-6)
    np.testing.assert_array_less(prediction.variance, prediction.success_rate * (1 - prediction.success_rate) + 1e-6)


def test_update_keeps_the_structure_of_the_state(method):
    state, after, _, _ = after_a_run(method)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert isinstance(before, jax.Array)
        assert (before.shape, before.dtype) == (now.shape, now.dtype)


def test_the_spec_is_json_and_unique_to_its_method(method):
    spec = METHODS[method].spec
    assert json.loads(json.dumps(spec)) == spec
    assert [name for name, other in METHODS.items() if other.spec == spec] == [method]


@pytest.mark.parametrize("method", ["mopps", "dps, local"])
def test_one_compilation_serves_all_states_and_keys(method):
    state, after, _, _ = after_a_run(method)
    compiled_select(method)(KEY, state, BATCH)
    compilations = compiled_select(method)._cache_size()
    for seed, belief in enumerate((state, after, after)):
        compiled_select(method)(jax.random.key(seed), belief, BATCH)
    assert compiled_select(method)._cache_size() == compilations


@pytest.mark.usefixtures("unchecked_types")
def test_settings_may_be_numbers_of_jax_and_numpy():
    half = jaxsel.mopps(target=np.float64(0.5), decay=np.float64(0.5))
    assert jaxsel.mopps(target=jnp.float32(0.5), decay=jnp.float32(0.5)).spec == half.spec == jaxsel.mopps().spec


@pytest.mark.parametrize("candidates", [None, jnp.arange(N - 1, 9, -1, dtype=jnp.int32)])
def test_a_batch_chosen_by_draws_has_the_draws_of_its_choice(candidates: jax.Array | None):
    beta = METHODS["mopps"]

    def predict(key: Any, state: Any, prompt_ids: Any, first_id: Any = 0) -> jaxsel.Prediction:
        prediction = beta.predict(key, state, prompt_ids, first_id)
        is_batch = prompt_ids is not None and len(prompt_ids) == BATCH
        return prediction._replace(draw=jnp.full(BATCH, jnp.nan)) if is_batch else prediction

    predictor = jaxsel.Predictor({"name": "no second draw"}, beta.init, predict, beta.update)
    excluded = jnp.zeros(N, bool).at[jnp.arange(0, N, 2)].set(True)
    for acquisition in (jaxsel.thompson(), jaxsel.posterior_draw()):
        selector = jaxsel.make_selector(predictor, acquisition, jaxsel.top_k())
        state = selector.init(KEY, N)
        selection = jax.jit(selector.select, static_argnums=2)(KEY, state, BATCH, candidates, excluded, jnp.int32(3))
        scores = acquisition.score(selection.prediction)
        np.testing.assert_array_equal(scores[:3], selection.scores[:3])
        assert (selection.prompt_ids[:3] % 2 == 1).all()
        assert selection.prompt_ids[3] == -1


def test_mopps_takes_draws_next_to_the_target():
    state = METHODS["mopps"].init(KEY, N)
    selection = METHODS["mopps"].select(KEY, state, N)
    distance = np.abs(selection.prediction.draw - 0.5)
    assert (np.diff(distance) >= 0).all()


def test_dps_takes_the_largest_predicted_mixed_probability():
    _, after, _, prediction = after_a_run("dps, ones")
    chosen = compiled_select("dps, ones")(KEY, after, BATCH).prompt_ids
    np.testing.assert_allclose(np.sort(prediction.mixed[chosen]), np.sort(prediction.mixed)[-BATCH:], atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jaxsel.mopps(decay=2), "decay is 2; give a number from 0 to 1"),
        (lambda: jaxsel.mopps(target=-1), "target is -1"),
        (lambda: jaxsel.mopps(group_size=0), "group_size is 0"),
        (lambda: jaxsel.threshold(lower=0.8), r"lower is 0\.8 and upper is 0\.7"),
        (lambda: jaxsel.threshold(upper=1.8), r"upper is 1\.8; give a number from 0 to 1"),
        (lambda: jaxsel.dps(decay=-1), "decay is -1"),
        (lambda: jaxsel.dps(prior_counts="none"), "prior_counts is 'none'"),
        (lambda: jaxsel.dps(entropy_weight=-1), "entropy_weight is -1"),
        (lambda: jaxsel.dps(group_size=1), "group_size is 1, and dps chooses mixed groups, .*; take mopps"),
        (lambda: jaxsel.arcus(group_size=1), "group_size is 1, and arcus chooses mixed groups, .*; take mopps"),
        (lambda: jaxsel.uniform(decay=7), "decay is 7"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (lambda wrong: jaxsel.mopps(decay=wrong), "0.5", "decay is 0.5; give a number from 0 to 1"),
        (lambda wrong: jaxsel.dps(decay=wrong), None, "decay is None; give a number from 0 to 1"),
        (lambda wrong: jaxsel.adaptive(temperature=wrong), np.ones(3), r"temperature is \[1\. 1\. 1\.\]; give a"),
        (lambda wrong: jaxsel.dps(entropy_weight=wrong), [0.5, 0.5], r"entropy_weight is \[0.5, 0.5\]; give a finite"),
        (lambda wrong: jaxsel.dps(prior_counts=wrong), {}, "prior_counts is not an array of numbers on the host"),
        (lambda wrong: jaxsel.dps(initial_belief=wrong), "abc", "initial_belief is not an array of numbers"),
        (lambda wrong: jaxsel.within_bounds(wrong, 0.7), "0.3", "lower is '0.3' and upper is 0.7; give numbers"),
        (lambda wrong: jaxsel.within_bounds(0.3, wrong), np.ones(2), "lower is 0.3 and upper is array"),
        (lambda wrong: jaxsel.mopps(prior_alpha=wrong), [2j], "prior_alpha is not an array of numbers on the host"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_arguments_of_a_wrong_type_are_named(make: Callable[[Any], Any], wrong: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make(wrong)
