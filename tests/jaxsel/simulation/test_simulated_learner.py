"""The simulated learner: its success rates, rollouts and training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsel import simulate
from jaxsel.base import Rollouts
from jaxsel.simulate import Learner, LearnerState

pytestmark = pytest.mark.slow


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


def test_an_exponential_variable_of_0_gives_finite_loadings():
    assert (simulate.make_learner(jax.random.key(1991), 10_000, skills_per_prompt=1).loadings == 1).all()
