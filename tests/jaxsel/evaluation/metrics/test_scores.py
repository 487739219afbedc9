import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score

import jaxsel
from jaxsel import metrics
from jaxsel.numerics.beta_binomial import log_prob, spread_of
from jaxsel.numerics.weighted import bin_sums

RNG = np.random.default_rng(0)
TIED = RNG.integers(0, 5, 200) / 4
OTHER = (TIED + RNG.normal(size=200)).astype(np.float32)
M = 200
GROUP_SIZE = RNG.integers(0, 9, M).astype(np.int32)
SUCCESSES = RNG.binomial(GROUP_SIZE, RNG.beta(0.5, 0.5, M)).astype(np.int32)
SHAPES = RNG.gamma(1, 1, (2, M)) + 0.2
UNIT = RNG.uniform(size=M).astype(np.float32)


@pytest.mark.usefixtures("unchecked_types")
def test_results_do_not_depend_on_how_numbers_are_stored():
    exact, size, successes = PREDICTION, GROUP_SIZE, SUCCESSES
    for counts in (np.uint8, np.int8, np.uint32):
        for score in (metrics.beta_binomial_log_score, metrics.success_coverage):
            found = score(exact, successes.astype(counts), size.astype(counts))
            np.testing.assert_array_equal(found, score(exact, successes, size))
    for half in (jnp.float16, jnp.bfloat16):
        rounded = jax.tree.map(lambda field, to=half: field.astype(to), exact)
        same = jax.tree.map(lambda field: field.astype(jnp.float32), rounded)
        for score in (metrics.beta_binomial_log_score, metrics.success_coverage):
            np.testing.assert_array_equal(score(rounded, successes, size), score(same, successes, size))


@pytest.mark.usefixtures("unchecked_types")
def test_matrices_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(2, 2\).*give vectors of one length"):
        metrics.spearman(np.eye(2), np.eye(2))


def beta_prediction(alpha, beta, group_size=8):
    """Return the prediction for success rates with Beta distributions, which SciPy computes in float64."""
    rate, variance = stats.beta(alpha, beta).stats()
    unsolved, solved = (stats.betabinom.pmf(s, group_size, alpha, beta) for s in (0, group_size))
    fields = (rate, variance, rate, unsolved, 1 - unsolved - solved, solved)
    return jaxsel.Prediction(*(jnp.asarray(field, jnp.float32) for field in fields))


PREDICTION = beta_prediction(*SHAPES)
OF_PREDICTION = {
    name: functools.partial(lambda metric, *arrays, weights=None: metric(PREDICTION, *arrays, weights=weights), metric)
    for name in (
        "solve_state_accuracy",
        "solve_state_f1",
        "mixed_shares",
        "solve_state_log_score",
        "beta_binomial_log_score",
        "success_coverage",
    )
    for metric in [getattr(metrics, name)]
}
COUNTS, NUMBERS, EVENTS = (SUCCESSES, GROUP_SIZE), (UNIT, TIED), (UNIT, TIED > 0.5)
SCORES = {
    "pearson": (metrics.pearson, NUMBERS),
    "spearman": (metrics.spearman, NUMBERS),
    "mean_absolute_error": (metrics.mean_absolute_error, NUMBERS),
    "brier_score": (metrics.brier_score, EVENTS),
    "expected_calibration_error": (metrics.expected_calibration_error, EVENTS),
    "by mass": (functools.partial(metrics.expected_calibration_error, binning="mass", num_bins=7), EVENTS),
    "maximum_calibration_error": (metrics.maximum_calibration_error, EVENTS),
    "uniformity": (metrics.uniformity, (UNIT,)),
    "pearson_ceiling": (metrics.pearson_ceiling, COUNTS),
    "mixed_share": (metrics.mixed_share, COUNTS),
    "binomial_log_score": (metrics.binomial_log_score, (UNIT, *COUNTS)),
}


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_correlations_equal_scipys(array):
    x, y = array(TIED.astype(np.float32)), array(OTHER)
    pearson: Any = stats.pearsonr(TIED, OTHER)
    spearman: Any = stats.spearmanr(TIED, OTHER)
    np.testing.assert_allclose(metrics.pearson(x, y), pearson.statistic, atol=1e-5)
    np.testing.assert_allclose(metrics.spearman(x, y), spearman.statistic, atol=1e-5)
    np.testing.assert_allclose(metrics.spearman(x, -x), -1, atol=1e-6)


@pytest.mark.parametrize("correlation", [metrics.pearson, metrics.spearman])
def test_correlations_stay_between_minus_1_and_1(correlation):
    compiled = jax.jit(correlation)
    for size in range(5, 45):
        x, is_counted = RNG.uniform(size=44).astype(np.float32), np.arange(44) < size  # all sizes share one program
        assert abs(compiled(x, x, weights=is_counted)) <= 1
        assert abs(compiled(x, -x, weights=is_counted)) <= 1


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 1e6])
@pytest.mark.parametrize("correlation", [metrics.pearson, metrics.spearman])
def test_a_constant_has_no_correlation(correlation, constant):
    x = jnp.full(200, constant, jnp.float32)
    assert np.isnan(correlation(x, jnp.asarray(OTHER)))
    assert np.isnan(correlation(jnp.asarray(OTHER), x))


def test_mean_absolute_error():
    error = metrics.mean_absolute_error(np.array([0.0, 0.5, 1.0]), np.array([0.25, 0.5, 0.0]))
    np.testing.assert_allclose(error, 1.25 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("successes", "group_size", "share"),
    [([0, 3, 8, 5], [8, 8, 8, 8], 0.5), ([0, 0, 1], [0, 0, 2], 1.0), ([0, 1], [1, 1], 0.0)],
)
def test_mixed_share_ignores_groups_without_rollouts(successes, group_size, share):
    np.testing.assert_allclose(metrics.mixed_share(np.array(successes), np.array(group_size)), share)
    assert np.isnan(metrics.mixed_share(np.array([0]), np.array([0])))


def test_solve_state_accuracy_counts_the_likeliest_state_of_groups_with_rollouts():
    unsolved, mixed, solved = np.array([[0.8, 0.2, 0.1, 0.5, 0.9], [0.1, 0.7, 0.2, 0.3, 0.1], [0.1, 0.1, 0.7, 0.2, 0]])
    prediction = jaxsel.Prediction(*map(jnp.asarray, (solved, solved, solved, unsolved, mixed, solved)))
    accuracy = metrics.solve_state_accuracy(prediction, np.array([0, 3, 4, 8, 0]), np.array([8, 8, 8, 8, 0]))
    np.testing.assert_allclose(accuracy, 2 / 4)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def of_rows(rows):
    return jax.tree.map(lambda column: column[rows], PREDICTION)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_weights_are_a_slice(name, dtype):
    metric, arrays = SCORES[name]
    part = RNG.uniform(size=M) < 0.4
    # in float columns, rows of weight 0 hold NaN, which must not matter
    spoilt = [np.where(part, array, np.nan) if array.dtype.kind == "f" else array for array in arrays]
    metric = jax.jit(metric)
    found = leaves(metric(*spoilt, weights=part.astype(dtype)))
    for mine, sliced in zip(found, leaves(metric(*(array[part] for array in arrays))), strict=True):
        np.testing.assert_allclose(mine, sliced, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_weights_are_multiplicities(name):
    metric, arrays = SCORES[name]
    times = RNG.poisson(1, M)
    metric = jax.jit(metric)
    repeated = [np.repeat(array, times) for array in arrays]
    found = leaves(metric(*arrays, weights=times.astype(np.float32)))
    for mine, expected in zip(found, leaves(metric(*repeated)), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", OF_PREDICTION)
def test_weights_are_a_slice_of_a_prediction(name):
    part = RNG.uniform(size=M) < 0.4
    metric = jax.jit(getattr(metrics, name))
    found = leaves(metric(PREDICTION, *COUNTS, weights=part))
    sliced = leaves(metric(of_rows(part), *(array[part] for array in COUNTS)))
    for mine, expected in zip(found, sliced, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5)


@pytest.mark.parametrize("name", [*SCORES, *OF_PREDICTION])
def test_metrics_without_counted_rows_are_nan_and_eager_equals_jit(name):
    metric, arrays = SCORES[name] if name in SCORES else (OF_PREDICTION[name], COUNTS)
    compiled = jax.jit(lambda weights: metric(*arrays, weights=weights))
    eager = metric(*arrays, weights=jnp.ones(M))
    for mine, expected in zip(leaves(compiled(jnp.ones(M))), leaves(eager), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-5)
    for leaf in leaves(compiled(jnp.zeros(M))):
        assert np.isnan(leaf).all()
    if name in SCORES:
        for leaf in leaves(metric(*(array[:0] for array in arrays))):
            assert np.isnan(leaf).all()


def test_the_ceiling_of_ranks_without_rows_is_nan():
    assert np.isnan(metrics.spearman_ceiling(jax.random.key(0), SUCCESSES[:0], GROUP_SIZE[:0]))


@pytest.mark.usefixtures("unchecked_types")
def test_vectors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(200,\), y has shape \(200,\), weights has shape \(3,\)"):
        metrics.pearson(TIED, OTHER, weights=np.ones(3))


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_weights_that_are_no_weights_are_refused(wrong):
    weights = np.where(np.arange(M) == 7, wrong, 1.0)
    for ask in (metrics.brier_score, functools.partial(metrics.estimate, metrics.brier_score)):
        with pytest.raises(ValueError, match=rf"weights\[7\] is {wrong:g}; give finite numbers of at least 0"):
            ask(UNIT, OTHER > 0.5, weights=weights)
    with pytest.raises(ValueError, match=r"weights\[7\] is nan"):
        metrics.brier_score(UNIT, OTHER > 0.5, weights=np.ma.array(np.ones(M), mask=np.arange(M) == 7))


def test_a_nan_in_a_counted_row_makes_the_metric_nan():
    spoilt = np.where(np.arange(M) == 7, np.nan, UNIT).astype(np.float32)
    for metric in (metrics.pearson, metrics.spearman, metrics.mean_absolute_error, metrics.brier_score):
        assert np.isnan(metric(spoilt, OTHER))
    assert np.isnan(metrics.expected_calibration_error(spoilt, TIED > 0.5))
    assert np.isnan(metrics.uniformity(spoilt).distance)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_correlations_of_large_and_small_numbers(scale):
    # in float32, the product of the two sums of squares overflows for 1e15 and underflows for 1e-15
    expected: Any = stats.pearsonr(TIED, OTHER)
    np.testing.assert_allclose(metrics.pearson(TIED * scale, OTHER * scale), expected.statistic, rtol=1e-5)


def test_sums_of_many_rows_keep_their_precision():
    values = RNG.uniform(size=2**21).astype(np.float32)
    bins = RNG.integers(0, 3, 2**21).astype(np.int32)
    exact = np.bincount(bins, values.astype(np.float64))
    np.testing.assert_allclose(bin_sums(jnp.asarray(values), jnp.asarray(bins), 3), exact, rtol=2e-6)


def test_the_brier_score_equals_scikit_learns():
    np.testing.assert_allclose(metrics.brier_score(UNIT, TIED > 0.5), brier_score_loss(TIED > 0.5, UNIT), rtol=1e-5)


@pytest.mark.parametrize("group_size", [1, 2, 8, 300])
@pytest.mark.parametrize("concentration", [0.01, 1, 30, 1e4])
def test_beta_binomial_log_score_equals_scipys(group_size, concentration):
    rate = np.array([0.02, 0.3, 0.5, 0.97])
    alpha, beta = concentration * rate, concentration * (1 - rate)
    counts = np.unique([0, 1, group_size // 2, group_size])
    prediction = beta_prediction(alpha, beta)
    for s in counts:
        successes, n = (jnp.full(4, number, jnp.int32) for number in (s, group_size))
        found = log_prob(successes, n, prediction.success_rate, spread_of(prediction.success_rate, prediction.variance))
        expected = stats.betabinom.logpmf(s, group_size, alpha, beta)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-3 if concentration > 1e3 else 2e-5)
        np.testing.assert_allclose(
            metrics.beta_binomial_log_score(prediction, successes, n), expected.mean(), rtol=2e-4, atol=2e-3
        )


def test_binomial_log_score_equals_scipys_and_ignores_groups_without_rollouts():
    known = GROUP_SIZE > 0
    expected = stats.binom.logpmf(SUCCESSES, GROUP_SIZE, UNIT)[known].mean()
    np.testing.assert_allclose(metrics.binomial_log_score(UNIT, SUCCESSES, GROUP_SIZE), expected, rtol=1e-5)


@pytest.mark.parametrize(("rate", "s", "score"), [(0.0, 0, 0), (1.0, 3, 0), (0.0, 1, -np.inf), (1.0, 2, -np.inf)])
def test_a_certain_prediction_scores_0_or_minus_infinity(rate, s, score):
    s, n = np.array([s], np.int32), np.array([3], np.int32)
    assert metrics.binomial_log_score(np.array([rate], np.float32), s, n) == score


def test_the_largest_variance_makes_mixed_groups_impossible():
    # the largest possible variance for a mean of 0.5, and a larger one
    for variance in (0.25, 0.3):
        fields = [jnp.asarray([value], jnp.float32) for value in (0.5, variance, 0.5, 0.5, 0, 0.5)]
        score = [
            metrics.beta_binomial_log_score(jaxsel.Prediction(*fields), np.array([s]), np.array([4])) for s in range(5)
        ]
        np.testing.assert_allclose(score, np.log([0.5, 1e-300, 1e-300, 1e-300, 0.5]).clip(-690) - [0, *3 * [np.inf], 0])


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [(0.4, 0.6), (3, 1), (20, 20)])
def test_ceilings_are_the_correlations_of_the_true_rates(shapes):
    rng = np.random.default_rng(1)
    p, n = rng.beta(shapes[0], shapes[1], 100_000), rng.choice([1, 4, 8], 100_000)
    s = rng.binomial(n, p)
    some = n > 1
    truth: Any = stats.spearmanr(p[some], (s / n)[some])
    counts = s.astype(np.int32), n.astype(np.int32)
    # 5 standard errors: that of a correlation of m rows is at most 1 / sqrt(m)
    np.testing.assert_allclose(
        metrics.pearson_ceiling(*counts), np.corrcoef(p[some], (s / n)[some])[0, 1], atol=5 / np.sqrt(some.sum())
    )
    found = metrics.spearman_ceiling(jax.random.key(0), *counts)
    np.testing.assert_allclose(found, truth.statistic, atol=5 * (some.sum() ** -0.5 + 2**-8) / np.sqrt(2))


@pytest.mark.slow
def test_ceilings_of_constants():
    n = np.full(100, 8, np.int32)
    key = jax.random.key(0)
    assert np.isnan(metrics.pearson_ceiling(n // 2, n))
    assert np.isnan(metrics.spearman_ceiling(key, n // 2, n))
    nearly = np.where(np.arange(100) % 2, 4, 5).astype(np.int32)  # the counts vary less than binomial counts
    assert metrics.pearson_ceiling(nearly, n) == metrics.spearman_ceiling(key, nearly, n) == 0
    ends = np.where(np.arange(100) % 2, 0, 8).astype(np.int32)  # such groups have no binomial noise
    np.testing.assert_allclose(metrics.pearson_ceiling(ends, n), 1, rtol=1e-6)
    np.testing.assert_allclose(metrics.spearman_ceiling(key, ends, n), 1, atol=1e-3)


def test_mixed_shares_compare_the_same_groups():
    known = GROUP_SIZE > 0
    shares = metrics.mixed_shares(PREDICTION, *COUNTS)
    realised = ((SUCCESSES > 0) & (SUCCESSES < GROUP_SIZE))[known].mean()
    predicted = np.asarray(PREDICTION.mixed, np.float64)[known].mean()
    np.testing.assert_allclose(shares, (realised, predicted, predicted - realised), rtol=1e-5)


def test_confusion_and_f1_equal_scikit_learns():
    known = GROUP_SIZE > 0
    observed = np.where(SUCCESSES == 0, 0, np.where(SUCCESSES == GROUP_SIZE, 2, 1))[known]
    likeliest = np.argmax([PREDICTION.unsolved, PREDICTION.mixed, PREDICTION.solved], axis=0)[known]
    np.testing.assert_array_equal(metrics.confusion_matrix(PREDICTION, *COUNTS), confusion_matrix(observed, likeliest))
    found = metrics.solve_state_f1(PREDICTION, *COUNTS)
    each = [f1_score(observed == state, likeliest == state) for state in range(3)]
    np.testing.assert_allclose(found.states, each, rtol=1e-5)
    np.testing.assert_allclose(found.macro, f1_score(observed, likeliest, average="macro"), rtol=1e-5)


def test_the_log_score_of_a_solve_state():
    prediction = beta_prediction(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 3.0]))
    found = metrics.solve_state_log_score(prediction, np.array([0, 3, 7]), np.array([8, 8, 0]))
    np.testing.assert_allclose(found, (np.log(1 / 9) + np.log(7 / 9)) / 2, rtol=1e-5)


def test_f1_of_a_state_that_is_neither_predicted_nor_seen_is_nan():
    fields = [
        jnp.asarray(field) for field in ([0.5] * 3, [0.1] * 3, [0.5] * 3, [0.6, 0.6, 0.1], [0.4, 0.4, 0.9], [0.0] * 3)
    ]
    found = metrics.solve_state_f1(jaxsel.Prediction(*fields), np.array([0, 1, 1]), np.array([2, 2, 2]))
    np.testing.assert_allclose(found.states, [2 / 3, 2 / 3, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found.macro, 2 / 3, rtol=1e-6)
