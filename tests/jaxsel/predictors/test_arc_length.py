"""Tests of the predictor `arc_length`, compared with its formulas for one prompt at a time in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel.predictors.arc_length import Motion, _believed
from tests.support.histories import random_history, rollouts
from tests.support.same_on_a_mesh import assert_same_on_a_mesh

pytestmark = pytest.mark.slow  # takes 4 s

KEY = jax.random.key(0)
N, BATCH, STEPS = 9, 5, 40
PRIOR = np.pi**2 / 16 - 0.5
METHOD = jaxsel.arc_length()
UPDATE = jax.jit(METHOD.update)


def believed(state):
    return _believed(state, state.moved, None)


def moved(mean, drift):
    return np.arctan(np.tan(mean) * np.exp(2 * drift))


def oracle(history):
    """Return the mean, variance and last step of every prompt, and v and q, after the history; step by step."""
    mean, variance = np.full(N, np.pi / 4), np.full(N, PRIOR)
    at_visit, last, used = variance.copy(), np.zeros(N, int), np.zeros(N)
    sums, drift, diffusion = np.zeros(4), 0.0, 0.001
    for step, (ids, successes, sizes) in enumerate(zip(*map(np.asarray, history), strict=True), 1):
        mean, variance, used = moved(mean, drift), np.minimum(variance + diffusion, PRIOR), used + drift
        terms, visited = np.zeros(4), False
        for prompt in np.unique(ids[(sizes > 0) & (ids >= 0) & (ids < N)]):
            s, n = successes[ids == prompt].sum(), sizes[ids == prompt].sum()
            z, noise = np.arcsin(np.sqrt((s + 3 / 8) / (n + 3 / 4))), 1 / (4 * n + 2)
            if s in (0, n):
                z, noise = np.pi / 2 * (s == n), 1 / (2 * n)
            if last[prompt]:
                age = step - last[prompt]
                spread, error, slope = variance[prompt] + noise, z - mean[prompt], age * np.sin(2 * mean[prompt])
                k = age * (variance[prompt] < PRIOR)
                excess = error**2 - at_visit[prompt] - noise
                terms += [
                    slope * (error + slope * used[prompt] / age) / spread,
                    slope**2 / spread,
                    k * excess / spread**2,
                    (k / spread) ** 2,
                ]
                visited = True
            gain = variance[prompt] / (variance[prompt] + noise)
            mean[prompt] += gain * (z - mean[prompt])
            variance[prompt] = at_visit[prompt] = gain * noise
            last[prompt], used[prompt] = step, 0
        sums = sums * (0.98 if visited else 1) + terms
        drift = sums[0] / (sums[1] + 2500)
        diffusion = np.clip((sums[2] + 1000) / (sums[3] + 1e6), 0, PRIOR)
    return mean, variance, last, drift, diffusion


def test_an_update_is_the_recursion_of_the_formulas():
    history = random_history(2, num_prompts=N, steps=STEPS, batch_size=BATCH)
    state = METHOD.init(KEY, N)
    for step in range(STEPS):
        state = UPDATE(KEY, state, jax.tree.map(lambda column, step=step: column[step], history))
    mean, variance, last, drift, diffusion = oracle(history)
    np.testing.assert_array_equal(state.last_step, last)
    now = believed(state)
    np.testing.assert_allclose(now.mean, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(now.variance, variance, rtol=1e-3)
    found = state.metrics()
    assert float(found["drift"]) == pytest.approx(4 * drift, rel=1e-3)
    assert float(found["diffusion"]) == pytest.approx(diffusion, rel=1e-2, abs=1e-6)


def known(means, drift, diffusion=0.0, variance=0.0):
    """Return a state whose prompts have moved by these sums of v and q since their visit in step 1."""
    state = METHOD.init(KEY, len(means))
    return state._replace(
        mean=jnp.asarray(means, jnp.float32),
        variance=jnp.full(len(means), variance, jnp.float32),
        last_step=jnp.ones(len(means), jnp.int32),
        step=jnp.int32(2**30),
        moved=Motion(jnp.float32(drift), jnp.float32(diffusion)),
    )


@pytest.mark.parametrize("drift", [0.25, -0.75, 0.0])
def test_the_drift_is_the_solution_of_its_differential_equation(drift):
    x = np.linspace(0, np.pi / 2, 7)
    state = known(x, drift)
    for _ in range(20_000):
        x = x + drift * np.sin(2 * x) / 20_000
    np.testing.assert_allclose(METHOD.predict(KEY, state, None).success_rate, np.sin(x) ** 2, atol=1e-4)


def test_the_drift_moves_every_logit_by_the_same_amount():
    rates = np.array([0.1, 0.5, 0.8])
    later = METHOD.predict(KEY, known(np.arcsin(np.sqrt(rates)), 0.2), None).success_rate
    odds = rates / (1 - rates) * np.exp(4 * 0.2)
    np.testing.assert_allclose(later, odds / (1 + odds), atol=1e-5)


@pytest.mark.parametrize("drift", [0.02, -0.02, 7.0, -7.0, 1e5, -1e5])
def test_a_belief_of_any_age_stays_between_never_and_always(drift):
    """The float32 next to pi / 2 lies above it."""
    with jax.debug_nans(True):
        state = known([0.0, np.pi / 2, 1e-6, 0.5], drift, variance=0.01)
        now = believed(state)
        state = UPDATE(KEY, state, rollouts([0, 1, 2, 3], [8, 0, 3, 0], [8, 8, 8, 8]))
    np.testing.assert_allclose(now.mean[:2], [0, np.pi / 2], atol=1e-6)
    assert (now.mean >= 0).all()
    assert (now.mean <= np.float32(np.pi / 2)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_the_variance_grows_at_most_to_the_priors():
    grown = [believed(known([0.5], 0.0, diffusion, 0.01)).variance[0] for diffusion in (0.05, 1e4)]
    np.testing.assert_allclose(grown, [0.06, PRIOR], rtol=1e-5)


@pytest.mark.parametrize(("shift", "jump"), [(0.06, 0.0), (-0.06, 0.0), (0.0, 0.05), (0.02, 0.03)])
def test_drift_and_diffusion_are_found(shift, jump):
    """The prompts are stationary in all but the shift of all logits per step, and a random walk in arc length."""
    rng, size, n = np.random.default_rng(0), 1000, 64
    state, x = METHOD.init(KEY, size), rng.uniform(0.6, 1.0, size)
    for _ in range(20):
        x = np.clip(moved(x, shift / 4) + jump * rng.normal(size=size), 0.2, 1.3)
        ids = rng.choice(size, 200, replace=False)
        visits = rollouts(ids, rng.binomial(n, np.sin(x[ids]) ** 2), np.full(200, n))
        state = UPDATE(KEY, state, visits)
    found = state.metrics()
    assert float(found["drift"]) == pytest.approx(shift, rel=0.1, abs=0.005)
    assert float(found["diffusion"]) == pytest.approx(jump**2, rel=0.2, abs=2e-4)


def test_first_visits_and_empty_groups_teach_nothing_about_the_motion():
    state = METHOD.init(KEY, N)
    for ids, n in (([0, 1, 2, 3], 8), ([4, 5, 6, 7], 8), ([0, 1, -1, N], 0), ([-1, N, N + 1, -5], 8)):
        state = UPDATE(KEY, state, rollouts(ids, [0, 0, 0, 0], [n] * 4))
    assert state.metrics() == {"drift": 0, "diffusion": pytest.approx(0.001)}
    assert int(state.step) == 4


def test_a_new_prompt_of_a_changed_pool_has_not_moved():
    state = known([0.5, 0.9, 1.2], 0.3, 0.02, 0.01)
    rows = np.array([2, -1, 0])
    changed = state.with_rows(rows, METHOD.init(KEY, 3))
    before, now = believed(state), believed(changed)
    np.testing.assert_array_equal(now.mean, [before.mean[2], np.float32(np.pi / 4), before.mean[0]])
    np.testing.assert_array_equal(now.variance, [before.variance[2], np.float32(PRIOR), before.variance[0]])
    assert changed.metrics() == state.metrics()


@pytest.mark.usefixtures("on_cpu")
def test_a_mesh_makes_the_same_choices(tmp_path):
    assert_same_on_a_mesh(jaxsel.arc_length(), 6, tmp_path)


def test_the_group_size_must_be_positive():
    with pytest.raises(ValueError, match="group_size is 0; give"):
        jaxsel.arc_length(group_size=0)
