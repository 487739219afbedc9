"""Tests of the predictor `kalman`, compared with its formulas for one prompt at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import jaxsel
from jaxsel.predictors.kalman import SCALES, predicted
from tests.support.histories import random_history, rollouts
from tests.support.same_on_a_mesh import assert_same_on_a_mesh

pytestmark = pytest.mark.slow  # takes 4 s

KEY = jax.random.key(0)
N, BATCH, STEPS, Q = 9, 5, 30, 0.01
EACH = pytest.mark.parametrize("scale", SCALES)


def oracle(scale, history):
    """Return mean and variance of every prompt's success rate on this scale, after the history, in float64."""
    prior = SCALES[scale].variance
    mean, variance = np.full(N, SCALES[scale].mean), np.full(N, prior)
    for ids, successes, sizes in zip(*map(np.asarray, history), strict=True):
        variance = np.minimum(variance + Q, prior)
        for prompt in range(N):
            s, n = successes[ids == prompt].sum(), sizes[ids == prompt].sum()
            if n == 0:
                continue
            if scale == "arcsine":
                z, noise = np.arcsin(np.sqrt((s + 3 / 8) / (n + 3 / 4))), 1 / (4 * n + 2)
            else:
                z, noise = np.log((s + 0.5) / (n - s + 0.5)), 1 / (s + 0.5) + 1 / (n - s + 0.5)
            gain = variance[prompt] / (variance[prompt] + noise)
            mean[prompt] += gain * (z - mean[prompt])
            variance[prompt] *= 1 - gain
    return mean, variance


@EACH
def test_an_update_is_the_recursion_of_the_formula(scale):
    method = jaxsel.kalman(scale=scale, step_variance=Q)
    history = random_history(2, num_prompts=N, steps=STEPS, batch_size=BATCH)
    update = jax.jit(method.update)
    state = method.init(KEY, N)
    for step in range(STEPS):
        state = update(KEY, state, jax.tree.map(lambda column, step=step: column[step], history))
    mean, variance = oracle(scale, history)
    age = np.asarray(state.step - state.last_step)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-4, atol=1e-5)
    grown = np.minimum(np.asarray(state.variance) + Q * age, SCALES[scale].variance)
    np.testing.assert_allclose(grown, variance, rtol=1e-4)


@EACH
def test_predictions_are_integrals_over_the_belief(scale):
    method = jaxsel.kalman(scale=scale, group_size=4)
    state = method.update(KEY, method.init(KEY, 4), rollouts([0, 1, 2], [1, 8, 4], [8, 8, 8]))
    prediction = method.predict(KEY, state, None)
    for row in range(4):

        def expected(function, mean=float(state.mean[row]), deviation=float(state.variance[row]) ** 0.5):
            def integrand(x):
                return function(float(SCALES[scale].rate(jnp.float32(x)))) * stats.norm.pdf(x, mean, deviation)

            low, high = stats.norm.ppf([1e-7, 1 - 1e-7], mean, deviation)
            return integrate.quad(integrand, low, high, epsabs=1e-5, limit=60)[0]

        assert prediction.success_rate[row] == pytest.approx(expected(lambda p: p), abs=3e-3)
        assert prediction.solved[row] == pytest.approx(expected(lambda p: p**4), abs=6e-3)
        assert prediction.unsolved[row] == pytest.approx(expected(lambda p: (1 - p) ** 4), abs=6e-3)
    total = prediction.unsolved + prediction.mixed + prediction.solved
    np.testing.assert_allclose(total, 1, atol=1e-6)


@EACH
@pytest.mark.parametrize("group_size", [1, 8, 64, 256, 1024])
def test_the_quadrature_is_exact_near_the_ends_and_for_large_groups(scale, group_size):
    """The integrals over a dense grid are an independent computation, in float64."""
    rate = {"arcsine": lambda x: np.sin(np.clip(x, 0, np.pi / 2)) ** 2, "logit": special.expit}[scale]
    means = SCALES[scale].mean + np.linspace(-0.9, 0.9, 7) * {"arcsine": 1.0, "logit": 8.0}[scale]
    mean, share = (grid.ravel() for grid in np.meshgrid(means, [1, 0.3, 0.1, 0.01, 1e-4]))
    deviation = np.sqrt(share * SCALES[scale].variance)
    found = predicted(jnp.float32(mean), jnp.float32(deviation), jnp.float32(mean), SCALES[scale], group_size)
    z = np.linspace(-8, 8, 20_001)
    p = rate(mean[:, None] + deviation[:, None] * z)
    weights = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    unsolved, solved = (1 - p) ** group_size @ weights, p**group_size @ weights
    np.testing.assert_allclose(found.success_rate, p @ weights, atol=1e-5)
    np.testing.assert_allclose(found.variance, p**2 @ weights - (p @ weights) ** 2, atol=1e-5)
    atol = 2.5e-4 if group_size > 256 else {"arcsine": 2e-5, "logit": 1.5e-4}[scale]
    np.testing.assert_allclose(found.unsolved, unsolved, atol=atol)
    np.testing.assert_allclose(found.solved, solved, atol=atol)
    np.testing.assert_allclose(found.mixed, 1 - unsolved - solved, atol=atol)


@EACH
def test_the_prior_is_close_to_uniform(scale):
    method = jaxsel.kalman(scale=scale)
    prediction = method.predict(KEY, method.init(KEY, 5000), None)
    assert prediction.success_rate[0] == pytest.approx(0.5, abs=1e-5)
    assert prediction.variance[0] == pytest.approx(1 / 12, abs=0.01)
    assert np.asarray(prediction.draw).std() == pytest.approx(np.sqrt(prediction.variance[0]), rel=0.05)


def test_a_group_of_one_is_never_mixed():
    method = jaxsel.kalman(group_size=1)
    assert (method.predict(KEY, method.init(KEY, 3), None).mixed == 0).all()


@EACH
def test_a_belief_without_variance_predicts_its_mean(scale):
    """The padding of a mesh has mean 0 and variance 0; a NaN there would stop a run with `jax_debug_nans`."""
    mean = jnp.array([0.0, 0.5, np.pi / 2], jnp.float32)
    found, p = predicted(mean, jnp.zeros(3), jnp.zeros(3), SCALES[scale], 8), SCALES[scale].rate(mean)
    for field, expected in ((found.success_rate, p), (found.unsolved, (1 - p) ** 8), (found.solved, p**8)):
        np.testing.assert_allclose(field, expected, atol=1e-5)


@EACH
def test_probabilities_are_at_most_1_in_spite_of_rounding(scale):
    means = SCALES[scale].mean + np.linspace(-3, 3, 400)
    mean, share = (jnp.asarray(grid.ravel(), jnp.float32) for grid in np.meshgrid(means, np.linspace(0, 1, 20)))
    found = predicted(mean, share * np.sqrt(SCALES[scale].variance), jnp.zeros_like(mean), SCALES[scale], 8)
    for field in found:
        assert ((field >= 0) & (field <= 1)).all()


@pytest.mark.usefixtures("on_cpu")
def test_a_mesh_makes_the_same_choices(tmp_path):
    assert_same_on_a_mesh(jaxsel.kalman(), 3, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"scale": "probit"}, "scale is 'probit'; give one of"), ({"step_variance": -1.0}, "step_variance is -1")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.kalman(**arguments)
