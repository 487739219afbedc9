import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import simulate
from jaxsel.base import Rollouts
from jaxsel.simulate import Learner, LearnerState
from tests.support.embedded import quick_jit

pytestmark = pytest.mark.slow

METHODS = {
    "uniform": lambda learner: jaxsel.uniform(),
    "mopps": lambda learner: jaxsel.mopps(),
    "threshold": lambda learner: jaxsel.threshold(),
    "dps": lambda learner: jaxsel.dps(),
    "oracle": simulate.oracle,
}


@pytest.fixture
def four():
    """Return a simulated learner with three skills and four prompts.

    Prompts 0 and 1 need skill 0, prompts 2 and 3 need skill 1, and prompt 3 also needs skill 2.
    """
    return Learner(
        skill_ids=jnp.array([[0, 0, 1, 1], [0, 0, 1, 2]]),
        loadings=jnp.array([[0.5, 0.25, 1.0, 0.5], [0.5, 0.75, 0.0, 0.5]]),
        difficulty=jnp.array([0.0, 1.0, -1.0, 3.0]),
        initial_skills=jnp.array([0.0, 0.5, 1.0]),
        skill_gain=jnp.float32(2),
        boost_gain=jnp.float32(1),
        forgetting=jnp.float32(0),
    )


def rollouts(*rows):
    """Return rollouts from rows (prompt, successes, group size)."""
    return Rollouts(*jnp.array(rows, jnp.int32).T)


@functools.cache  # the compilation of a run takes longer than the run
def compiled(name, options, jit=quick_jit):
    def one(key, learner):
        return simulate.simulate(key, METHODS[name](learner), learner, **dict(options))

    return jit(one)


def run(name, learner, seed=0, **options):
    jit = quick_jit if options else jax.jit  # a test compares runs without options with eager JAX
    options = {"num_steps": 20, "batch_size": 8, **options}
    return compiled(name, tuple(sorted(options.items())), jit)(jax.random.key(seed), learner)


def change(learner, state, batch):
    before = simulate.success_rate(learner, state)
    return np.asarray(simulate.success_rate(learner, simulate.train(learner, state, batch)) - before)


def test_the_success_rate_is_the_formula(four):
    state = LearnerState(jnp.array([0.3, 0.5, 1.0]), jnp.array([0.0, 0.2, 0.0, -0.1]))
    logits = np.array([0.3 - 0.0, 0.3 - 1.0 + 0.2, 0.5 + 1.0, 0.25 + 0.5 - 3.0 - 0.1])
    np.testing.assert_allclose(simulate.success_rate(four, state), 1 / (1 + np.exp(-logits)), rtol=1e-6)
    some = simulate.success_rate(four, state, jnp.array([3, 1]))
    np.testing.assert_array_equal(some, simulate.success_rate(four, state)[jnp.array([3, 1])])


def test_training_is_the_formula(four):
    four = four._replace(forgetting=jnp.float32(0.25))
    state = LearnerState(jnp.array([1.0, 1.5, 2.0]), jnp.array([4.0, 0.0, 0.0, 8.0]))
    trained = simulate.train(four, state, rollouts((0, 4, 8), (3, 2, 8), (2, 8, 8)))
    v0, v3 = 0.25, 3 / 16
    kept = np.array([0.75, 1.25, 1.75])
    np.testing.assert_allclose(trained.skills, kept + 2 * np.array([v0, v3 / 2, v3 / 2]) / 3, rtol=1e-6)
    np.testing.assert_allclose(trained.boost, [3 + v0, 0, 0, 6 + v3], rtol=1e-6)


def test_interference_memorization_and_normalised_advantages_are_the_formula(four):
    settings = {"interference": 0.6, "memorization": 0.5, "signal": 0.5}
    four = four._replace(**{name: jnp.float32(value) for name, value in settings.items()})
    state = LearnerState(jnp.array([1.0, 1.5, 2.0]), jnp.array([4.0, 0.0, 0.0, 8.0]))
    trained = simulate.train(four, state, rollouts((0, 4, 8), (3, 2, 8), (2, 8, 8)))
    v0, v3 = 0.5, np.sqrt(3 / 16)
    u0, u3 = v0 * np.exp(-2), v3 * np.exp(-4)
    taught = 2 * np.array([u0, u3 / 2, u3 / 2]) / 3
    lost = 0.6 * 2 * (v0 + v3) / 3 / 3
    np.testing.assert_allclose(trained.skills, np.array([1.0, 1.5, 2.0]) + taught - lost, rtol=1e-6)
    np.testing.assert_allclose(trained.boost, [4 + v0, 0, 0, 8 + v3], rtol=1e-6)


def test_a_visit_moves_the_prompt_more_than_its_neighbour_and_unrelated_prompts_not_at_all(four):
    moved = change(four, simulate.initial_state(four), rollouts((0, 4, 8)))
    assert moved[0] > moved[1] > 0
    np.testing.assert_array_equal(moved[2:], 0)


def test_without_the_boost_gain_a_visit_changes_only_skills(four):
    four = four._replace(boost_gain=jnp.float32(0))
    state = simulate.initial_state(four)
    trained = simulate.train(four, state, rollouts((0, 4, 8)))
    np.testing.assert_array_equal(trained.boost, state.boost)
    assert trained.skills[0] > state.skills[0]


@pytest.mark.parametrize("successes", [0, 8])
def test_groups_that_are_all_solved_or_all_unsolved_teach_nothing(four, successes):
    state = simulate.initial_state(four)
    trained = simulate.train(four, state, rollouts(*((i, successes, 8) for i in range(4))))
    jax.tree.map(np.testing.assert_array_equal, trained, state)


def test_groups_without_rollouts_and_ids_outside_the_pool_are_ignored(four):
    state = simulate.initial_state(four)
    alone = simulate.train(four, state, rollouts((1, 3, 8)))
    padded = simulate.train(four, state, rollouts((1, 3, 8), (2, 0, 0), (4, 4, 8), (-1, 4, 8)))
    jax.tree.map(np.testing.assert_array_equal, padded, alone)
    nothing = simulate.train(four, state, rollouts((1, 0, 0)))
    jax.tree.map(np.testing.assert_array_equal, nothing, state)


def test_repeated_ids_are_one_group(four):
    state = simulate.initial_state(four)
    apart = simulate.train(four, state, rollouts((0, 0, 4), (0, 4, 4)))
    jax.tree.map(np.testing.assert_array_equal, apart, simulate.train(four, state, rollouts((0, 4, 8))))


def test_without_practice_skills_are_forgotten(four):
    four = four._replace(forgetting=jnp.float32(0.1))
    state = simulate.train(four, simulate.initial_state(four), rollouts((0, 4, 8)))
    nothing = rollouts((0, 0, 8))
    for _ in range(200):
        state = simulate.train(four, state, nothing)
    jax.tree.map(lambda old, new: np.testing.assert_allclose(old, new, atol=1e-6), state, simulate.initial_state(four))


def test_rates_stay_between_0_and_1_at_any_skill(four):
    for skill in (-1e6, -20.0, 20.0, 1e6):
        state = LearnerState(jnp.full(3, skill), jnp.zeros(4))
        rates = simulate.success_rate(four, state)
        assert (rates > 0).all()
        assert (rates < 1).all()


def test_draws_have_the_binomial_mean_and_variance():
    num_prompts, n = 20_000, 8
    learner = simulate.make_learner(jax.random.key(0), num_prompts)
    state = simulate.initial_state(learner)
    drawn = simulate.rollout(jax.random.key(1), learner, state, jnp.arange(num_prompts), n)
    rate = np.asarray(simulate.success_rate(learner, state), np.float64)
    variance = n * rate * (1 - rate)
    error = np.asarray(drawn.successes) - n * rate
    assert abs(error.sum()) < 5 * np.sqrt(variance.sum())
    # variance of the squared error: the binomial's fourth central moment less the squared variance
    fourth = variance * (1 + 3 * (n - 2) / n * variance)
    assert abs((error**2 - variance).sum()) < 5 * np.sqrt((fourth - variance**2).sum())
    np.testing.assert_array_equal(drawn.group_size, n)
    np.testing.assert_array_equal(drawn.prompt_ids, np.arange(num_prompts))


def test_make_learner_gives_sparse_normalised_loadings_and_the_requested_spread():
    size = 50_000
    learner = simulate.make_learner(
        jax.random.key(0),
        size,
        num_skills=7,
        skills_per_prompt=3,
        difficulty_mean=2.0,
        difficulty_spread=1.5,
        skill_spread=0.0,
    )
    assert learner.skill_ids.shape == learner.loadings.shape == (3, size)
    assert set(np.unique(learner.skill_ids)) == set(range(7))
    assert (learner.loadings >= 0).all()
    np.testing.assert_allclose(learner.loadings.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(learner.initial_skills, np.zeros(7))
    assert abs(learner.difficulty.mean() - 2) < 5 * 1.5 / np.sqrt(size)
    assert abs(learner.difficulty.std() - 1.5) < 5 * 1.5 / np.sqrt(2 * size)


@pytest.mark.parametrize(
    "options",
    [
        {"num_prompts": 0},
        {"num_skills": 0},
        {"skills_per_prompt": 0},
        {"difficulty_mean": float("nan")},
        {"difficulty_spread": -1.0},
        {"skill_spread": -1.0},
        {"skill_gain": -1.0},
        {"boost_gain": float("nan")},
        {"forgetting": 1.5},
        {"interference": -0.1},
        {"memorization": -1.0},
        {"signal": 0.0},
        {"signal": 1e-45},  # 0 in float32
        {"signal": 1e39},
    ],
)
def test_make_learner_names_the_wrong_argument(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} is"):
        simulate.make_learner(jax.random.key(0), **{"num_prompts": 10, **options})


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


def test_an_exponential_variable_of_0_gives_finite_loadings():
    assert (simulate.make_learner(jax.random.key(1991), 10_000, skills_per_prompt=1).loadings == 1).all()


def test_more_rollouts_than_int32_counts_are_refused(four):
    message = "num_steps is 16777216, batch_size 4 and group_size 32, 2147483648 rollouts in all; give a product of at"
    with pytest.raises(ValueError, match=message):
        simulate.simulate(jax.random.key(0), jaxsel.mopps(), four, num_steps=2**24, batch_size=4, group_size=32)
