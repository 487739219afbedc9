"""Tests of `recalibrated`, a predictor that corrects the P(mixed) of an inner predictor by a calibration map.

A group of rollouts is mixed if it has successes and failures. The maps are learned from pairs: a predicted P(mixed),
and 1 if the group was mixed or 0 if not. Here they are compared with scikit-learn and SciPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

import jaxsel
from jaxsel.base import embedded_in
from jaxsel.predictors import recalibration
from jaxsel.predictors.recalibration import MAPS, Groups, Pairs, grouped, no_pairs, with_pairs
from tests.support.histories import rollouts
from tests.support.small_gps import EMBEDDINGS, TINY, N

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
COMPILED = {name: jax.jit(lambda pairs, p, of=of: of(grouped(pairs))(p)) for name, of in MAPS.items()}


def pairs_of(seed: int, truth, size: int = 4000) -> Pairs:
    """Return random pairs whose events occur with probability `truth(predicted)`."""
    rng = np.random.default_rng(seed)
    predicted = rng.random(size, np.float32)
    occurred = (rng.random(size) < truth(predicted)).astype(np.float32)
    return with_pairs(no_pairs(size), jnp.array(predicted), jnp.array(occurred), jnp.ones(size, bool))


def groups_of(seed: int, truth) -> tuple[Groups, np.ndarray, np.ndarray, np.ndarray]:
    """Return the groups of random pairs, and each group's mean prediction, share of events and size in float64."""
    groups = grouped(pairs_of(seed, truth))
    size, predicted, occurred = (np.asarray(field, np.float64) for field in groups)
    return groups, predicted, occurred, size


def test_groups_are_of_equal_size_and_in_order():
    _, predicted, _, size = groups_of(0, lambda p: p)
    assert (np.abs(size - size.mean()) <= 2).all()
    assert size.sum() == 4000 + 16  # `grouped` adds 16 prior pairs
    assert (np.diff(predicted) > 0).all()


def test_equal_predictions_stay_together_and_leave_groups_empty():
    predicted = jnp.array(np.repeat([0.2, 0.6], [300, 100]), jnp.float32)
    occurred = jnp.array(np.arange(400) % 4 == 0, jnp.float32)
    groups = grouped(with_pairs(no_pairs(1000), predicted, occurred, jnp.ones(400, bool)))
    assert (np.asarray(groups.size) == 0).any()
    assert np.sort(np.asarray(groups.size))[-2] >= 100
    for of in MAPS.values():
        np.testing.assert_allclose(of(groups)(jnp.array([0.2, 0.6])), 0.25, atol=0.07)


@pytest.mark.parametrize("truth", [lambda p: p**2, lambda p: 0.5 + 0 * p, lambda p: 1 - p, lambda p: p > 0.3])
def test_isotonic_equals_scikit_learns(truth):
    groups, at, occurred, size = groups_of(0, truth)
    expected = IsotonicRegression().fit(at, occurred, size).predict(at)
    np.testing.assert_allclose(recalibration.isotonic(groups)(jnp.array(at, jnp.float32)), expected, atol=2e-4)


@pytest.mark.parametrize("shapes", [(1, 1), (8, 2), (2, 8)])
@pytest.mark.parametrize("truth", [lambda p: p**2, lambda p: 0.5 + 0.4 * p, lambda p: 1 - p, lambda p: p])
def test_beta_maximises_the_penalised_likelihood(truth, shapes):
    rng = np.random.default_rng(1)
    predicted = rng.beta(shapes[0], shapes[1], 1000).astype(np.float32)
    event = (rng.random(1000) < truth(predicted)).astype(np.float32)
    groups = grouped(with_pairs(no_pairs(1000), jnp.array(predicted), jnp.array(event), jnp.ones(1000, bool)))
    size, at, occurred = (np.asarray(field, np.float64) for field in groups)

    def loss(parameters) -> float:
        a, b, c = parameters
        logit = a * np.log(at) - b * np.log1p(-at) + c
        likelihood = size * (occurred * -np.logaddexp(0, -logit) + (1 - occurred) * -np.logaddexp(0, logit))
        return -likelihood.sum() + 0.05 * ((a - 1) ** 2 + (b - 1) ** 2 + c**2)

    found = scipy.optimize.minimize(loss, [1.0, 1.0, 0.0], bounds=[(0, None), (0, None), (None, None)])
    a, b, c = found.x
    grid = np.linspace(0.01, 0.99, 50)
    expected = 1 / (1 + np.exp(-(a * np.log(grid) - b * np.log1p(-grid) + c)))
    np.testing.assert_allclose(recalibration.beta(groups)(jnp.array(grid, jnp.float32)), expected, atol=5e-3)


@pytest.mark.parametrize("method", MAPS)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), max_size=40))
def test_maps_are_increasing_and_give_probabilities(method, seen):
    predicted, occurred = (jnp.array([row[i] for row in seen], jnp.float32).reshape(-1) for i in (0, 1))
    pairs = with_pairs(no_pairs(30), predicted, occurred, jnp.ones(len(seen), bool))  # at most 30 pairs are kept
    mapped = np.asarray(COMPILED[method](pairs, jnp.linspace(0, 1, 101)))
    assert (np.diff(mapped) >= -1e-6).all()
    assert (mapped >= 0).all()
    assert (mapped <= 1).all()


@pytest.mark.parametrize("method", MAPS)
def test_without_pairs_nothing_is_corrected(method):
    grid = jnp.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(MAPS[method](grouped(no_pairs(100)))(grid), grid, atol=0.03)


def test_the_ring_buffer_holds_the_last_pairs_of_valid_rows():
    pairs = no_pairs(4)
    for step in range(3):
        predicted = jnp.arange(3.0) / 10 + step
        pairs = with_pairs(pairs, predicted, jnp.ones(3), jnp.array([True, False, True]))
    assert int(pairs.number) == 6
    np.testing.assert_allclose(np.sort(pairs.predicted), [1.0, 1.2, 2.0, 2.2], rtol=1e-6)
    many = with_pairs(pairs, jnp.arange(9.0), jnp.zeros(9), jnp.ones(9, bool))
    assert sorted(np.asarray(many.predicted).tolist()) == [5, 6, 7, 8]
    assert int(many.number) == 15


@pytest.mark.parametrize("method", MAPS)
def test_recalibration_lifts_the_cap_of_dps(method):
    """If all groups are mixed, the inner predictor gives P(mixed) of at most 0.684. The correction learns over 0.95."""
    inner = jaxsel.hidden_markov()
    predictor = jaxsel.recalibrated(inner, method=method)
    batch = rollouts(np.arange(N), np.full(N, 4), np.full(N, 8))
    state, plain = predictor.init(KEY, N), inner.init(KEY, N)
    update = jax.jit(predictor.update)
    for _ in range(30):
        state, plain = update(KEY, state, batch), inner.update(KEY, plain, batch)
    before, after = inner.predict(KEY, plain, None), predictor.predict(KEY, state, None)
    assert (before.mixed < 0.685).all()
    assert (after.mixed > 0.95).all()
    np.testing.assert_allclose(after.unsolved + after.mixed + after.solved, 1, atol=1e-6)
    np.testing.assert_allclose(after.unsolved / after.solved, before.unsolved / before.solved, rtol=2e-2)
    for name in ("success_rate", "variance"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_a_pair_is_a_visit_and_the_prediction_before_it():
    """Rows with equal ids make one pair.

    A row without rollouts, with a single one, or with an id outside the pool, makes none.
    """
    predictor = jaxsel.recalibrated(jaxsel.beta_bernoulli(), window=10)
    state = predictor.init(KEY, N)
    prior = 1 - 2 / 9  # P(mixed) of 8 rollouts under Beta(1, 1)
    state = predictor.update(KEY, state, rollouts([3, 3, 5, 7, 6, -1, N], [8, 0, 8, 0, 1, 4, 4], [8, 8, 8, 0, 1, 8, 8]))
    assert int(state.pairs.number) == 2
    np.testing.assert_allclose(state.pairs.predicted[:2], prior, rtol=1e-5)
    assert state.pairs.came[:2].tolist() == [1, 0]  # prompt 3 has 8 of 16 successes, prompt 5 has 8 of 8


def test_the_order_of_prompts_stays():
    selector = jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.hidden_markov(), method="beta"), jaxsel.mixed_probability(), jaxsel.top_k()
    )
    one, other = (jaxsel.PromptSelector(s, num_prompts=200, seed=0) for s in (selector, jaxsel.dps()))
    rng = np.random.default_rng(0)
    for _ in range(10):
        ids = rng.permutation(200)[:40]
        successes = rng.binomial(8, np.linspace(0, 1, 200)[ids])
        one.observe(ids, successes, 8)
        other.observe(ids, successes, 8)
    plain, corrected = other.predict().mixed, one.predict().mixed
    assert (np.diff(corrected[np.argsort(plain)]) >= -1e-6).all()
    assert not np.allclose(corrected, plain, atol=0.02)


def test_a_recalibrated_state_passes_on_its_embeddings(tmp_path):
    """The rule `diverse` finds the embeddings in the state, and a checkpoint leaves them out."""
    predictor = jaxsel.recalibrated(jaxsel.amortized(EMBEDDINGS, **TINY))
    selector = jaxsel.make_selector(predictor, jaxsel.target_success_rate(), jaxsel.diverse())
    live = jaxsel.PromptSelector(selector, num_prompts=N, seed=0)
    ids = live.select(4)
    live.observe(ids, [1, 8, 0, 3], 8)
    assert "selector/elbo" in live.metrics()
    live.save(tmp_path / "saved")
    assert not any("embeddings" in name for name in live.state_dict()["arrays"])
    again = jaxsel.PromptSelector.load(tmp_path / "saved", selector, num_prompts=N)
    np.testing.assert_array_equal(again.select(4), live.select(4))
    np.testing.assert_array_equal(again.predict().mixed, live.predict().mixed)


def test_another_recalibration_is_another_method(tmp_path):
    def selector(**options) -> jaxsel.Selector:
        predictor = jaxsel.recalibrated(jaxsel.beta_bernoulli(), **options)
        return jaxsel.make_selector(predictor, jaxsel.thompson(), jaxsel.top_k())

    jaxsel.PromptSelector(selector(), num_prompts=N).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="isotonic"):
        jaxsel.PromptSelector.load(tmp_path / "saved", selector(method="beta"), num_prompts=N)


def test_a_recalibrated_predictor_cannot_be_sharded():
    selector = jaxsel.make_selector(jaxsel.recalibrated(jaxsel.beta_bernoulli()), jaxsel.thompson(), jaxsel.top_k())
    with pytest.raises(ValueError, match=r"RecalibratedState has no partition_specs.*; leave out mesh"):
        jaxsel.shard(selector, jaxsel.prompts_mesh(), N).init(KEY, N)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "platt"}, "method is 'platt'; give one of 'isotonic', 'beta'"),
        ({"window": 0}, "window is 0; give an integer of at least 1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.recalibrated(jaxsel.beta_bernoulli(), **options)


@pytest.mark.parametrize("name", ["beta_bernoulli", "amortized"])
def test_diverse_treats_a_recalibrated_state_like_the_inner_state(name):
    """`diverse` treats a predictor and its recalibrated versions alike, with embeddings in the state or without."""
    make = {"beta_bernoulli": jaxsel.beta_bernoulli, "amortized": lambda: jaxsel.amortized(EMBEDDINGS, **TINY)}[name]
    for predictor in (make(), jaxsel.recalibrated(make()), jaxsel.recalibrated(jaxsel.recalibrated(make()))):
        state = predictor.init(KEY, N)
        if name == "beta_bernoulli":
            assert embedded_in(state) is None
            with pytest.raises(
                ValueError, match="lacks embeddings; give the rule diverse with amortized or state_space"
            ):
                jaxsel.diverse().choose(KEY, jnp.zeros(N), 4, None, state)
        else:
            embedded = embedded_in(state)
            assert embedded is not None
            assert embedded.latest is not None
            assert embedded.latest(2).prompt_ids.shape[0] == 2
            chosen = jaxsel.diverse().choose(KEY, jnp.zeros(N), 4, None, state)
            of_the_state_itself = jaxsel.diverse().choose(KEY, jnp.zeros(N), 4, None, make().init(KEY, N))
            np.testing.assert_array_equal(chosen, of_the_state_itself)


def test_a_group_of_one_is_never_mixed():
    for predictor in (jaxsel.beta_bernoulli(group_size=1), jaxsel.amortized(EMBEDDINGS, **TINY, group_size=1)):
        for method in (predictor, jaxsel.recalibrated(predictor), jaxsel.recalibrated(predictor, method="beta")):
            selector = jaxsel.make_selector(method, jaxsel.thompson(), jaxsel.top_k())
            live = jaxsel.PromptSelector(selector, num_prompts=N)
            live.observe(live.select(4), [0, 1, 0, 1], 1)
            prediction = live.predict()
            np.testing.assert_array_equal(prediction.mixed, 0)
            np.testing.assert_allclose(prediction.unsolved + prediction.solved, 1, atol=1e-6)


def test_a_constructor_that_was_not_called_is_named(unchecked_types):
    with pytest.raises(ValueError, match=r"predictor is <function hidden_markov.*call it: hidden_markov"):
        jaxsel.recalibrated(jaxsel.hidden_markov)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="predictor is Selector"):
        jaxsel.recalibrated(jaxsel.dps())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"rule is <function top_k.*call it: top_k"):
        jaxsel.make_selector(jaxsel.beta_bernoulli(), jaxsel.thompson(), jaxsel.top_k)  # pyright: ignore[reportArgumentType]
