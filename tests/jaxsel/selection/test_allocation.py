import itertools
from collections.abc import Iterator

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import integrate, special, stats

import jaxsel

KEY = jax.random.key(0)
STRATEGIES = ("marginal", "bins", "uniform")
RATES = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.floats(0, 1, width=32))
# variance as a share of the largest possible variance, which is mean (1 - mean)
SPREADS = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


def predicted(mean, variance) -> jaxsel.Prediction:
    """Return a Prediction whose other fields, which `allocate` must not read, are NaN."""
    mean, variance = jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32)
    return jaxsel.Prediction(mean, variance, *[jnp.full_like(mean, jnp.nan)] * 4)


def chance(mean: float, variance: float, samples: int) -> float:
    """Return P(a success in k = `samples` rollouts) = E[1 - (1 - p)^k], where p has a Beta distribution.

    `variance` must be 0 or far from 0, because the Beta functions lose their precision near 0.
    """
    if variance == 0 or mean * (1 - mean) == 0:
        return 1 - (1 - mean) ** samples
    total = mean * (1 - mean) / variance - 1
    if total < 1e-6:
        return mean * (samples > 0)
    a, b = mean * total, (1 - mean) * total
    return 1 - np.exp(special.betaln(a, b + samples) - special.betaln(a, b))


def allocations(prompts: int, budget: int, at_least: int, at_most: int) -> Iterator[tuple[int, ...]]:
    counts = itertools.product(range(at_least, at_most + 1), repeat=prompts)
    return (samples for samples in counts if sum(samples) == budget)


@hypothesis.given(
    prompts=st.lists(
        st.tuples(RATES, SPREADS.filter(lambda r: r in (0, 1) or 1e-3 < r < 0.99)), min_size=1, max_size=4
    ),
    extra=st.integers(0, 7),
    at_least=st.integers(0, 1),
    margin=st.integers(2, 7),
)
def test_marginal_is_the_best_of_all_allocations(prompts, extra, at_least, margin):
    mean, spread = np.array(prompts).T
    prediction = predicted(mean, mean * (1 - mean) * spread)
    mean, variance = (np.asarray(x, np.float64) for x in prediction[:2])
    budget, at_most = at_least * len(prompts) + min(extra, margin * len(prompts)), at_least + margin
    samples = jaxsel.allocate(prediction, budget, at_least=at_least, at_most=at_most)

    def solved(counts) -> float:
        return sum(map(chance, mean, variance, counts))

    best = max(map(solved, allocations(len(prompts), budget, at_least, at_most)))
    assert sum(samples) == budget
    np.testing.assert_allclose(solved(samples), best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("certain", [True, False])
def test_marginal_takes_the_largest_gain_at_every_step(certain):
    rng = np.random.default_rng(0)
    mean = rng.beta(0.5, 0.5, 60).astype(np.float32).astype(np.float64)
    prediction = predicted(mean, 0 if certain else mean * (1 - mean) * rng.uniform(0.01, 0.9, 60))
    variance = np.broadcast_to(np.asarray(prediction.variance, np.float64), mean.shape)
    gain = np.diff([[chance(m, v, k) for m, v in zip(mean, variance, strict=True)] for k in range(120)], axis=0)
    assert (np.diff(gain, axis=0) < 1e-9).all()
    samples = np.zeros(60, int)
    for _ in range(600):
        samples[np.argmax(gain[samples, range(60)])] += 1
    assert samples.max() < 110
    np.testing.assert_array_equal(jaxsel.allocate(mean if certain else prediction, 600), samples)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (0.5, 3), (20, 0.5), (0.6, 0.6), (300, 700)])
@pytest.mark.parametrize("samples", [0, 1, 2, 7, 50, 1000])
def test_expected_solved_is_the_integral_over_the_beta(a, b, samples):
    def integrand(angle: float) -> float:  # p = sin(angle)^2 makes it finite at both ends
        density = 2 * np.sin(angle) ** (2 * a - 1) * np.cos(angle) ** (2 * b - 1)
        return density * (1 - np.cos(angle) ** (2 * samples))

    places = np.linspace(0, np.pi / 2, 30)
    integral = sum(integrate.quad(integrand, low, high)[0] for low, high in itertools.pairwise(places))
    mean, variance = stats.beta.stats(a, b)
    solved = jaxsel.expected_solved(predicted([mean], [variance]), np.array([samples]))
    np.testing.assert_allclose(solved, integral / special.beta(a, b), rtol=1e-5)


def test_expected_solved_matches_simulated_rollouts():
    rng = np.random.default_rng(0)
    a, b, samples = rng.uniform(0.2, 5, 50), rng.uniform(0.2, 5, 50), rng.integers(0, 8, 50)
    rates = rng.beta(a, b, (20_000, 50))
    solved = rng.binomial(samples, rates) > 0
    mean, variance = stats.beta.stats(a, b)
    expected = jaxsel.expected_solved(predicted(mean, variance), samples)
    assert abs(solved.sum(1).mean() - expected) < 5 * np.sqrt(50 / 4 / 20_000)
    np.testing.assert_allclose(jaxsel.expected_solved(mean, samples), (1 - (1 - mean) ** samples).sum(), rtol=1e-12)


def test_uncertainty_saves_samples_on_prompts_that_may_be_hopeless():
    """Both success rates have mean 0.1. The second one is 0 with probability 0.9, and 1 with probability 0.1."""
    prediction = predicted([0.1, 0.1], [0.0, 0.09])
    np.testing.assert_array_equal(jaxsel.allocate(prediction, 20), [19, 1])
    np.testing.assert_array_equal(jaxsel.allocate(prediction.success_rate, 20), [10, 10])
    np.testing.assert_allclose(jaxsel.expected_solved(prediction, np.array([19, 1])), 1 - 0.9**19 + 0.1, rtol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
@hypothesis.given(
    prompts=st.lists(st.tuples(RATES, SPREADS), min_size=1, max_size=12),
    extra=st.integers(0, 100),
    at_least=st.integers(0, 3),
    margin=st.integers(1, 20),
)
def test_the_budget_is_spent_within_the_limits_and_a_larger_budget_lowers_no_count(
    strategy, prompts, extra, at_least, margin
):
    mean, spread = np.array(prompts).T
    prediction = predicted(mean, mean * (1 - mean) * spread)
    extra = min(extra, margin * len(prompts) - 1)
    limits = {"strategy": strategy, "at_least": at_least, "at_most": at_least + margin}
    budget = at_least * len(prompts) + extra
    samples, more = (jaxsel.allocate(prediction, spend, **limits) for spend in (budget, budget + 1))
    assert samples.dtype == np.int32
    assert samples.sum() == budget
    assert ((at_least <= samples) & (samples <= at_least + margin)).all()
    assert ((more - samples) >= 0).all()
    assert more.sum() == budget + 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rate", [0.0, 1e-20, 0.2, 0.5, 1.0])
def test_equal_prompts_share_evenly_and_the_first_get_the_rest(strategy, rate):
    mean = np.array([rate] * 7 + [0.6] * 4)
    prediction = predicted(mean, mean * (1 - mean) / 5)
    for budget in (3, 25, 1000):
        for argument in (mean, prediction):
            samples = jaxsel.allocate(argument, budget, strategy=strategy)
            for equal in (samples[:7], samples[7:]):
                assert equal[0] - equal[-1] in (0, 1)
                assert (np.diff(equal) <= 0).all()


def test_hopeless_and_certain_prompts_get_samples_only_without_any_gain_left():
    rates = np.array([0.0, 1.0, 0.5, 0.0])
    np.testing.assert_array_equal(jaxsel.allocate(rates, 30), [0, 1, 29, 0])
    np.testing.assert_array_equal(jaxsel.allocate(rates, 4, at_most=1), [1, 1, 1, 1])
    np.testing.assert_array_equal(jaxsel.allocate(rates, 10, at_most=4), [2, 2, 4, 2])
    np.testing.assert_array_equal(jaxsel.allocate(np.array([0.0, 0.0, 1.0]), 8), [3, 3, 2])


def test_at_least_is_given_before_the_gains_are_compared():
    rates = np.array([0.01, 0.6, 0.5])
    np.testing.assert_array_equal(jaxsel.allocate(rates, 7, at_least=2), [2, 2, 3])


def test_bins_spend_in_proportion():
    rates = np.random.default_rng(0).uniform(size=997)
    edges, weights = (0.1, 0.3, 0.7, 0.9), np.array([1.0, 8, 4, 2, 0])
    bins = np.searchsorted(edges, rates, side="right")
    for budget in (50, 997, 12_345):
        samples = jaxsel.allocate(rates, budget, strategy="bins", edges=edges, weights=weights)
        quota = budget * weights[bins] / weights[bins].sum()
        assert (abs(samples - quota) < 1 + 1e-9).all()
        spent, due = (np.bincount(bins, weights=x, minlength=5) for x in (samples, quota))
        assert (abs(spent - due) < 1).all()


def test_bins_at_their_edges_and_limits():
    rates = np.array([0.0, 0.25, 0.25, 0.75, 1.0])
    spend = {"strategy": "bins", "edges": (0.25, 0.75), "weights": (0, 4, 1)}
    np.testing.assert_array_equal(jaxsel.allocate(rates, 10, **spend), [0, 4, 4, 1, 1])
    np.testing.assert_array_equal(jaxsel.allocate(rates, 10, at_least=1, **spend), [1, 4, 3, 1, 1])
    np.testing.assert_array_equal(jaxsel.allocate(rates, 10, at_most=3, **spend), [0, 3, 3, 2, 2])
    np.testing.assert_array_equal(jaxsel.allocate(rates, 14, at_most=3, **spend), [2, 3, 3, 3, 3])
    np.testing.assert_array_equal(
        jaxsel.allocate(rates, 7, strategy="bins", edges=(), weights=(3,)),
        jaxsel.allocate(rates, 7, strategy="uniform"),
    )


def test_bins_are_rounded_as_sainte_lague_does():
    spend = {"strategy": "bins", "edges": (0.5,), "weights": (10, 1)}
    for budget, samples in ((5, [5, 0]), (6, [5, 1]), (16, [15, 1]), (17, [15, 2])):
        np.testing.assert_array_equal(jaxsel.allocate(np.array([0.2, 0.8]), budget, **spend), samples)


def test_uniform_spends_the_rest_on_the_first_rows():
    np.testing.assert_array_equal(jaxsel.allocate(np.full(4, 0.5), 10, strategy="uniform"), [3, 3, 2, 2])


@pytest.mark.parametrize("predictor", [jaxsel.beta_bernoulli(), jaxsel.hidden_markov()])
def test_predictions_of_predictors_are_accepted(predictor):
    state = predictor.init(KEY, 500)
    rows = jnp.arange(300)
    state = jax.jit(predictor.update)(KEY, state, jaxsel.Rollouts(rows, rows % 9, jnp.full(300, 8)))
    prediction = jax.jit(predictor.predict)(KEY, state, None)
    samples = jaxsel.allocate(prediction, 3000)
    even = jaxsel.allocate(prediction, 3000, strategy="uniform")
    assert samples.sum() == 3000
    assert jaxsel.expected_solved(prediction, samples) > jaxsel.expected_solved(prediction, even)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")  # run-time type checks for every sample are slow
def test_a_million_samples_for_a_hundred_thousand_prompts():
    rng = np.random.default_rng(0)
    mean = rng.beta(0.5, 0.5, 100_000)
    prediction = predicted(mean, mean * (1 - mean) / 6)
    samples = jaxsel.allocate(prediction, 1_000_000)
    assert samples.sum() == 1_000_000
    one_less = np.maximum(samples - 1, 0)
    mean, variance = (np.asarray(x, np.float64) for x in prediction[:2])
    inside = (variance > 0) & (mean > 1e-6) & (mean < 1 - 1e-6)
    total = mean[inside] * (1 - mean[inside]) / variance[inside] - 1
    a, b = mean[inside] * total, (1 - mean[inside]) * total
    last, following = (np.exp(special.betaln(a + 1, b + k[inside]) - special.betaln(a, b)) for k in (one_less, samples))
    # moving any sample to another prompt gains nothing
    assert last[samples[inside] > 0].min() >= following.max() * (1 - 1e-6)


def test_rounding_past_the_limits_is_forgiven():
    prediction = predicted([1 + 1e-7, -1e-7, 0.5], [0.0, 0.0, 0.25 + 1e-7])
    np.testing.assert_array_equal(jaxsel.allocate(prediction, 3), [1, 1, 1])
    np.testing.assert_allclose(jaxsel.expected_solved(prediction, np.array([1, 1, 1])), 1.5)
    # 0.2 exceeds the largest variance for a mean of 0.1, which is 0.09, and counts as 0.09
    np.testing.assert_allclose(jaxsel.expected_solved(predicted([0.1], [0.2]), np.array([9])), 0.1, rtol=1e-6)


HALVES = np.full(3, 0.5)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.array([0.5, np.nan]), 1), {}, r"prediction\[1\] is nan; give numbers from 0 to 1"),
        ((np.array([np.inf]), 1), {}, r"prediction\[0\] is inf"),
        ((np.array([0.5, 1.5]), 1), {}, r"prediction\[1\] is 1\.5; give numbers from 0 to 1"),
        ((np.array([-0.5]), 1), {}, r"prediction\[0\] is -0\.5"),
        ((np.zeros((2, 2)), 1), {}, r"prediction has shape \(2, 2\); give a vector"),
        ((["easy"], 1), {}, "prediction is not an array of numbers on the host .*; give a vector of numbers"),
        ((np.zeros(0), 0), {}, "prediction has 0 prompts; give at least one"),
        ((predicted([0.5, 2.0], [0, 0]), 1), {}, r"success_rate\[1\] is 2\.0; give numbers from 0 to 1"),
        ((predicted([0.5], [0.3]), 1), {}, r"variance\[0\] is 0\.3\d*; give numbers from 0 to 0\.25"),
        ((predicted([0.5], [np.nan]), 1), {}, r"variance\[0\] is nan"),
        ((HALVES, -1), {}, "budget is -1; give an integer from 0 to 2147483647"),
        ((HALVES, True), {}, "budget is True; give an integer"),
        ((HALVES, 5.0), {}, r"budget is 5\.0; give an integer"),
        ((HALVES, 5), {"at_least": -1}, "at_least is -1; give an integer"),
        ((HALVES, 5), {"at_least": 2}, "budget is 5; give 6 or more, or another at_least than 2"),
        ((HALVES, 5), {"at_most": 1}, "at_most is 1; give 2 or more, or another budget than 5"),
        ((HALVES, 6), {"at_least": 2, "at_most": 1}, "at_most is 1; give an integer from 2"),
        ((HALVES, 6), {"at_most": 2.0}, r"at_most is 2\.0; give an integer"),
        ((HALVES, 5), {"strategy": "best"}, "strategy is 'best'; give one of 'marginal', 'bins', 'uniform'"),
        ((HALVES, 5), {"edges": (0.3, 0.3)}, r"edges is \[0\.3, 0\.3\]; give increasing numbers from 0 to 1"),
        ((HALVES, 5), {"edges": (0.5, 1.5)}, "edges is"),
        ((HALVES, 5), {"edges": "ab"}, "edges is not an array of numbers .*; give increasing numbers"),
        ((HALVES, 5), {"weights": [[1], [1, 2]]}, "weights is not an array of numbers .*; give numbers of at least 0"),
        ((np.ma.array([0.5, 0.9], mask=[False, True]), 5), {}, "prediction has masked entries"),
        ((HALVES, 5), {"edges": (np.nan,)}, r"edges is \[nan\]"),
        ((HALVES, 5), {"edges": 0.5}, r"edges is 0\.5"),
        ((HALVES, 5), {"weights": (1, 2)}, r"weights is \[1\.0, 2\.0\]; give 5 numbers of at least 0, not all 0"),
        ((HALVES, 5), {"weights": (1, 2, 3, 4, -1)}, "weights is"),
        ((HALVES, 5), {"weights": (1, 2, 3, 4, np.inf)}, "weights is"),
        ((HALVES, 5), {"weights": (0, 0, 0, 0, 0)}, "weights is"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.allocate(*arguments, **{"strategy": "bins", **options})


def test_allocate_inside_jit_is_refused():
    with pytest.raises(ValueError, match="prediction is not an array of numbers on the host"):
        jax.jit(lambda rates: jaxsel.allocate(rates, 3))(jnp.full(3, 0.5))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([1, 2], "samples has 2 entries for 3 prompts; give one count per prompt"),
        ([1, -2, 3], r"samples\[1\] is -2; give integers from 0"),
        ([1, 0.5, 3], "give integers"),
    ],
)
def test_bad_samples_are_named(samples, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.expected_solved(HALVES, samples)
