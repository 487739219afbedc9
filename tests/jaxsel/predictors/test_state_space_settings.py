"""The learned settings of the state-space model stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsel.predictors.state_space.settings import first_guess, learned


@pytest.mark.parametrize("direction", [[1, 1, 1, 1, 1], [0.3, 0.7, 0.1, 0.9, 0.37], [0, 1, 0, 0, 0]])
def test_settings_stay_finite_when_many_rows_are_collinear(direction):
    spread = np.array([1, 1, 1.5, 0.2, 0.01])  # of the prior
    rng, learning, learn = np.random.default_rng(0), first_guess(), jax.jit(learned)
    for _ in range(80):
        jacobian = np.outer(rng.normal(size=10_000) * 5, direction / spread)
        learning = learn(learning, jnp.asarray(jacobian, jnp.float32))
    assert np.isfinite(learning.theta).all()
    assert (learning.theta != first_guess().theta).any()


def test_an_information_that_no_solver_takes_leaves_the_settings():
    learning = first_guess()._replace(information=-1e9 * jnp.eye(5))
    found = learned(learning, jnp.zeros((1, 5)))
    np.testing.assert_array_equal(found.theta, learning.theta)
