"""Frozen prompts in the state-space predictor: prompts that are solved never or always."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

import jaxsel
from jaxsel import PromptSelector
from jaxsel.predictors.state_space.filtering import logits
from jaxsel.predictors.state_space.frozen import Probabilities, evidence, frozen_prompts
from tests.support.histories import random_history, rollouts
from tests.support.playing import choices, mesh_of

N, KEY = 40, jax.random.key(0)
EMBEDDINGS = np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32)


@functools.cache
def predictor(frozen: bool = True) -> jaxsel.Predictor:
    return jaxsel.state_space(EMBEDDINGS, frozen=frozen)


@functools.cache
def compiled():
    return jax.jit(predictor().update), jax.jit(lambda state, key: predictor().predict(key, state, None))


@jax.jit
def probabilities(state, rows):
    """Return the probabilities that prompts are unsolved, free or solved, and the moments of their logits."""
    mean, variance = logits(state, rows)
    rows = slice(None) if rows is None else rows
    return frozen_prompts(state, state.frozen, state.learning.thawing, rows, mean, variance), mean, variance


def visited(*batches: tuple[list[int], list[int]]):
    state, update = predictor().init(KEY, N), compiled()[0]
    for ids, successes in batches:
        state = update(KEY, state, rollouts(ids, successes, [8] * len(ids)))
    return state


def selector() -> jaxsel.Selector:
    return jaxsel.make_selector(predictor(), jaxsel.expected_variance(log=True), jaxsel.gumbel_top_k(1 / 3))


def test_a_visit_changes_the_probabilities_by_bayes_theorem():
    before = visited(([0, 1, 2, 3], [0, 8, 4, 8]))
    rows = jnp.array([1, 5, 6, 7])
    prior, mean, variance = probabilities(before, rows)
    successes = np.array([8, 0, 8, 3])
    after = compiled()[0](KEY, before, rollouts(rows, successes, [8] * 4))
    for i, s in enumerate(successes):

        def joint(eta: float, i: int = i, s: int = s) -> float:
            density = scipy.stats.norm.pdf(eta, float(mean[i]), float(variance[i]) ** 0.5)
            return density * scipy.special.expit(eta) ** s * scipy.special.expit(-eta) ** (8 - s)

        free, _ = scipy.integrate.quad(joint, -40, 40, limit=200)
        unsolved, solved = float(prior.unsolved[i]) * (s == 0), float(prior.solved[i]) * (s == 8)
        total = float(prior.free[i]) * free + unsolved + solved
        assert float(after.frozen[rows[i]]) == pytest.approx((solved - unsolved) / total, abs=2e-3)
    assert after.frozen[7] == 0  # a mixed group
    assert after.frozen[5] < 0 < after.frozen[1]


def test_derivatives_are_those_of_the_log_probability():
    state = visited(([0, 1, 2], [0, 8, 4]), ([4, 5], [0, 3]))
    rows = jnp.array([0, 1, 2, 8])
    visits = rollouts(rows, [0, 0, 8, 8], [8] * 4)
    mean, variance = logits(state, rows)
    likelihood = jnp.log(jnp.array([0.3, 0.01, 0.02, 0.2]))

    def found(theta):
        other = state._replace(learning=state.learning._replace(theta=theta))
        return evidence(other, state.frozen, rows, mean, variance, likelihood, visits)

    def log_probability(theta):
        return found(theta).log_probability

    theta = state.learning.theta
    jacobian, expected = jax.jit(lambda theta: (found(theta).jacobian, jax.jacfwd(log_probability)(theta)))(theta)
    np.testing.assert_allclose(jacobian, expected, atol=1e-5)
    assert (np.abs(np.asarray(jacobian)[:, -2:]) > 1e-3).any(0).all()


def test_large_groups_do_not_underflow():
    """The probability of 500 successes in a certain order is 1e-301 at most, below every float32."""
    state, update = predictor().init(KEY, N), compiled()[0]
    for successes in (1000, 1000, 500, 0):
        state = update(KEY, state, rollouts([3], [successes], [1000]))
        assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(state))
        assert np.sign(float(state.frozen[3])) == (successes == 1000)
        if successes == 500:
            assert float(state.log_score) < 1000 * np.log(0.5)
    always = visited(*[([3], [8])] * 40)
    assert float(visited(*[([3], [8])] * 40, ([3], [4])).frozen[3]) == 0 < float(always.frozen[3])


def test_predictions_are_those_of_a_mixture():
    state = visited((list(range(8)), [0, 8, 0, 8, 4, 1, 7, 8]), ([0, 1], [0, 8]))
    prediction = compiled()[1](state, KEY)
    np.testing.assert_allclose(prediction.unsolved + prediction.mixed + prediction.solved, 1, atol=1e-6)
    draws = np.stack([compiled()[1](state, key).draw for key in jax.random.split(KEY, 2000)])
    # six standard errors of 2,000 draws
    error = 6 * np.sqrt(np.asarray(prediction.variance) / 2000)
    assert (np.abs(draws.mean(0) - prediction.success_rate) < error + 1e-3).all()
    np.testing.assert_allclose(draws.var(0), prediction.variance, rtol=0.25, atol=2e-3)
    now, *_ = probabilities(state, None)
    share = np.mean(draws > 1 - 1e-6, 0) - np.asarray(now.solved)
    assert (np.abs(share) < 6 * 0.5 / np.sqrt(2000)).all()


def test_prompts_thaw_while_they_are_not_visited():
    state = visited(([0, 1], [8, 8]))
    at_once, *_ = probabilities(state, None)
    thawed, *_ = probabilities(state._replace(step=state.step + 30), None)
    kept = np.exp(-30 * float(state.learning.thawing.speed))
    np.testing.assert_allclose(np.divide(thawed.solved, at_once.solved)[:2], kept, rtol=1e-4)
    np.testing.assert_allclose(1 - thawed.free[2:], kept * (1 - at_once.free[2:]), rtol=1e-4)


def test_the_share_of_frozen_prompts_is_learned():
    """Seven of ten prompts are frozen; a model of logits alone predicts too many mixed groups."""
    rng, size, batch = np.random.default_rng(3), 2000, 32
    ends, logit = (rng.random(size) < 0.5).astype(float), rng.normal(0, 1, size)
    rates = np.where(rng.random(size) < 0.7, ends, 1 / (1 + np.exp(-logit)))
    batches = np.arange(640).reshape(20, batch)
    successes = rng.binomial(8, rates[batches])
    mixed = (1 - rates**8 - (1 - rates) ** 8)[640:].mean()
    error = {}
    for frozen in (True, False):
        method = jaxsel.state_space(frozen=frozen)
        state, update = method.init(KEY, size), jax.jit(method.update)
        for ids, solved in zip(batches, successes, strict=True):
            state = update(KEY, state, rollouts(ids, solved, [8] * batch))
        found = np.asarray(jax.jit(lambda state, method=method: method.predict(KEY, state, None).mixed)(state))
        error[frozen] = abs(float(found[640:].mean()) - mixed)
        if frozen:
            assert float(state.metrics()["frozen_share"]) == pytest.approx(0.7, abs=0.1)
    assert error[True] < 0.05
    assert error[False] > 0.08


def test_probabilities_stay_between_0_and_1_in_spite_of_rounding():
    """Here all prompts are frozen for certain, so that every rounding error would show."""
    state, rows = predictor().init(KEY, N), jnp.arange(N, dtype=jnp.int32)
    seen = jnp.asarray(np.random.default_rng(5).uniform(0.3, 1, N) * np.where(np.arange(N) % 2, 1, -1), jnp.float32)
    state = state._replace(frozen=seen, last_step=jnp.full(N, 3, jnp.int32), step=jnp.int32(4))
    visits = rollouts(rows, np.where(np.arange(N) % 2, 64, 0), [64] * N)

    @jax.jit
    def seen_after(state):
        return evidence(state, state.frozen, rows, jnp.zeros(N), jnp.ones(N), jnp.full(N, -80.0), visits).seen

    found = seen_after(state)
    assert (np.abs(np.asarray(found)) <= 1).all()
    assert (np.abs(np.asarray(found)) > 1 - 1e-5).all()
    assert Probabilities(jnp.array([0.7]), jnp.array([0.3000001])).free == 0


def test_long_runs_stay_finite():
    history = random_history(3, num_prompts=N, steps=60, batch_size=8)
    always = jaxsel.Rollouts(*(jnp.asarray(column) for column in rollouts([3], [8], [8])))
    state, update = predictor().init(KEY, N), compiled()[0]
    for step in range(120):
        state = update(KEY, state, always if step % 2 else jax.tree.map(lambda column, k=step // 2: column[k], history))
    for leaf in jax.tree.leaves((state, compiled()[1](state, KEY))):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    assert (np.abs(np.asarray(state.frozen)) <= 1).all()
    assert {"frozen_share", "thaw_speed"} <= set(state.metrics())


def test_without_the_option_nothing_changes():
    state = predictor(frozen=False).init(KEY, N)
    assert state.frozen is None
    assert [predictor(frozen=frozen).spec["frozen"] for frozen in (False, True)] == [False, True]
    assert "frozen_share" not in state.metrics()


def test_a_checkpoint_from_before_the_option_loads():
    live, again = (PromptSelector(jaxsel.adaptive(), num_prompts=N, seed=seed) for seed in (1, 2))
    live.observe([0], [8], 8)
    saved = live.state_dict()
    del saved["metadata"]["spec"]["predictor"]["frozen"]
    again.load_state_dict(saved)
    np.testing.assert_array_equal(again.predict().mixed, live.predict().mixed)


def test_known_solve_rates_count_like_visits():
    alpha, beta = np.ones(N), np.ones(N)
    alpha[0], beta[1], alpha[2], beta[2] = 9, 9, 5, 5
    state = jaxsel.state_space(prior_alpha=alpha, prior_beta=beta, frozen=True).init(KEY, N)
    assert state.frozen[0] > 0 > state.frozen[1]
    assert state.frozen[2] == state.frozen[3] == 0


def test_checkpoints_and_changed_pools_keep_the_belief(tmp_path):
    keys = [f"prompt {i}" for i in range(N)]
    live = PromptSelector(selector(), keys=keys, seed=1)
    live.observe([0, 1], [8, 0], 8)
    live.save(tmp_path)
    again = PromptSelector.load(tmp_path, selector(), keys=keys)
    np.testing.assert_array_equal(live.predict().mixed, again.predict().mixed)
    order = list(reversed(range(N)))
    other = jaxsel.make_selector(
        jaxsel.state_space(EMBEDDINGS[order], frozen=True),
        jaxsel.expected_variance(log=True),
        jaxsel.gumbel_top_k(1 / 3),
    )
    changed = PromptSelector(other, keys=[keys[i] for i in order], seed=1)
    changed.load_state_dict(live.state_dict(), changed_pool=True)
    np.testing.assert_allclose(changed.predict().mixed[::-1], live.predict().mixed, rtol=1e-5)
    plain = jaxsel.make_selector(jaxsel.state_space(frozen=True), jaxsel.expected_variance(), jaxsel.top_k())
    alone = PromptSelector(plain, num_prompts=N, seed=1)
    alone.observe([0], [8], 8)
    alone.save(tmp_path / "alone")
    rebuilt = PromptSelector.load(tmp_path / "alone")
    np.testing.assert_array_equal(rebuilt.predict().mixed, alone.predict().mixed)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_a_mesh_chooses_like_one_device():
    one = PromptSelector(selector(), num_prompts=N, seed=1)
    several = PromptSelector(selector(), num_prompts=N, seed=1, mesh=mesh_of(2))
    assert choices(one) == choices(several)


@pytest.mark.usefixtures("unchecked_types")
def test_a_wrong_value_is_named():
    wrong: Any = "yes"
    with pytest.raises(ValueError, match="frozen is 'yes'; give True or False"):
        jaxsel.state_space(frozen=wrong)
