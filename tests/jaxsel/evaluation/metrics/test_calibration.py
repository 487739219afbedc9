import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

import jaxsel
from jaxsel import metrics
from jaxsel.numerics.beta_binomial import cdf, spread_of
from tests.support.embedded import quick_jit

M = 40_000
LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)

# Compiled once per shape. Without `jit`, JAX compiles every loop again at every call.
quick_cdf = quick_jit(lambda s, n, rate, variance: cdf(s, n, rate, spread_of(rate, variance)))
randomised_pit = quick_jit(metrics.randomised_pit)
rate_pit = quick_jit(metrics.rate_pit)
success_coverage = quick_jit(functools.partial(metrics.success_coverage, levels=LEVELS))
rate_coverage = quick_jit(functools.partial(metrics.rate_coverage, levels=LEVELS))
uniformity = quick_jit(metrics.uniformity)


@functools.cache
def reliability_and_errors(num_bins, binning):
    of = {"num_bins": num_bins, "binning": binning}

    def all_of(p, y):
        errors = metrics.expected_calibration_error, metrics.maximum_calibration_error
        return metrics.reliability(p, y, **of), *(error(p, y, **of) for error in errors)

    return quick_jit(all_of)


@pytest.fixture(scope="module")
def calibrated():
    """Return Beta posteriors, true success rates drawn from them, and successes and sizes of groups of rollouts."""
    rng = np.random.default_rng(0)
    alpha, beta = rng.gamma(1, 2, (2, M)) + 0.2
    p, n = rng.beta(alpha, beta), rng.choice([0, 1, 4, 8], M)
    return posterior(alpha, beta), p.astype(np.float32), rng.binomial(n, p).astype(np.int32), n.astype(np.int32)


def posterior(alpha, beta, narrower=1.0):
    rate, variance = stats.beta(alpha, beta).stats()
    return jaxsel.Prediction(*(jnp.asarray(x, jnp.float32) for x in (rate, variance * narrower, *4 * [rate])))


def bins_by_hand(p, y, num_bins, bins):
    """Return (prediction, outcome, count, standard error) per bin, computed one bin at a time in float64."""
    rows = []
    for k in range(num_bins):
        inside = y[bins == k].astype(np.float64)
        if not len(inside):
            rows.append((np.nan, np.nan, 0, np.nan))
        else:
            error = stats.sem(inside) if len(inside) > 1 else np.nan
            rows.append((p[bins == k].mean(dtype=np.float64), inside.mean(), len(inside), error))
    return np.array(rows).T


@pytest.mark.parametrize("binning", ["width", "mass"])
@pytest.mark.parametrize("m", [7, 2000])
def test_reliability_equals_a_loop_over_the_bins(binning, m):
    rng = np.random.default_rng(3)
    p = (np.round(rng.beta(2, 3, m) * 50) / 50 * 0.9).astype(np.float32)  # with ties and empty bins
    y = rng.uniform(size=m) < p
    share = p if binning == "width" else (stats.rankdata(p) - 0.5) / m
    table, mean_error, largest_error = reliability_and_errors(10, binning)(p, y)
    expected = bins_by_hand(p, y, 10, np.minimum((share * np.float32(10)).astype(int), 9))
    np.testing.assert_allclose(np.stack(table), expected, rtol=1e-4, atol=1e-6)
    prediction, outcome, count, _ = expected
    gap = np.abs(prediction - outcome)
    np.testing.assert_allclose(mean_error, np.nansum(gap * count) / m, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(largest_error, np.nanmax(gap), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("binning", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_reliability_equals_scikit_learns(binning, strategy):
    rng = np.random.default_rng(4)
    p = rng.uniform(size=2000).astype(np.float32)
    y = rng.uniform(size=2000) < p**2
    outcome, prediction = calibration_curve(y, p, n_bins=10, strategy=strategy)
    table, *_ = reliability_and_errors(10, binning)(p, y)
    # scikit-learn interpolates quantiles between rows, so that a row may fall into the next bin
    tolerance = 1e-5 if binning == "width" else 0.02
    np.testing.assert_allclose(table.prediction, prediction, atol=tolerance)
    np.testing.assert_allclose(table.outcome, outcome, atol=tolerance)


def test_the_ends_belong_to_the_outer_bins():
    table = metrics.reliability(np.array([0.0, 1.0]), np.array([0, 1]), num_bins=4)
    np.testing.assert_array_equal(table.size, [1, 0, 0, 1])
    assert np.isnan(table.standard_error).all()


def test_arguments_out_of_range_are_refused(calibrated):
    p, y = np.array([0.5]), np.array([1])
    with pytest.raises(ValueError, match="num_bins is 0"):
        metrics.reliability(p, y, num_bins=0)
    with pytest.raises(ValueError, match="binning is 'size'; give one of 'width', 'mass'"):
        metrics.expected_calibration_error(p, y, binning="size")
    with pytest.raises(ValueError, match="num_bins is 0"):
        metrics.uniformity(p, num_bins=0)
    with pytest.raises(ValueError, match=r"levels is 1\.5"):
        metrics.success_coverage(calibrated[0], *calibrated[2:], levels=(0.5, 1.5))


@pytest.mark.parametrize("group_size", [1, 8, 200])
def test_cdf_equals_scipys(group_size):
    rate = np.repeat([0.02, 0.3, 0.97], 4)
    concentration = np.tile([0.05, 1, 30, 1000], 3)
    alpha, beta = concentration * rate, concentration * (1 - rate)
    prediction = posterior(alpha, beta)
    for s in np.unique([0, 1, group_size // 3, group_size]):
        successes, n = (jnp.full(12, number, jnp.int32) for number in (s, group_size))
        found = quick_cdf(successes, n, prediction.success_rate, prediction.variance)
        exact = [stats.betabinom.cdf(count, group_size, alpha, beta) for count in (s - 1, s)]
        np.testing.assert_allclose(found, exact, atol=2e-4)


@pytest.mark.parametrize("rate", [1e-4, 0.03, 0.5, 0.999])
def test_cdf_is_as_exact_for_large_groups(rate):
    """The first of the probabilities that are added is e^-7000 here."""
    n = 1024
    s = np.unique([*range(0, n, 33), n - 2, n - 1, n])
    counts, sizes = jnp.asarray(s, jnp.int32), jnp.full(len(s), n, jnp.int32)
    found = quick_cdf(counts, sizes, jnp.full(len(s), rate, jnp.float32), jnp.zeros(len(s), jnp.float32))
    exact = [stats.binom.cdf(count, n, np.float32(rate)) for count in (s - 1, s)]
    np.testing.assert_allclose(found, exact, atol=2e-5)


@pytest.mark.parametrize(("rate", "variance"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.25), (0.3, 0.0), (1.0, 0.1)])
def test_cdf_stays_finite_at_its_limits(rate, variance):
    s = jnp.arange(5)
    mean = jnp.full(5, rate)
    below, up_to = quick_cdf(s, jnp.full(5, 4), mean, jnp.full(5, variance))
    mass = [0.5, 0, 0, 0, 0.5] if rate == 0.5 else stats.binom.pmf(np.arange(5), 4, rate)
    np.testing.assert_allclose(up_to, np.cumsum(mass), atol=1e-5)
    np.testing.assert_allclose(below, np.cumsum(mass) - mass, atol=1e-5)


def test_calibrated_counts_have_a_uniform_pit_and_cover_at_the_level(calibrated):
    prediction, _, s, n = calibrated
    known = n > 0
    pit = randomised_pit(jax.random.key(0), prediction, s, n)
    np.testing.assert_array_equal(np.isnan(pit), ~known)
    found = uniformity(pit, weights=known)
    exact = stats.kstest(np.asarray(pit)[known], "uniform")
    np.testing.assert_allclose(found.distance, exact.statistic, atol=1e-5)
    assert exact.pvalue > 1e-4
    histogram = np.histogram(np.asarray(pit)[known], 10, (0, 1))[0] / known.sum()
    np.testing.assert_allclose(found.shares, histogram, atol=2e-4)  # a row on an edge may be in either bin
    coverage = success_coverage(prediction, s, n)
    # 5 standard errors of a share of 1/2; those of other shares are smaller
    np.testing.assert_allclose(coverage, LEVELS, atol=5 * 0.5 / np.sqrt(known.sum()))


def test_success_coverage_is_the_share_of_random_pits_between_the_tails(calibrated):
    prediction, _, s, n = jax.tree.map(lambda column: column[:500], calibrated)
    keys = jax.random.split(jax.random.key(1), 100)
    pits = np.asarray(quick_jit(jax.vmap(lambda key: metrics.randomised_pit(key, prediction, s, n)))(keys))[:, n > 0]
    for level, found in zip(LEVELS, success_coverage(prediction, s, n), strict=True):
        inside = np.mean(np.abs(pits - 0.5) <= level / 2)
        np.testing.assert_allclose(found, inside, atol=5 * 0.5 / np.sqrt(pits.size))


def test_rate_pit_equals_scipys_and_calibrated_rates_cover_at_the_level(calibrated):
    prediction, p, *_ = calibrated
    rate, variance = (np.asarray(x, np.float64) for x in (prediction.success_rate, prediction.variance))
    concentration = rate * (1 - rate) / variance - 1
    pit = rate_pit(prediction, p)
    exact = stats.beta(rate * concentration, (1 - rate) * concentration).cdf(p)
    np.testing.assert_allclose(pit, exact, atol=1e-3)
    coverage = rate_coverage(prediction, p)
    inside = [np.mean(np.abs(exact - 0.5) <= level / 2) for level in LEVELS]
    np.testing.assert_allclose(coverage, inside, atol=1e-3)
    np.testing.assert_allclose(coverage, LEVELS, atol=5 * 0.5 / np.sqrt(M))


def test_posteriors_that_are_too_narrow_cover_too_little(calibrated):
    prediction, p, s, n = calibrated
    narrow = prediction._replace(variance=prediction.variance / 4)
    assert dict(zip(LEVELS, rate_coverage(narrow, p), strict=True))[0.9] < 0.65
    assert dict(zip(LEVELS, success_coverage(narrow, s, n), strict=True))[0.9] < 0.87
    shares = uniformity(rate_pit(narrow, p)).shares
    assert min(shares[0], shares[-1]) > 1.5 * max(shares[4], shares[5])


def test_the_rate_pit_of_a_certain_prediction_is_0_or_1():
    exact = jaxsel.Prediction(*(jnp.asarray([0.3, 0.3]) * scale for scale in (1, 0, 1, 0, 0, 0)))
    np.testing.assert_allclose(metrics.rate_pit(exact, np.array([0.2, 0.4])), [0, 1], atol=1e-5)


def test_rows_of_weight_0_may_hold_anything(calibrated):
    prediction, p, s, n = jax.tree.map(lambda column: jnp.asarray(column[:100]), calibrated)
    part = np.arange(100) < 60
    spoilt = jax.tree.map(lambda column: jnp.where(part, column, jnp.nan), prediction)
    first = jax.tree.map(lambda column: column[:60], (prediction, p, s, n))
    np.testing.assert_allclose(
        success_coverage(spoilt, s, n, weights=part), success_coverage(first[0], *first[2:]), rtol=1e-5
    )
    np.testing.assert_allclose(
        rate_coverage(spoilt, np.where(part, p, np.nan), weights=part), rate_coverage(*first[:2]), rtol=1e-5
    )
    assert np.isnan(success_coverage(spoilt, s, n)).all()


@pytest.mark.usefixtures("unchecked_types")
def test_vectors_of_different_lengths_are_refused(calibrated):
    prediction, p, s, n = calibrated
    for call in (
        lambda: metrics.rate_pit(prediction, p[:50]),
        lambda: metrics.rate_coverage(prediction, p, weights=np.ones(3)),
        lambda: metrics.success_coverage(prediction, s[:50], n[:50]),
    ):
        with pytest.raises(ValueError, match="give vectors of one length"):
            call()
