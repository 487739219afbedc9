"""Tests of the selector with a moving target, against a computation in NumPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel.selection import paced as paced_module

N, B = 60, 8
KEY = jax.random.key(0)


def observed(selector, successes, steps=1):
    """Return the state after some steps in which every prompt had 8 rollouts with these successes."""
    state, update = selector.init(KEY, N), jax.jit(selector.update)
    rollouts = jaxsel.Rollouts(jnp.arange(N), jnp.asarray(successes, jnp.int32), jnp.full(N, 8))
    for _ in range(steps):
        state = update(KEY, state, rollouts)
    return state


def hardest(prediction, temperature, tolerance):
    """Return the target of the module's docstring, as a success rate."""
    p, mixed = (np.asarray(field, float) for field in (prediction.success_rate, prediction.mixed))
    angles = np.asarray(paced_module._TARGETS, float)
    width = np.minimum(np.sin(angles), np.cos(angles)) / np.sqrt(2)
    kernel = np.exp(-((np.arcsin(np.sqrt(p)) - angles[:, None]) ** 2) / (2 * width[:, None] ** 2))
    weights = (kernel * mixed) ** (1 / temperature)
    shares = (weights * mixed).sum(1) / weights.sum(1)
    return np.sin(angles[np.flatnonzero(shares >= shares.max() - tolerance)[0]]) ** 2


def test_the_first_choice_is_that_of_the_constant_target():
    plain = jaxsel.make_selector(
        jaxsel.kalman(), jaxsel.mixed_near_target(0.3, log=True), jaxsel.gumbel_top_k(0.3), method="plain"
    )
    moving = jaxsel.paced(jaxsel.kalman(), target=0.3)
    one, other = (s.select(KEY, s.init(KEY, N), B) for s in (plain, moving))
    np.testing.assert_array_equal(one.prompt_ids, other.prompt_ids)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


@pytest.mark.parametrize(("tolerance", "temperature"), [(0.03, 0.3), (0.0, 1.0), (0.2, 0.5)])
def test_the_target_moves_to_the_hardest_one_that_is_good_enough(tolerance, temperature):
    successes = np.arange(N) % 9
    settings = {"tolerance": tolerance, "temperature": temperature}
    at_once = jaxsel.paced(jaxsel.kalman(), max_step=2, **settings)
    state = observed(at_once, successes)
    expected = hardest(at_once.predict(KEY, state, None), temperature, tolerance)
    assert state.metrics()["target"] == pytest.approx(expected, abs=1e-5)
    slow = jaxsel.paced(jaxsel.kalman(), max_step=0.01, **settings)
    angles = [float(observed(slow, successes, steps).angle) for steps in (1, 2)]
    towards = np.sign(np.arcsin(np.sqrt(expected)) - np.pi / 4)
    np.testing.assert_allclose(angles, np.pi / 4 + towards * np.array([0.01, 0.02]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("num_prompts", "rows"), [(30, range(0, 30, 3)), (20, range(0, 20, 2)), (7, range(7))])
def test_a_large_pool_is_sampled_evenly_and_a_small_pool_as_a_whole(num_prompts, rows, monkeypatch):
    monkeypatch.setattr(paced_module, "_SAMPLE", 10)
    selector = jaxsel.paced(jaxsel.beta_bernoulli(), max_step=2, tolerance=0.1, temperature=3)
    visits = jnp.arange(num_prompts), jnp.arange(num_prompts) % 9, jnp.full(num_prompts, 8)
    state = selector.update(KEY, selector.init(KEY, num_prompts), jaxsel.Rollouts(*visits))
    expected = hardest(selector.predict(KEY, state, jnp.asarray(rows)), 3, 0.1)
    assert state.metrics()["target"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("nothing", [([0, 1], [0, 0], [0, 0]), ([-1, N], [3, 2], [8, 8])])
def test_an_update_without_a_visit_leaves_the_target(nothing):
    selector = jaxsel.paced(jaxsel.kalman())
    state = observed(selector, np.arange(N) % 9)
    again = selector.update(KEY, state, jaxsel.Rollouts(*(jnp.asarray(column, jnp.int32) for column in nothing)))
    assert again.angle == state.angle
    moved = selector.update(KEY, state, jaxsel.Rollouts(*(jnp.full(1, x, jnp.int32) for x in (3, 4, 8))))
    assert moved.angle != state.angle


def test_nothing_is_mixed_in_groups_of_one():
    selector = jaxsel.paced(jaxsel.beta_bernoulli(group_size=1))
    with jax.debug_nans(True):
        state = observed(selector, np.zeros(N))
        chosen = selector.select(KEY, state, B)
    assert state.angle == selector.init(KEY, N).angle
    assert len(set(chosen.prompt_ids.tolist())) == B
    assert np.isfinite(chosen.scores).all()


@pytest.mark.slow
def test_a_selector_saves_resumes_explores_and_changes_its_pool(tmp_path):
    live = jaxsel.PromptSelector(jaxsel.exploring(jaxsel.paced(jaxsel.kalman()), share=0.2), keys=range(N), seed=0)
    for _ in range(3):
        ids = live.select(B)
        live.observe(ids, ids % 9, 8)
    target = live.metrics()["selector/target"]
    assert target == pytest.approx(np.sin(np.pi / 4 - 3 * 0.005) ** 2, abs=1e-5)
    live.save(tmp_path / "saved")
    again = jaxsel.PromptSelector.load(tmp_path / "saved", keys=range(N))
    np.testing.assert_array_equal(again.select(B), live.select(B))
    fewer = again.with_pool(range(10, N))
    assert fewer.metrics()["selector/target"] == pytest.approx(target)
    assert len(fewer.select(B)) == B


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 1.0}, "target is 1.0; give a number from 1e-06 to 0.999999"),
        ({"target": 1 - 1e-9}, "target is 0.999999999; give a number from"),
        ({"temperature": 0}, "temperature is 0; give a finite number of at least 1e-30, or the rule top_k"),
        ({"temperature": 1e-45}, "temperature is 1e-45; give a finite number of at least 1e-30"),
        ({"tolerance": 2}, "tolerance is 2; give a number from 0 to 1"),
        ({"max_step": -1.0}, "max_step is -1.0; give a finite number of at least 0"),
        ({"rule": jaxsel.Rule({"name": "mine"}, lambda key, scores, size: scores)}, "'mine'.* no argument count"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.paced(jaxsel.kalman(), **settings)


@pytest.mark.parametrize("target", [1e-6, 1 - 1e-6])
def test_the_extreme_targets_have_finite_scores(target):
    paced = jaxsel.paced(jaxsel.kalman(), target=target)
    scores = paced.select(KEY, paced.init(KEY, N), B).scores
    assert np.isfinite(scores).all()
    constant = jaxsel.mixed_near_target(target, log=True).score(paced.predict(KEY, paced.init(KEY, N), None))
    np.testing.assert_allclose(scores, constant[:B], rtol=0.2)


def test_it_cannot_be_sharded():
    paced, mesh = jaxsel.paced(jaxsel.kalman()), jaxsel.prompts_mesh(jax.devices()[:2])
    for selector in (paced, jaxsel.exploring(paced)):
        with pytest.raises(ValueError, match="'paced' cannot be spread over a mesh; leave out mesh: the moving"):
            jaxsel.PromptSelector(selector, num_prompts=N, mesh=mesh)
