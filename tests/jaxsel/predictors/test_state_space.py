"""The state-space predictor: its filter, its learned settings, and its use in replays, simulations and checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector, simulate
from jaxsel.predictors.state_space.features import scaling_of
from jaxsel.predictors.state_space.predictor import logits
from jaxsel.predictors.state_space.state import given_weights
from tests.support.histories import random_history, rollouts
from tests.support.playing import choices, mesh_of

N, D, BATCH = 60, 3, 8
KEY = jax.random.key(0)
EMBEDDINGS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@functools.cache
def predictor(embedded: bool = True, group_size: int = 8) -> jaxsel.Predictor:
    return jaxsel.state_space(EMBEDDINGS if embedded else None, group_size=group_size)


@functools.cache
def compiled_update(embedded: bool = True):
    return jax.jit(predictor(embedded).update)


def predicted(method: jaxsel.Predictor, state, prompt_ids=None) -> jaxsel.Prediction:
    return jax.jit(method.predict)(KEY, state, prompt_ids)


SELECTOR = jaxsel.make_selector(predictor(), jaxsel.expected_variance(), jaxsel.top_k())


def ran(method: jaxsel.Predictor, history: jaxsel.Rollouts, num_prompts: int = N):
    step = jax.jit(lambda state: jax.lax.scan(lambda s, r: (method.update(KEY, s, r), s.log_score), state, history)[0])
    return step(method.init(KEY, num_prompts))


def check_belief(state) -> None:
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    assert (np.asarray(state.variance) >= 0).all()
    covariance = np.asarray(state.weights.root, np.float64)
    assert (np.linalg.eigvalsh(covariance @ covariance.T) > 0).all()
    information = np.asarray(state.weights.information, np.float64)
    np.testing.assert_allclose(information, information.T, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("embedded", [True, False])
def test_ten_thousand_steps_stay_positive_definite(embedded):
    history = random_history(3, num_prompts=N, steps=100, batch_size=BATCH)
    state = ran(predictor(embedded), jax.tree.map(lambda column: jnp.tile(column, (100, 1)), history))
    assert state.step == 10_000
    check_belief(state)
    prediction = predicted(predictor(embedded), state)
    for name, field in prediction._asdict().items():
        assert ((np.asarray(field) >= 0) & (np.asarray(field) <= 1)).all(), name
    np.testing.assert_allclose(prediction.unsolved + prediction.mixed + prediction.solved, 1, atol=1e-6)


@pytest.mark.slow
def test_repeated_equal_rollouts_make_the_belief_narrow_but_never_certain():
    state = predictor().init(KEY, N)
    batch = rollouts([4, -1, -1, -1], [4, 0, 0, 0], [8, 0, 0, 0])  # as long as most batches here, to compile once
    for _ in range(50):
        state = compiled_update()(KEY, state, batch)
    check_belief(state)
    prediction = predicted(predictor(), state, jnp.array([4]))
    assert abs(prediction.success_rate[0] - 0.5) < 0.1
    assert 0 < prediction.variance[0] < 0.02


def assert_same(one, other, rtol=0.0, atol=0.0):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), one, other)


def test_repeated_ids_are_one_visit_with_summed_counts():
    state = compiled_update()(KEY, predictor().init(KEY, N), rollouts([2, 7, 9, 9], [1, 3, 0, 1], [4, 4, 4, 4]))
    repeated = compiled_update()(KEY, state, rollouts([2, 5, 2, 5], [1, 0, 3, 2], [4, 2, 8, 2]))
    summed = compiled_update()(KEY, state, rollouts([2, 5, -1, N], [4, 2, 1, 1], [12, 4, 2, 1]))
    assert_same(repeated, summed)


@pytest.mark.parametrize("nothing", [(range(4), [0] * 4, [0] * 4), ([-1, N, N, -1], [3, 2, 8, 0], [8] * 4)])
def test_an_empty_batch_changes_nothing(nothing):
    state = compiled_update()(KEY, predictor().init(KEY, N), rollouts([0, 3, 5, 9], [1, 3, 0, 4], [4] * 4))
    assert_same(compiled_update()(KEY, state, rollouts(*nothing)), state)


@pytest.mark.slow
@pytest.mark.parametrize("embedded", [True, False])
def test_eager_equals_jit_and_has_no_nan(embedded):
    method, batch = predictor(embedded), rollouts([0, 3, 3, N], [1, 3, 8, 1], [4, 4, 8, 1])
    state = compiled_update(embedded)(KEY, method.init(KEY, N), batch)
    with jax.debug_nans(True):
        eager = method.update(KEY, state, batch)
        prediction = method.predict(KEY, eager, None)
    assert_same(eager, compiled_update(embedded)(KEY, state, batch), rtol=1e-4, atol=1e-5)
    assert_same(prediction, jax.jit(method.predict)(KEY, eager, None), rtol=1e-4, atol=1e-5)


def test_variance_grows_with_the_steps_since_the_last_visit():
    state = compiled_update()(KEY, predictor().init(KEY, N), rollouts([1, 2, 3, 4], [4, 0, 8, 6], [8] * 4))
    ages = [state._replace(step=state.step + wait) for wait in (0, 10, 100, 100_000)]
    variance = [float(predicted(predictor(), state, jnp.array([1])).variance[0]) for state in ages]
    assert variance == sorted(variance)


def test_rows_are_predicted_alike_alone_and_together():
    state, history = predictor().init(KEY, N), random_history(1, num_prompts=N, steps=40, batch_size=4)
    for step in range(40):
        state = compiled_update()(KEY, state, jaxsel.Rollouts(*(column[step] for column in map(np.asarray, history))))
    whole, some = (predicted(predictor(), state, ids) for ids in (None, jnp.array([40, 7])))
    assert_same(some, jax.tree.map(lambda field: field[np.array([40, 7])], whole), rtol=1e-4, atol=1e-6)


def test_a_group_of_one_is_never_mixed():
    prediction = predictor(group_size=1).predict(KEY, predictor().init(KEY, N), None)
    np.testing.assert_array_equal(prediction.mixed, 0)
    np.testing.assert_allclose(prediction.unsolved + prediction.solved, 1, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_embeddings_stay_in_their_dtype(dtype, tmp_path):
    given = jnp.asarray(EMBEDDINGS, dtype)
    if dtype == jnp.float32:
        np.save(tmp_path / "pool.npy", EMBEDDINGS)
        given = np.load(tmp_path / "pool.npy", mmap_mode="r")
    method = jaxsel.state_space(given)
    state = method.update(KEY, method.init(KEY, N), rollouts([1, 2], [0, 8], [8, 8]))
    assert state.embeddings.dtype == dtype
    assert all(field.dtype == jnp.float32 for field in method.predict(KEY, state, None))


def played_pool(rate: np.ndarray, embeddings, steps: int, jump: float = 0.0):
    """Let a predictor observe random batches of prompts with these success rates.

    From half of the steps on, `jump` is added to all logits. Returns the last state, the log score of every step, and
    the predictor.
    """
    rng = np.random.default_rng(1)
    method = jaxsel.state_space(embeddings)
    update = jax.jit(method.update)
    state, scores = method.init(KEY, len(rate)), []
    logit = np.log(rate / (1 - rate))
    for step in range(steps):
        now = 1 / (1 + np.exp(-logit - jump * (step >= steps // 2)))
        ids = rng.choice(len(rate), 64, replace=False)
        state = update(KEY, state, rollouts(ids, rng.binomial(8, now[ids]), np.full(64, 8)))
        scores.append(float(state.log_score))
    return state, np.array(scores), method


RATES = 1 / (1 + np.exp(-np.random.default_rng(5).normal(-0.5, 3.0, 2000)))
NOISE = np.random.default_rng(6).normal(size=(2000, 32)).astype(np.float32)


@pytest.mark.slow
def test_noise_features_cost_little_and_informative_features_pay():
    logit = np.log(RATES / (1 - RATES))
    told = (logit[:, None] * np.ones(4) / 3 + 0.3 * NOISE[:, :4]).astype(np.float32)
    scores = {
        name: played_pool(RATES, embeddings, 40)[1][10:].mean()
        for name, embeddings in {"none": None, "noise": NOISE, "told": told}.items()
    }
    assert scores["noise"] > scores["none"] - 0.03
    assert scores["told"] > scores["none"] + 0.3


def test_scale_and_location_of_the_prior_are_learned():
    state, _, _ = played_pool(RATES, None, 30)
    metrics = state.metrics()
    assert 2.3 < metrics["prior_scale"] < 3.7
    assert -1.0 < metrics["prior_location"] + metrics["level"] < 0.0
    assert metrics["visit_variance"] < 0.1


def test_a_jump_of_the_policy_is_followed():
    state, scores, method = played_pool(RATES, None, 60, jump=2.5)
    now = 1 / (1 + np.exp(-np.log(RATES / (1 - RATES)) - 2.5))
    assert abs(float(predicted(method, state).success_rate.mean()) - now.mean()) < 0.06
    assert scores[-10:].mean() > scores[30] + 0.5


def test_a_constant_pool_is_predicted_with_little_visit_variance():
    few = RATES[:64]
    state, _, method = played_pool(few, None, 80)
    assert np.abs(np.asarray(predicted(method, state).success_rate) - few).mean() < 0.04
    assert float(state.metrics()["visit_variance"]) < 0.03


def test_a_prompt_unlike_all_others_is_predicted_from_its_own_visits():
    tight = np.where(np.arange(256) == 3, 0.98, 0.03)
    state, _, method = played_pool(tight, None, 40)
    prediction = predicted(method, state, jnp.array([3, 4]))
    assert prediction.success_rate[0] > 0.8
    assert prediction.success_rate[1] < 0.15


@pytest.mark.slow
def test_checkpoints_replay_recalibration_and_simulation(tmp_path):
    live = PromptSelector(SELECTOR, num_prompts=N, seed=1)
    begun = choices(live)
    live.save(tmp_path)
    again = PromptSelector.load(tmp_path, SELECTOR, num_prompts=N)
    assert choices(live) == choices(again)
    assert {"gain", "prior_scale"} <= {name.rpartition("/")[2] for name in live.metrics()}
    assert "state.embeddings" not in live.state_dict()["arrays"]
    history = jaxsel.make_history([0, 0, 1], begun[0][:3], [1, 2, 3], 8, num_prompts=N)
    assert np.isfinite(jaxsel.replay(history, SELECTOR, num_prompts=N).prediction.mixed).all()
    corrected = jaxsel.recalibrated(predictor())
    state = corrected.update(KEY, corrected.init(KEY, N), rollouts([1, 2], [0, 4], [8, 8]))
    assert np.isfinite(corrected.predict(KEY, state, None).mixed).all()
    learner = simulate.make_learner(KEY, N)
    trace = simulate.simulate(KEY, SELECTOR, learner, num_steps=3, batch_size=4, num_probes=8)
    assert np.isfinite(trace.mean_absolute_error).all()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.usefixtures("on_cpu")
def test_a_mesh_chooses_like_one_device(devices):
    plain = PromptSelector(SELECTOR, num_prompts=N, seed=1)
    sharded = PromptSelector(SELECTOR, num_prompts=N, seed=1, mesh=mesh_of(devices))
    assert choices(plain, 6) == choices(sharded, 6)
    np.testing.assert_allclose(plain.predict().mixed, sharded.predict().mixed, rtol=1e-3, atol=1e-4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="group_size is 0; give an integer of at least 1"):
        jaxsel.state_space(group_size=0)
    with pytest.raises(ValueError, match=f"embeddings has {N} rows for 3 prompts; give one row per prompt"):
        predictor().init(KEY, 3)


@pytest.mark.slow
def test_training_on_one_kind_of_prompts_moves_only_this_kind():
    """The first feature tells two kinds of prompts apart, which start with equal rates.

    After 20 steps only one kind is chosen. Its rates rise, and the other kind is not observed again.
    """
    kind = np.repeat([1.0, -1.0], 100)
    other = np.random.default_rng(0).normal(size=(200, 3))
    method = jaxsel.state_space(np.c_[kind, other].astype(np.float32))
    state, update = method.init(KEY, 200), jax.jit(method.update)
    rng = np.random.default_rng(1)
    for t in range(60):
        ids = rng.choice(100 if t >= 20 else 200, 32, replace=False)
        rate = 1 / (1 + np.exp(-(0.06 * max(t - 20, 0) - 1.0)))
        state = update(KEY, state, rollouts(ids, rng.binomial(8, rate, 32), [8] * 32))
    rate = np.asarray(predicted(method, state).success_rate)
    assert rate[:100].mean() > 0.7
    assert rate[100:].mean() < 0.55


@pytest.mark.slow
def test_predictions_have_the_variance_that_the_update_uses():
    """The embeddings are correlated and determine the success rates.

    With such embeddings, a variance that is averaged over prompts would be most wrong.
    """
    rng = np.random.default_rng(2)
    embeddings = (rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
    method = jaxsel.state_space(embeddings)
    state, update = method.init(KEY, 300), jax.jit(method.update)
    truth = 1 / (1 + np.exp(-embeddings[:, 0]))
    for _ in range(40):
        ids = rng.choice(200, 16, replace=False)
        state = update(KEY, state, rollouts(ids, rng.binomial(8, truth[ids]), [8] * 16))

    @jax.jit
    def computed(state):
        given = given_weights(state, state.learning.settings, slice(None))
        return scaling_of(embeddings)(jnp.asarray(embeddings)), given, logits(state, None)[1]

    phi, given, variance = computed(state)
    phi = np.asarray(phi, np.float64)
    slope = np.asarray(given.slope, np.float64)[:, None]
    root = np.asarray(state.weights.root, np.float64)
    exact = ((np.concatenate([slope * phi, phi], 1) @ root) ** 2).sum(1)
    found = np.asarray(variance - given.variance)
    is_new = np.asarray(state.last_step) == 0
    np.testing.assert_allclose(found[is_new], exact[is_new], rtol=1e-3)
    assert (found > 0).all()
    total = np.asarray(given.variance) + exact
    np.testing.assert_allclose((found - exact) / total, 0, atol=0.15)
