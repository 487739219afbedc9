from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsel
from jaxsel import metrics

RNG = np.random.default_rng(0)
TIED = RNG.integers(0, 5, 200) / 4
OTHER = (TIED + RNG.normal(size=200)).astype(np.float32)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_correlations_are_those_of_scipy(array):
    x, y = array(TIED.astype(np.float32)), array(OTHER)
    pearson: Any = stats.pearsonr(TIED, OTHER)
    spearman: Any = stats.spearmanr(TIED, OTHER)
    np.testing.assert_allclose(metrics.pearson(x, y), pearson.statistic, atol=1e-5)
    np.testing.assert_allclose(metrics.spearman(x, y), spearman.statistic, atol=1e-5)
    np.testing.assert_allclose(metrics.spearman(x, -x), -1, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 1e6])
@pytest.mark.parametrize("correlation", [metrics.pearson, metrics.spearman])
def test_a_constant_has_no_correlation(correlation, constant):
    x = jnp.full(200, constant, jnp.float32)
    assert np.isnan(correlation(x, jnp.asarray(OTHER)))
    assert np.isnan(correlation(jnp.asarray(OTHER), x))


def test_mean_absolute_error():
    error = metrics.mean_absolute_error(np.array([0.0, 0.5, 1.0]), np.array([0.25, 0.5, 0.0]))
    np.testing.assert_allclose(error, 1.25 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("successes", "group_size", "share"),
    [([0, 3, 8, 5], [8, 8, 8, 8], 0.5), ([0, 0, 1], [0, 0, 2], 1.0), ([0, 1], [1, 1], 0.0)],
)
def test_mixed_share_ignores_groups_without_rollouts(successes, group_size, share):
    np.testing.assert_allclose(metrics.mixed_share(np.array(successes), np.array(group_size)), share)
    assert np.isnan(metrics.mixed_share(np.array([0]), np.array([0])))


def test_solve_state_accuracy_counts_the_likeliest_state_of_groups_with_rollouts():
    unsolved, mixed, solved = np.array([[0.8, 0.2, 0.1, 0.5, 0.9], [0.1, 0.7, 0.2, 0.3, 0.1], [0.1, 0.1, 0.7, 0.2, 0]])
    prediction = jaxsel.Prediction(*map(jnp.asarray, (solved, solved, solved, unsolved, mixed, solved)))
    accuracy = metrics.solve_state_accuracy(prediction, np.array([0, 3, 4, 8, 0]), np.array([8, 8, 8, 8, 0]))
    np.testing.assert_allclose(accuracy, 2 / 4)


def test_metrics_can_be_compiled():
    x, y = jnp.asarray(TIED, jnp.float32), jnp.asarray(OTHER)
    for metric in (metrics.pearson, metrics.spearman, metrics.mean_absolute_error):
        np.testing.assert_allclose(jax.jit(metric)(x, y), metric(x, y), rtol=1e-5)
