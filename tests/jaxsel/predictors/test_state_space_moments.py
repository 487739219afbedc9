"""Expectations over a Gaussian logit, against float64 quadrature on a fine grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_expit

from jaxsel.predictors.state_space.moments import moments, posterior

MEANS = np.array([-25.0, -8.0, -3.0, -0.7, 0.0, 0.4, 2.0, 6.0, 12.0])
VARIANCES = np.array([1e-4, 0.05, 0.5, 2.0, 8.0, 36.0])
MEAN, VARIANCE = (grid.ravel() for grid in np.meshgrid(MEANS, VARIANCES))
OFFSETS = np.linspace(-10, 10, 40_001)
DENSITY = np.exp(-0.5 * OFFSETS**2) / np.exp(-0.5 * OFFSETS**2).sum()
LOGIT = MEAN[:, None] + np.sqrt(VARIANCE)[:, None] * OFFSETS


@pytest.mark.parametrize("group_size", [1, 2, 8, 64])
def test_expectations_are_exact_enough_to_be_probabilities(group_size):
    p, q = expit(LOGIT), expit(-LOGIT)
    found = moments(jnp.asarray(MEAN, jnp.float32), jnp.asarray(VARIANCE, jnp.float32), group_size)
    for ours, function in zip(found, (p, p * q, q**group_size, p**group_size), strict=True):
        np.testing.assert_allclose(ours, function @ DENSITY, atol=1.1e-4 if group_size == 64 else 1e-4)


@pytest.mark.parametrize("uses", [lambda x: x, lambda x: (x, x[0]), lambda x: (x, x[jnp.arange(0, 54, 7)])])
def test_an_expectation_is_one_operation_however_its_results_are_used(uses):
    """Otherwise XLA stores every quotient of every node, and 1e6 prompts take five times as long."""

    def of_all_outcomes(mean, variance):
        unsolved, solved = moments(mean, variance, 8)[2:]
        return uses(jnp.maximum(1 - unsolved - solved, 0))

    columns = jnp.asarray(MEAN, jnp.float32), jnp.asarray(VARIANCE, jnp.float32)
    program = jax.jit(of_all_outcomes).lower(*columns).compile().as_text() or ""
    assert program[program.index("ENTRY") :].count(" fusion(") < 10


@pytest.mark.parametrize("group_size", [1, 8, 64, 1000])
def test_the_posterior_of_binomial_counts_equals_quadrature(group_size):
    s = (np.arange(len(MEAN)) * 5) % (group_size + 1)
    log_joint = s[:, None] * log_expit(LOGIT) + (group_size - s)[:, None] * log_expit(-LOGIT) + np.log(DENSITY)
    # where the counts lie far outside of the prior, the grid is too coarse for an exact posterior
    inside = np.abs(OFFSETS[log_joint.argmax(1)]) < 6
    largest = log_joint.max(1, keepdims=True)
    weight = np.exp(log_joint - largest)
    total = weight.sum(1)
    shift = (weight * (LOGIT - MEAN[:, None])).sum(1) / total
    variance = (weight * (LOGIT - MEAN[:, None] - shift[:, None]) ** 2).sum(1) / total
    columns = jnp.asarray(s, jnp.int32), jnp.full(len(s), group_size, jnp.int32)
    found = posterior(jnp.asarray(MEAN, jnp.float32), jnp.asarray(VARIANCE, jnp.float32), *columns)
    np.testing.assert_allclose(
        found.log_evidence[inside], (largest[:, 0] + np.log(total))[inside], rtol=1e-4, atol=1e-3
    )
    assert (np.abs(found.shift - shift)[inside] < 3e-3 * np.sqrt(variance[inside]) + 1e-4).all()
    np.testing.assert_allclose(found.variance[inside], variance[inside], rtol=5e-3)


def test_the_posterior_is_right_however_far_the_mean_lies_from_the_counts():
    mean = np.array([100.0, -100.0, 100.0, 45.0, 60.0, 28.0, 100.0])
    variance = np.array([36.0, 36.0, 0.05, 1.0, 36.0, 36.0, 36.0])
    s, n = np.array([0, 8, 8, 0, 3, 0, 1000]), np.array([8, 8, 8, 1000, 8, 1000, 1000])
    eta = np.linspace(-180, 180, 200_001)
    log_joint = s[:, None] * log_expit(eta) + (n - s)[:, None] * log_expit(-eta)
    log_joint -= 0.5 * (eta - mean[:, None]) ** 2 / variance[:, None]
    largest = log_joint.max(1, keepdims=True)
    weight = np.exp(log_joint - largest)
    total = weight.sum(1)
    shift = (weight * (eta - mean[:, None])).sum(1) / total
    spread = (weight * (eta - mean[:, None] - shift[:, None]) ** 2).sum(1) / total
    score = largest[:, 0] + np.log(total * (eta[1] - eta[0])) - 0.5 * np.log(2 * np.pi * variance)
    found = posterior(*(jnp.asarray(column, jnp.float32) for column in (mean, variance, s, n)))
    np.testing.assert_allclose(found.shift, shift, atol=5e-3)
    np.testing.assert_allclose(found.variance, spread, rtol=5e-3)
    np.testing.assert_allclose(found.log_evidence, score, rtol=1e-4, atol=2e-3)


def test_a_posterior_mean_grows_with_the_mean():
    mean = jnp.linspace(-300, 300, 601)
    found = posterior(mean, jnp.full(601, 36.0), jnp.zeros(601), jnp.full(601, 8))
    assert all(np.isfinite(field).all() for field in found)
    assert (np.diff(mean + found.shift) > -1e-3).all()


def test_without_rollouts_the_posterior_is_the_prior():
    none = jnp.zeros(2, jnp.int32)
    found = posterior(jnp.array([0.0, 3.0]), jnp.array([1.0, 9.0]), none, none)
    np.testing.assert_allclose(found.variance, [1, 9], rtol=1e-5)
    np.testing.assert_allclose(found.shift, 0, atol=1e-5)
    np.testing.assert_allclose(found.log_evidence, 0, atol=1e-5)


def test_extreme_logits_make_no_nan():
    with jax.debug_nans(True):
        found = moments(jnp.array([-1e4, 1e4, 0.0]), jnp.array([0.0, 1e6, 1e-30]), 8)
        posterior(jnp.array([-40.0, 40.0]), jnp.array([1e-4, 36.0]), jnp.array([8, 0]), jnp.array([8, 8]))
    assert all(np.isfinite(field).all() for field in found)
