"""The probabilities of an unsolved, mixed and solved group, compared with SciPy's Beta-Binomial distribution."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxsel.numerics import beta_binomial

SHAPES = np.array([1e-3, 0.05, 0.5, 1.0, 2.5, 30.0, 1e3, 1e5], np.float32)
ALPHA, BETA = (column.ravel() for column in np.meshgrid(SHAPES, SHAPES))


def solve_states(group_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    states = beta_binomial.solve_state_probabilities(jnp.asarray(ALPHA), jnp.asarray(BETA), group_size)
    unsolved, mixed, solved = map(np.asarray, states)
    return unsolved, mixed, solved


@pytest.mark.parametrize("group_size", [8, 16, 64, 1024])
def test_solve_state_probabilities_equal_scipys(group_size):
    exact: Any = stats.betabinom(group_size, ALPHA.astype(float), BETA.astype(float))
    # P(mixed) is summed, because even in float64 the difference 1 - P(0) - P(n) loses small values
    mixed = np.sum([exact.pmf(count) for count in range(1, group_size)], axis=0)
    unsolved, found, solved = solve_states(group_size)
    np.testing.assert_allclose(found, mixed, rtol=0, atol=1e-6)
    np.testing.assert_allclose(unsolved, exact.pmf(0), rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(solved, exact.pmf(group_size), rtol=2e-5, atol=1e-30)


def test_a_group_of_one_is_never_mixed():
    unsolved, mixed, solved = solve_states(1)
    assert (mixed == 0).all()
    total = ALPHA.astype(float) + BETA
    np.testing.assert_allclose(solved, ALPHA / total, rtol=1e-6)
    np.testing.assert_allclose(unsolved, BETA / total, rtol=1e-6)


@pytest.mark.parametrize("group_size", [2**24, 2**33])
def test_groups_of_more_rollouts_than_int32_holds(group_size):
    """With a uniform rate, all numbers of successes are equally probable."""
    one = jnp.ones(1)
    unsolved, mixed, solved = beta_binomial.solve_state_probabilities(one, one, group_size)
    np.testing.assert_allclose([unsolved, solved], 1 / (group_size + 1), rtol=5e-6)
    np.testing.assert_allclose(mixed, 1, rtol=1e-6)
