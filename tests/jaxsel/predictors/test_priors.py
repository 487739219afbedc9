"""Success rates that are known before training give every method its first belief."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsel
from jaxsel.predictors.state_space import prior_rates
from tests.support.small_gps import TINY

pytestmark = pytest.mark.slow  # takes 8 s: every method with several priors

KEY = jax.random.key(0)
RATES = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, np.nan])
ALPHA, BETA = jaxsel.informative_prior(RATES * 16, 16)
EMBEDDINGS = np.stack([np.nan_to_num(RATES, nan=0.9), np.ones(8)], 1).astype(np.float32)
PRIOR = {"prior_alpha": ALPHA, "prior_beta": BETA}
METHODS = {
    "mopps": lambda **prior: jaxsel.mopps(**prior),
    "threshold": lambda **prior: jaxsel.threshold(**prior),
    "uniform": lambda **prior: jaxsel.uniform(**prior),
    "dps": lambda **prior: jaxsel.dps(**prior),
    "gps": lambda **prior: jaxsel.gps(EMBEDDINGS, **TINY, **prior),
    "adaptive": lambda **prior: jaxsel.adaptive(**prior),
    "adaptive with embeddings": lambda **prior: jaxsel.adaptive(EMBEDDINGS, **prior),
}


def test_informative_prior_counts_successes_and_failures():
    alpha, beta_ = jaxsel.informative_prior(np.array([0, 3, 8]), 8)
    np.testing.assert_array_equal(alpha, [1, 10, 25])
    np.testing.assert_array_equal(beta_, [25, 16, 1])
    np.testing.assert_array_equal(jaxsel.informative_prior([1], [2], strength=0.0), [[1], [1]])


def test_counts_may_be_fractions_and_missing():
    alpha, beta = jaxsel.informative_prior([0.5, None, np.nan, 2], [4, 4, 4, None], strength=2)
    np.testing.assert_array_equal(alpha, [2, 1, 1, 1])
    np.testing.assert_array_equal(beta, [8, 1, 1, 1])


def test_masked_counts_are_missing():
    masked = np.ma.masked_equal([4, 8, 2], 8)
    np.testing.assert_array_equal(jaxsel.informative_prior(masked, 8), jaxsel.informative_prior([4, None, 2], 8))
    np.testing.assert_array_equal(
        jaxsel.informative_prior([4, 1, 2], masked), jaxsel.informative_prior([4, 1, 2], [4, None, 2])
    )


def test_lists_of_rewards_are_counted():
    rewards = [[1.0, 0.0, 1.0], [], [None, 0.2, float("inf"), 0.9], np.array([True, False])]
    found = jaxsel.informative_prior(rewards)
    np.testing.assert_array_equal(found, jaxsel.informative_prior([2, 0, 1, 1], [3, 0, 2, 2]))
    np.testing.assert_array_equal(jaxsel.informative_prior(np.eye(2)), jaxsel.informative_prior([1, 1], 2))
    np.testing.assert_array_equal(
        jaxsel.informative_prior(rewards, threshold=0.1), jaxsel.informative_prior([2, 0, 2, 1], [3, 0, 2, 2])
    )
    rounded = np.array([[0.1, 0.1, 1.0]], np.float32)  # in float32, 0.1 is larger than Python's 0.1
    np.testing.assert_array_equal(jaxsel.informative_prior(rounded, threshold=0.1), jaxsel.informative_prior([1], 3))


@pytest.mark.parametrize(
    ("successes", "group_size", "message"),
    [
        ([1, 9], 8, r"successes\[1\] is 9 of 8 rollouts; give at most group_size"),
        (["x"], 8, "successes is not an array of numbers"),
        ([[1]], 8, r"successes has shape \(1, 1\)"),
        ([1, 2], [8, 8, 8], "successes has 2 entries and group_size 3"),
        ([np.inf], 8, r"successes\[0\] is inf; give a number of at least 0, or None"),
        ([-1], 8, r"successes\[0\] is -1"),
        ([1], -8, r"group_size\[0\] is -8"),
        ([1, 2], None, r"successes\[0\] is 1; give group_size, or one list of rewards per prompt"),
        ([[1], "10"], None, r"successes\[1\] is '10'; give group_size"),
        ([[1], [0, "1"]], None, r"successes\[1\] is \[0, '1'\]; give group_size"),
    ],
)
def test_informative_prior_refuses_bad_counts(successes, group_size, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.informative_prior(successes, group_size)


@pytest.mark.parametrize("name", METHODS)
def test_first_predictions_follow_the_rates(name):
    selector = jaxsel.PromptSelector(METHODS[name](**PRIOR), num_prompts=8)
    prediction = selector.predict()
    known = prediction.success_rate[:-1]
    assert (np.diff(known) > -1e-6).all()
    assert known[0] < 0.2
    assert known[-1] > 0.8
    assert np.argmax(prediction.mixed[:-1]) in (2, 3, 4)
    # nothing is known about the last prompt, so its variance is about that without a prior
    plain = jaxsel.PromptSelector(METHODS[name](), num_prompts=8).predict()
    if name != "adaptive with embeddings":
        assert prediction.variance[-1] == pytest.approx(plain.variance[-1], abs=0.06)


@pytest.mark.parametrize("name", METHODS)
def test_a_uniform_prior_changes_nothing(name):
    plain, flat = METHODS[name](), METHODS[name](prior_alpha=np.ones(8), prior_beta=np.ones(8))
    for one, other in zip(*(jaxsel.PromptSelector(m, num_prompts=8).predict() for m in (plain, flat)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("large", [1e12, 1e30])
def test_every_strong_prior_is_a_belief(name, large):
    prior = np.where(np.arange(8) == 3, large, 1)
    found = jaxsel.PromptSelector(METHODS[name](prior_alpha=prior, prior_beta=prior), num_prompts=8).predict()
    assert all(np.isfinite(field).all() for field in found)
    np.testing.assert_allclose(found.success_rate[3], 0.5, atol=0.01)


@pytest.mark.parametrize("name", METHODS)
def test_priors_of_another_pool_are_refused(name):
    method = METHODS[name](prior_alpha=np.full(7, 2.0))
    with pytest.raises(ValueError, match=r"has 7 (entries|rows) for 8 prompts"):
        jaxsel.PromptSelector(method, num_prompts=8)
    with pytest.raises(ValueError, match="prior_alpha is 0"):
        METHODS[name](prior_alpha=0.0)


def test_priors_that_cannot_be_used_are_named():
    with pytest.raises(ValueError, match="prior_alpha has 8 entries and prior_beta 7; give one number or one entry"):
        jaxsel.dps(prior_alpha=ALPHA, prior_beta=BETA[:7])
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"prior_alpha is not an array of numbers on the host .*requires grad"):
        jaxsel.mopps(prior_alpha=torch.ones(8, requires_grad=True))
    with pytest.raises(ValueError, match=r"prior_beta is .* give numbers above 0 and up to 1e30"):
        jaxsel.mopps(prior_beta=3e38)


@pytest.mark.parametrize("value", ["3", ["3", "9"], [3, "9"], np.array(["2026-01-01"], "datetime64[D]")])
def test_texts_and_times_are_no_numbers(value):
    with pytest.raises(ValueError, match=r"prior_alpha is not an array of numbers on the host .* texts or times"):
        jaxsel.mopps(prior_alpha=value)


def test_dps_starts_with_the_beta_binomial_of_the_prior():
    unsolved, mixed, solved = jaxsel.PromptSelector(
        jaxsel.dps(prior_alpha=ALPHA, prior_beta=BETA, group_size=4), num_prompts=8
    ).predict()[3:]
    for counted, found in ((0, unsolved), (4, solved)):
        exact = stats.betabinom.pmf(counted, 4, ALPHA[:-1], BETA[:-1])
        np.testing.assert_allclose(found[:-1], exact, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose((unsolved[-1], mixed[-1], solved[-1]), 1 / 3, rtol=1e-6)


def test_known_rates_teach_the_weights():
    """Two thirds of the rates are known. They teach how embeddings determine rates, which predicts the other third."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(300, 4)).astype(np.float32)
    rates = 1 / (1 + np.exp(-2 * embeddings[:, 0]))
    known = np.arange(300) % 3 > 0
    alpha, beta = jaxsel.informative_prior(np.where(known, rates * 16, np.nan), 16, strength=1)
    method = jaxsel.state_space(embeddings, prior_alpha=alpha, prior_beta=beta)
    predicted = np.asarray(method.predict(KEY, method.init(KEY, 300), None).success_rate)
    assert np.corrcoef(stats.rankdata(predicted[~known]), stats.rankdata(rates[~known]))[0, 1] > 0.95
    assert np.abs(predicted[known] - rates[known]).max() < 0.15


def test_the_papers_own_gps_takes_no_prior():
    with pytest.raises(ValueError, match="decay is None, so a prompt's own evidence does not count"):
        jaxsel.gps(EMBEDDINGS, decay=None, **PRIOR, **TINY)


def test_many_priors_of_the_state_space_model_are_taken_in_by_blocks(monkeypatch):
    alpha, beta = jaxsel.informative_prior(np.arange(41) % 9, 8)
    method = jaxsel.state_space(prior_alpha=alpha, prior_beta=beta)
    whole = method.init(jax.random.key(0), 41)
    monkeypatch.setattr(prior_rates, "_ROWS", 16)
    jax.clear_caches()
    unknown = jaxsel.state_space().init(jax.random.key(0), 41)
    program = str(jax.make_jaxpr(prior_rates._conditioned)(unknown, jnp.arange(8), jnp.ones(41), jnp.ones(41)))
    assert "f32[49,16]" in program
    assert "f32[49,41]" not in program
    blocks = method.init(jax.random.key(0), 41)
    jax.clear_caches()
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
