from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxsel.predictors.amortized.likelihood import LIKELIHOODS
from tests.support import networks_reference as reference
from tests.support.histories import rollouts

LOGITS = np.array([-50.0, -8.0, -2.0, 0.0, 0.7, 50.0])
SPREADS = np.array([-50.0, -2.0, 0.0, 3.0, 50.0])
EVIDENCE = np.array([(0, 0), (2.5, 0), (0, 30), (500, 900)], float)
COUNTS = np.array([(s, n) for n in (1, 2, 8, 64) for s in sorted({0, 1, n // 2, n})])
NAMES = tuple(LIKELIHOODS)


def grid(*others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return all combinations of the decoder's two outputs with the rows of the other arrays."""
    axes = np.meshgrid(LOGITS, SPREADS, *(np.arange(len(other)) for other in others))
    logit, spread, *rows = (axis.ravel() for axis in axes)
    return np.stack([logit, spread], 1), *(other[row] for other, row in zip(others, rows, strict=True))


OUTPUTS, VISITS = grid(COUNTS)
S, TOTAL = VISITS.T
ON_DEVICE = jnp.asarray(OUTPUTS, jnp.float32), rollouts(0 * S, S, TOTAL)


@pytest.mark.parametrize("name", NAMES)
def test_log_probabilities_equal_scipys(name):
    exact = reference.log_prob(name, OUTPUTS, S, TOTAL)
    ours = jax.jit(LIKELIHOODS[name].log_prob)(*ON_DEVICE)
    rounding = 1e-4 + 1e-6 * (sum(reference.beta_shapes(OUTPUTS)) + TOTAL)  # logarithms of Gamma have rounding errors
    assert (np.abs(ours - exact) <= 2e-5 * np.abs(exact) + rounding).all()


@pytest.mark.parametrize("name", ["beta_binomial", "binomial"])
def test_probabilities_of_all_counts_sum_to_1(name):
    counts = rollouts(np.arange(9), np.arange(9), np.full(9, 8))
    for output in ([0.3, -1.0], [-3.0, 2.0]):
        log_prob = jax.jit(LIKELIHOODS[name].log_prob)(jnp.tile(jnp.asarray(output), (9, 1)), counts)
        assert np.exp(log_prob).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_scipys_and_point_to_the_observed_outcome(name):
    def total(outputs, batch):
        return LIKELIHOODS[name].log_prob(outputs, batch).sum()

    ours = np.asarray(jax.jit(jax.grad(total))(*ON_DEVICE))
    for column in range(2):
        step = np.where(np.arange(2) == column, 1e-4, 0)
        above, below = (reference.log_prob(name, OUTPUTS + sign * step, S, TOTAL) for sign in (1, -1))
        np.testing.assert_allclose(ours[:, column], (above - below) / 2e-4, rtol=2e-3, atol=2e-3)
    learns = (np.abs(OUTPUTS[:, 0]) <= 8) & (np.abs(OUTPUTS[:, 1]) <= 3)
    assert (ours[learns & (S == 0), 0] < 0).all()
    assert (ours[learns & (S == TOTAL), 0] > 0).all()


@pytest.mark.parametrize("group_size", [1, 2, 8, 64])
def test_the_belief_is_the_beta_posterior_of_the_evidence(group_size):
    outputs, evidence = grid(EVIDENCE)
    alpha, beta = (shape + column for shape, column in zip(reference.beta_shapes(outputs), evidence.T, strict=True))
    columns = (jnp.asarray(column, jnp.float32) for column in (outputs, *evidence.T))
    ours = LIKELIHOODS["beta_binomial"].belief(*columns, group_size)
    exact: Any = stats.beta(alpha, beta)
    count: Any = stats.betabinom(group_size, alpha, beta)
    np.testing.assert_allclose(ours.alpha, alpha, rtol=1e-4)
    np.testing.assert_allclose(ours.beta, beta, rtol=1e-4)
    np.testing.assert_allclose(ours.success_rate, exact.mean(), rtol=1e-4)
    np.testing.assert_allclose(ours.variance, exact.var(), rtol=2e-4, atol=1e-8)
    np.testing.assert_allclose(ours.unsolved, count.pmf(0), rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(ours.solved, count.pmf(group_size), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("group_size", [1, 8])
@pytest.mark.parametrize("name", ["binomial", "squared_error"])
def test_the_belief_without_a_beta_is_a_point(name, group_size):
    (outputs,) = grid()
    rate = reference.success_rate(outputs)
    evidence = jnp.ones(len(rate)), jnp.full(len(rate), 7.0)
    ours = LIKELIHOODS[name].belief(jnp.asarray(outputs, jnp.float32), *evidence, group_size)
    np.testing.assert_allclose(ours.success_rate, rate, rtol=1e-5)
    np.testing.assert_array_equal(ours.alpha, ours.success_rate)
    np.testing.assert_allclose(ours.beta, 1 - rate, rtol=1e-4)
    np.testing.assert_array_equal(ours.variance, 0)
    np.testing.assert_allclose(ours.unsolved, stats.binom.pmf(0, group_size, rate), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.solved, stats.binom.pmf(group_size, group_size, rate), rtol=1e-4, atol=1e-6)


def test_evidence_counts_only_with_a_conjugate_likelihood():
    for name, likelihood in LIKELIHOODS.items():
        assert likelihood.conjugate == (name == "beta_binomial")
        without, with_ = likelihood.belief(jnp.zeros((2, 2)), jnp.asarray([0.0, 6.0]), jnp.zeros(2), 8).success_rate
        assert (with_ > without) == likelihood.conjugate


def test_an_output_of_0_is_a_uniform_belief():
    belief = LIKELIHOODS["beta_binomial"].belief(jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1), 8)
    np.testing.assert_allclose((belief.alpha, belief.beta), 1, rtol=1e-6)
    np.testing.assert_allclose((belief.unsolved, belief.solved), 1 / 9, rtol=1e-5)


def test_no_output_makes_a_success_impossible():
    outputs = jnp.asarray([(sign * 1e6, spread) for sign in (-1, 1) for spread in (-1e6, 1e6)], jnp.float32)
    for likelihood in LIKELIHOODS.values():
        belief = likelihood.belief(outputs, jnp.zeros(4), jnp.zeros(4), 8)
        for shape in (belief.alpha, belief.beta, belief.success_rate):
            assert (shape > 0).all()
        assert all(np.isfinite(field).all() for field in belief)
        assert (belief.success_rate < 1).all()
