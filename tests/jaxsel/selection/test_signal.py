"""The acquisitions (scores) `expected_variance` and `expected_signal`, compared with SciPy."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsel

ALPHA = np.array([0.2, 1.0, 3.0, 40.0, 5.0])
BETA = np.array([0.3, 1.0, 9.0, 40.0, 0.1])


def prediction_of(mean: np.ndarray, variance: np.ndarray) -> jaxsel.Prediction:
    fields = (mean, variance, mean, *np.zeros((3, len(mean))))
    return jaxsel.Prediction(*(jnp.asarray(field, jnp.float32) for field in fields))


def beta_prediction() -> jaxsel.Prediction:
    rate = stats.beta(ALPHA, BETA)
    return prediction_of(rate.mean(), rate.var())


def test_expected_variance_equals_its_closed_form():
    exact = ALPHA * BETA / ((ALPHA + BETA) * (ALPHA + BETA + 1))
    np.testing.assert_allclose(jaxsel.expected_variance().score(beta_prediction()), exact, rtol=1e-4)


@pytest.mark.parametrize("group_size", [1, 2, 8, 16, 1024])
def test_expected_signal_equals_the_sum_over_the_beta_binomial(group_size):
    s = np.arange(group_size + 1)[:, None]
    count: Any = stats.betabinom(group_size, ALPHA[None], BETA[None])
    probability = count.pmf(s)
    exact = (np.sqrt(s * (group_size - s)) / group_size * probability).sum(0)
    score = jaxsel.expected_signal(group_size).score(beta_prediction())
    np.testing.assert_allclose(score, exact, rtol=1e-3, atol=1e-6)


def test_expected_signal_is_exact_for_large_groups_and_certain_beliefs():
    n, mean = 1024, np.array([1e-4, 0.01, 0.3, 0.5, 0.9, 0.99, 0.9999])
    s = np.arange(n + 1)[:, None]
    exact = (np.sqrt(s * (n - s)) / n * stats.binom.pmf(s, n, mean.astype(np.float32)[None])).sum(0)
    score = jaxsel.expected_signal(n).score(prediction_of(mean, np.zeros(len(mean))))
    np.testing.assert_allclose(score, exact, rtol=1e-4)


@pytest.mark.parametrize("acquisition", [jaxsel.expected_variance(), jaxsel.expected_signal()])
def test_beliefs_that_are_certain_are_scored_without_nan(acquisition):
    mean = np.array([0.0, 0.5, 1.0])
    certain = prediction_of(mean, np.zeros(3))
    with jax.debug_nans(True):
        score = np.asarray(acquisition.score(certain))
    assert score[1] > 0.2
    np.testing.assert_allclose(score[[0, 2]], 0, atol=1e-6)
    widest = prediction_of(mean, mean * (1 - mean))
    np.testing.assert_allclose(acquisition.score(widest), 0, atol=1e-6)
    json.dumps(acquisition.spec)


@pytest.mark.parametrize("acquisition", [jaxsel.expected_variance, jaxsel.expected_signal])
def test_log_scores_are_logarithms_and_very_low_for_certain_prompts(acquisition):
    belief = beta_prediction()
    np.testing.assert_allclose(acquisition(log=True).score(belief), np.log(acquisition().score(belief)), rtol=1e-6)
    mean = np.array([0.0, 0.5, 1.0])
    score = np.asarray(acquisition(log=True).score(prediction_of(mean, np.zeros(3))))
    assert not np.isnan(score).any()
    assert (score[[0, 2]] < -13).all()


def test_a_bad_group_size_is_named():
    with pytest.raises(ValueError, match="group_size is 0; give an integer of at least 1"):
        jaxsel.expected_signal(0)
