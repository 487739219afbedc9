import functools

import jax
import numpy as np
import pytest

import jaxsel
from jaxsel import simulate
from tests.support.embedded import quick_jit

pytestmark = pytest.mark.slow

METHODS = {
    "uniform": lambda learner: jaxsel.uniform(),
    "mopps": lambda learner: jaxsel.mopps(),
    "threshold": lambda learner: jaxsel.threshold(),
    "dps": lambda learner: jaxsel.dps(),
    "oracle": simulate.oracle,
}


@functools.cache  # the compilation of a run takes longer than the run
def compiled(name, options, jit=quick_jit):
    def one(key, learner):
        return simulate.simulate(key, METHODS[name](learner), learner, **dict(options))

    return jit(one)


def run(name, learner, seed=0, **options):
    jit = quick_jit if options else jax.jit  # a test compares runs without options with eager JAX
    options = {"num_steps": 20, "batch_size": 8, **options}
    return compiled(name, tuple(sorted(options.items())), jit)(jax.random.key(seed), learner)


@pytest.mark.parametrize(
    "options",
    [{"num_steps": 0}, {"batch_size": 65}, {"group_size": 0}, {"candidate_ratio": -1}, {"num_probes": 0}],
)
def test_simulate_names_the_wrong_argument(options):
    learner = simulate.make_learner(jax.random.key(0), 64)
    with pytest.raises(ValueError, match=f"^{next(iter(options))} is"):
        run("uniform", learner, **options)


@pytest.fixture
def hundred():
    return simulate.make_learner(jax.random.key(0), 100)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs(name, hundred):
    trace = run(name, hundred)
    assert trace.prompt_ids.shape == (20, 8)
    assert all(len(set(batch)) == 8 for batch in trace.prompt_ids.tolist())
    assert ((trace.prompt_ids >= 0) & (trace.prompt_ids < 100)).all()
    for share in (trace.mixed_share, trace.mean_success_rate, trace.solve_state_accuracy):
        assert ((share >= 0) & (share <= 1)).all()
    assert np.isfinite(trace.mean_absolute_error).all()
    assert np.isfinite(trace.spearman[1:]).all()
    np.testing.assert_array_equal(trace.rollouts, 64 * np.arange(1, 21))


@functools.cache
def long_run(name):
    learner = simulate.make_learner(jax.random.key(0), 200, num_skills=4, skill_gain=20.0, boost_gain=5.0)
    return run(name, learner, num_steps=1000, candidate_ratio=3)


@pytest.mark.parametrize("name", METHODS)
def test_a_long_run_among_random_candidates_stays_finite(name):
    trace = long_run(name)
    assert all(len(set(batch)) == 8 for batch in trace.prompt_ids.tolist())
    assert np.isfinite(trace.mean_absolute_error).all()
    assert np.isfinite(trace.mean_success_rate).all()
    assert np.isfinite(trace.spearman[50:]).all()
    assert 0 < trace.mean_success_rate[-1] < 1


@pytest.mark.parametrize("name", ["mopps", "dps"])
def test_eager_equals_jit_and_the_key_decides(name, hundred):
    selector = METHODS[name](hundred)
    eager = simulate.simulate(jax.random.key(0), selector, hundred, num_steps=20, batch_size=8)
    once, again, other = (run(name, hundred, seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, once, again)
    np.testing.assert_array_equal(once.prompt_ids, eager.prompt_ids)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), once, eager)
    assert not np.array_equal(once.prompt_ids, other.prompt_ids)


def test_vmap_over_keys_equals_single_runs(hundred):
    keys = jax.random.split(jax.random.key(0), 3)
    one = compiled("mopps", (("batch_size", 8), ("num_steps", 20)), jax.jit)
    many = jax.jit(jax.vmap(one, in_axes=(0, None)))(keys, hundred)
    np.testing.assert_array_equal(many.prompt_ids[1], one(keys[1], hundred).prompt_ids)


def test_the_first_step_of_a_trace_matches_the_initial_learner(hundred):
    """The oracle knows the success rates and draws no random numbers, so the learner's state determines its batch."""
    trace = run("oracle", hundred)
    state = simulate.initial_state(hundred)
    rate = np.asarray(simulate.success_rate(hundred, state))
    assert set(trace.prompt_ids[0].tolist()) == set(np.argsort(abs(rate - 0.5))[:8].tolist())
    # the mean is over a probe of the pool, by default 1024 prompts; this pool has 100, so it is over all
    np.testing.assert_allclose(trace.mean_success_rate[0], rate.mean(), rtol=1e-5)


def test_methods_with_the_same_key_see_the_same_candidates(hundred):
    # with this ratio there are as many candidates as places in the batch, so every method chooses them all
    uniform, oracle = (run(name, hundred, candidate_ratio=1).prompt_ids for name in ("uniform", "oracle"))
    np.testing.assert_array_equal(np.sort(uniform), np.sort(oracle))
    assert len(np.unique(uniform)) > 8


def test_every_row_is_a_candidate_as_often_as_any_other():
    times = np.bincount(long_run("uniform").prompt_ids.ravel(), minlength=200)
    assert abs(times - 40).max() < 5 * np.sqrt(40)  # 1000 steps x 8 chosen rows / 200 rows = 40


def test_a_run_starts_from_a_given_belief(hundred):
    selector, key = METHODS["mopps"](hundred), jax.random.key(0)
    known = selector.init(key, 100)
    known = known._replace(successes=known.successes + 50.0)  # predicts success rates near 1
    known = known._replace(successes=known.successes.at[:8].set(0.0))  # predicts 1/2 for the first eight prompts
    one_step = functools.partial(simulate.simulate, selector=selector, num_steps=1, batch_size=8)
    trace = quick_jit(lambda belief, learner: one_step(key, learner=learner, belief=belief))(known, hundred)
    assert set(trace.prompt_ids[0].tolist()) == set(range(8))


def test_methods_with_the_same_key_are_judged_on_the_same_probe(hundred):
    first = {float(run(name, hundred).mean_success_rate[0]) for name in METHODS}
    assert len(first) == 1


def test_the_oracle_predicts_the_pool_exactly_at_every_step():
    learner = simulate.make_learner(jax.random.key(0), 100, forgetting=0.1)
    trace = run("oracle", learner)
    np.testing.assert_allclose(trace.mean_absolute_error, 0, atol=1e-6)
    np.testing.assert_allclose(trace.spearman, 1, atol=1e-4)
    # over 20 steps the probe has 2,000 groups and the batches 160, so two standard errors are at most 0.022 and 0.08
    assert trace.probe_predicted_mixed.shape == trace.probe_successes.shape == (20, 100)
    mixed = (trace.probe_successes > 0) & (trace.probe_successes < 8)
    assert trace.probe_predicted_mixed.mean() == pytest.approx(float(mixed.mean()), abs=0.03)
    assert trace.predicted_mixed.mean() == pytest.approx(float(trace.mixed_share.mean()), abs=0.08)
    assert (trace.predicted_mixed.mean(1) > trace.probe_predicted_mixed.mean(1)).all()


def test_the_oracles_solve_states_are_binomial():
    learner = simulate.make_learner(jax.random.key(0), 20)
    selector = simulate.oracle(learner, group_size=5)
    state = selector.init(jax.random.key(0), 20)
    prediction = selector.predict(jax.random.key(0), state, None)
    rate = np.asarray(simulate.success_rate(learner, state), np.float64)
    np.testing.assert_allclose(prediction.solved, rate**5, rtol=1e-4)
    np.testing.assert_allclose(prediction.unsolved, (1 - rate) ** 5, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(prediction.unsolved + prediction.mixed + prediction.solved, 1, atol=1e-6)


@pytest.fixture(scope="module")
def four_seeds():
    """Return four runs per method, each with its own pool of 500 prompts: 100 steps that choose 16 prompts."""

    def traces(name):
        def one(key):
            learner_key, run_key = jax.random.split(key)
            learner = simulate.make_learner(learner_key, 500)
            return simulate.simulate(run_key, METHODS[name](learner), learner, num_steps=100, batch_size=16)

        return quick_jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4))

    return {name: traces(name) for name in ("uniform", "mopps", "dps", "oracle")}


@pytest.mark.slow
def test_selection_finds_mixed_groups_and_the_oracle_most(four_seeds):
    shares = {name: trace.mixed_share[:, 30:].mean(1) for name, trace in four_seeds.items()}
    # a group either has successes and failures or not, so the standard error of a share of 70 x 16 groups is <= 0.015
    assert (shares["mopps"] > shares["uniform"] + 0.1).all()
    assert (shares["dps"] > shares["uniform"] + 0.1).all()
    assert (shares["oracle"] >= shares["mopps"]).all()


@pytest.mark.slow
def test_training_on_chosen_prompts_raises_the_pool(four_seeds):
    gains = {name: trace.mean_success_rate[:, -1] for name, trace in four_seeds.items()}
    assert (gains["uniform"] > four_seeds["uniform"].mean_success_rate[:, 0]).all()
    assert (gains["oracle"] > gains["mopps"]).all()
    assert (gains["mopps"] > gains["uniform"]).all()


@pytest.mark.slow
def test_the_posterior_means_of_mopps_rank_the_pool(four_seeds):
    assert (four_seeds["mopps"].spearman[:, -1] > 0.8).all()
    assert (four_seeds["mopps"].mean_absolute_error[:, -1] < 0.2).all()


@pytest.mark.parametrize(
    ("selector", "message"),
    [(jaxsel.mopps, r"call it: mopps\(...\)"), (jaxsel.kalman(), "compose it: make_selector")],
)
@pytest.mark.usefixtures("unchecked_types")
def test_simulate_takes_selectors_alone(selector, message):
    learner = simulate.make_learner(jax.random.key(0), 64)
    with pytest.raises(ValueError, match=message):
        simulate.simulate(jax.random.key(0), selector, learner, num_steps=1, batch_size=2)


def test_more_rollouts_than_int32_counts_are_refused(hundred):
    message = "num_steps is 16777216, batch_size 4 and group_size 32, 2147483648 rollouts in all; give a product of at"
    with pytest.raises(ValueError, match=message):
        simulate.simulate(jax.random.key(0), jaxsel.mopps(), hundred, num_steps=2**24, batch_size=4, group_size=32)
