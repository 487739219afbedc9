"""The reference model on a grid of logits, against a hidden Markov model by brute force."""

import numpy as np
import pytest

from jaxsel import make_history
from jaxsel.evaluation.reference_models import grid, lattice
from jaxsel.evaluation.reference_models.grid import Hyperparameters
from tests.support.dense_filter import believed_densely
from tests.support.grid_filter import believed, mean_and_interval

THETA = Hyperparameters(-0.5, 1.5, 0.05, 0.4)
HISTORY = make_history([0, 0, 2, 3, 9, 9], [1, 2, 1, 1, 1, 2], [2, 8, 5, 8, 3, 0], [8, 8, 8, 16, 8, 4], num_prompts=5)


def walks(seed, num_prompts, steps, batch, theta):
    """Return a history of random batches, drawn from the model."""
    rng = np.random.default_rng(seed)
    x = theta.mean + theta.spread * rng.normal(size=num_prompts)
    ids, successes = [], []
    for _ in range(steps):
        chosen = rng.choice(num_prompts, batch, replace=False)
        ids.append(chosen)
        successes.append(rng.binomial(8, 1 / (1 + np.exp(-x[chosen]))))
        x = x + theta.drift + theta.volatility * rng.normal(size=num_prompts)
    step = np.repeat(np.arange(steps), batch)
    return make_history(step, np.concatenate(ids), np.concatenate(successes), 8, num_prompts=num_prompts)


@pytest.mark.parametrize("theta", [THETA, THETA._replace(drift=-0.1, volatility=0.1)])
def test_beliefs_are_those_of_a_hidden_markov_model(theta):
    steps = np.array([0, 2, 3, 4, 9, 10, 12])
    asked = [(prompt, step) for prompt in (1, 2, 4) for step in steps]  # prompt 4 was never visited
    pairs = np.array([*asked, asked[0]])[::-1].T  # in any order, and one of them twice
    found = grid.filtered(HISTORY, theta, (pairs[0], pairs[1]))
    assert list(zip(found.prompt_ids, found.step, strict=True)) == asked
    low, high = found.quantile(0.05), found.quantile(0.95)
    for row, (prompt, step) in enumerate(asked):
        expected = mean_and_interval(believed(HISTORY, prompt, step, theta)[0], 0.9)
        np.testing.assert_allclose([found.mean()[row], low[row], high[row]], expected, atol=0.002)


def test_later_visits_change_nothing():
    asked = (np.array([1, 2]), np.array([3, 3]))
    early = grid.filtered(HISTORY.before(3), THETA, asked)
    np.testing.assert_array_equal(early.probabilities, grid.filtered(HISTORY, THETA, asked).probabilities)


@pytest.mark.parametrize("rollouts", [1_000, 1_100, 1_000_000])
def test_many_rollouts_leave_a_sharp_belief(rollouts):
    visits = np.array([1, 1, 2]) * rollouts
    history = make_history([0, 3, 4], [0, 0, 0], visits // 2, visits, num_prompts=1)
    found = grid.filtered(history, THETA, (np.zeros(3, int), np.array([1, 4, 5])))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(found.mean(), [0.51, 0.51, 0.51], atol=0.02)
    assert np.isfinite(grid.fitted(history)).all()


@pytest.mark.slow
def test_the_fit_is_the_mode_of_the_posterior():
    history = walks(0, 12, 10, 4, THETA)
    found = grid.fitted(history)
    priors = pytest.importorskip("jaxsel.evaluation.reference_models.model").priors()

    def log_posterior(theta):
        total = sum(float(priors[name].log_prob(value)) for name, value in theta._asdict().items())
        return total + sum(believed(history, prompt, 10, theta)[1] for prompt in range(12))

    best = log_posterior(found)
    for name, changes in {"mean": (-0.4, 0.4), "spread": (-0.4, 0.4), "drift": (-0.05, 0.05)}.items():
        for change in changes:
            assert log_posterior(found._replace(**{name: getattr(found, name) + change})) < best
    for factor in (0.6, 1.6):
        assert log_posterior(found._replace(volatility=max(factor * found.volatility, 0.05))) < best + 0.02


def test_the_fit_finds_the_settings_of_the_model():
    found = grid.fitted(walks(1, 150, 60, 30, THETA))
    np.testing.assert_allclose(found, THETA, atol=0.5)
    assert found.drift == pytest.approx(THETA.drift, abs=0.02)
    assert found.volatility == pytest.approx(THETA.volatility, abs=0.12)


def test_a_fit_takes_few_visits_of_many_prompts():
    some = grid._some(walks(2, 200, 100, 100, THETA), np.random.default_rng(0))
    assert 1000 <= len(some.step) <= 1020
    assert np.bincount(some.prompt_ids).max() == 20
    assert (np.diff(some.step) >= 0).all()
    assert some.step.max() > 90


def test_mass_beyond_the_grid_stays_at_its_end():
    far = Hyperparameters(-7.0, 0.5, -0.3, 1.0)
    history = make_history([0], [0], [0], 8, num_prompts=1)
    asked = (np.zeros(2, int), np.array([1, 400]))
    found = grid.filtered(history, far, asked)
    assert (found.mean() < 0.01).all()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)


def with_a_failed_group(kind, group_size):
    """Return a history in which every prompt is visited at every step, and a prompt of which one late group fails."""
    rng = np.random.default_rng(0)
    logit = rng.logistic(scale=0.8, size=60) if kind == "heterogeneous" else np.full(60, -1.0)
    step, ids = np.repeat(np.arange(40), 60), np.tile(np.arange(60), 40)
    learnt = 0.0 if kind == "homogeneous and constant" else 0.05
    successes = rng.binomial(group_size, 1 / (1 + np.exp(-logit[ids] - learnt * step)))
    prompt = int(logit.argmax())
    successes[(ids == prompt) & (step == 37)] = 0
    return make_history(step, ids, successes, group_size, num_prompts=60), prompt


def close_to_quadrature(history, prompt, theta, atol=0.01):
    """Assert that the beliefs about the prompt before every step are those of dense quadrature."""
    steps = np.arange(history.num_steps + 1)
    found = grid.filtered(history, theta, (np.full(len(steps), prompt), steps))
    beliefs = np.stack([found.mean(), found.quantile(0.05), found.quantile(0.95)], axis=1)
    np.testing.assert_allclose(beliefs, believed_densely(history, prompt, theta), atol=atol)


@pytest.mark.parametrize("group_size", [8, 64])
@pytest.mark.parametrize("kind", ["heterogeneous", "homogeneous", "homogeneous and constant"])
def test_a_surprising_group_leaves_the_belief_exact(kind, group_size):
    history, prompt = with_a_failed_group(kind, group_size)
    theta = grid.fitted(history)
    narrower_than_a_cell = group_size == 64 and theta.spread < lattice.WIDTH
    close_to_quadrature(history, prompt, theta, atol=0.02 if narrower_than_a_cell else 0.01)


@pytest.mark.parametrize("volatility", [0.01, 0.03, 0.06, 0.1])  # a cell is 0.0625 wide
def test_moves_narrower_than_a_cell_leave_the_belief_exact(volatility):
    history, prompt = with_a_failed_group("heterogeneous", 8)
    for drift in (-0.02, 0.0, 0.05):
        close_to_quadrature(history, prompt, Hyperparameters(0.0, 1.5, drift, volatility))
        close_to_quadrature(history, prompt, Hyperparameters(1.0, 0.2, drift, volatility))


def test_an_unlikely_group_of_a_prompt_that_never_failed_moves_the_belief_little():
    successes = np.append(np.full(39, 64), 0)
    history = make_history(np.arange(40), np.zeros(40, int), successes, 64, num_prompts=1)
    close_to_quadrature(history, 0, Hyperparameters(6.9, 0.3, 0.0, 0.05))


def test_no_move_has_a_negative_probability():
    for volatility in (1e-4, 0.01, 0.06, 0.2, 1.0):
        for gap in (1, 8, 1024):
            total = np.zeros(lattice.CELLS)
            for source, _, probability in lattice.move(0.1 * gap, volatility**2 * gap).parts:
                assert (probability >= 0).all()
                total[source] += probability.sum(axis=1)
            np.testing.assert_allclose(total, 1)


@pytest.mark.parametrize("volatility", [1e-4, 0.01, 0.03, 0.06, 0.2])
def test_a_move_has_its_mean_and_its_variance(volatility):
    theta = Hyperparameters(0.0, 0.05, 0.03, volatility)
    nothing = make_history([], [], [], 8, num_prompts=1)
    found = grid.filtered(nothing, theta, (np.zeros(3, int), np.array([0, 1, 9])))
    logits = np.log(grid.RATES / (1 - grid.RATES)) + found.offset[:, None]
    mean = (found.probabilities * logits).sum(axis=1)
    np.testing.assert_allclose(mean, 0.03 * found.step, atol=1e-6)
    variance = (found.probabilities * (logits - mean[:, None]) ** 2).sum(axis=1)
    np.testing.assert_allclose(variance, 0.05**2 + found.step * volatility**2, rtol=0.001)


@pytest.mark.slow
def test_the_fit_finds_a_pool_that_is_almost_always_solved():
    step, ids = np.repeat(np.arange(40), 60), np.tile(np.arange(60), 40)
    successes = np.random.default_rng(0).binomial(64, 0.999, len(ids))
    found = grid.fitted(make_history(step, ids, successes, 64, num_prompts=60))
    assert found.mean == pytest.approx(np.log(999), abs=0.5)
    assert found.drift == pytest.approx(0, abs=0.03)
