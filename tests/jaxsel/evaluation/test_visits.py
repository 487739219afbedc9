"""Tests of the posterior of single visits, against quadrature and against the conditional density of a joint normal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxsel import make_history
from jaxsel.evaluation.reference_models.model import given_neighbours
from jaxsel.evaluation.reference_models.visits import VisitPosterior

COUNTS = [(0, 1), (1, 1), (0, 8), (3, 8), (8, 8), (0, 64), (40, 64)]
HISTORY = make_history(np.arange(len(COUNTS)), np.zeros(len(COUNTS), int), *np.array(COUNTS).T, num_prompts=1)


def log_probability(s, n, location, scale):
    """Integrate the Binomial over the normal density, on a fine grid in float64."""
    x = np.linspace(location - 12 * scale - scale**2 * (n - s), location + 12 * scale + scale**2 * s, 100_001)
    density = special.expit(x) ** s * special.expit(-x) ** (n - s) * special.comb(n, s)
    return np.log(np.trapezoid(density * stats.norm.pdf(x, location, scale), x))


@pytest.mark.parametrize("scale", [0.01, 0.5, 2.0, 6.0])
def test_log_likelihood_integrates_the_logit_out(scale):
    location = np.array([[-4.0], [0.3], [5.0]]) + np.zeros(len(COUNTS))
    posterior = VisitPosterior(HISTORY, *(jnp.asarray(a, jnp.float32) for a in (location, location * 0 + scale)))
    expected = [[log_probability(s, n, row[0], scale) for s, n in COUNTS] for row in location]
    np.testing.assert_allclose(posterior.log_likelihood(), expected, atol=0.002 if scale == 6 else 5e-4)


def test_drawn_successes_have_the_probabilities_of_the_likelihood():
    draws = 20_000
    locations = np.linspace(-1, 1, len(COUNTS))
    location = jnp.broadcast_to(jnp.asarray(locations, jnp.float32), (draws, len(COUNTS)))
    found = np.asarray(VisitPosterior(HISTORY, location, jnp.ones_like(location)).successes(jax.random.key(0)))
    assert found.shape == (draws, len(COUNTS))
    assert found.dtype == np.int32
    for column, (s, n) in enumerate(COUNTS):
        p = np.exp(log_probability(s, n, locations[column], 1.0))
        assert abs((found[:, column] == s).mean() - p) < 5 * np.sqrt(p * (1 - p) / draws)


def test_given_neighbours_is_the_conditional_density_of_a_random_walk():
    """Compare with the inverse covariance of three visits of one prompt; a second prompt has a single visit."""
    gap, drift = np.array([[2.0, 1.0, 4.0], [3.0, 0.0, 0.0]]), 0.2
    scale = np.array([[1.5, 0.5, 1.0], [2.0, 0.0, 0.0]])
    x, means = np.array([[0.3, -1.0, 2.0], [0.7, 0.7, 0.7]]), np.array([-0.5, 1.0])
    arrays = (jnp.asarray(a, jnp.float32) for a in (gap, x, means, drift, scale))
    location, deviation = map(np.asarray, given_neighbours(*arrays))
    ones = np.tril(np.ones((3, 3)))
    mean = means[0] + ones @ (gap[0] * drift)
    precision = np.linalg.inv(ones @ np.diag(scale[0] ** 2) @ ones.T)
    for j in range(3):
        others = np.arange(3) != j
        expected = mean[j] - precision[j, others] @ (x[0] - mean)[others] / precision[j, j]
        assert location[0, j] == pytest.approx(expected, abs=1e-5)
        assert deviation[0, j] == pytest.approx(precision[j, j] ** -0.5, abs=1e-5)
    assert (location[1, 0], deviation[1, 0]) == pytest.approx((1.0 + 3 * 0.2, 2.0))
