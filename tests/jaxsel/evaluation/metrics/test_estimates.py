from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsel
from jaxsel import metrics


def simulated(seed, m=1500):
    """Return noisy guesses of uniform success rates, observed rates, too low P(mixed), successes and group sizes."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(size=m)
    s = rng.binomial(8, p)
    guess = np.clip(p + rng.normal(scale=0.2, size=m), 0, 1)
    mixed = (1 - p**8 - (1 - p) ** 8) * 0.8
    floats = (jnp.asarray(values, jnp.float32) for values in (guess, s / 8, mixed))
    guess, truth, mixed = floats
    return guess, truth, mixed, jnp.asarray(s, jnp.int32), jnp.full(m, 8, jnp.int32)


def ratio_to_ceiling(guess, truth, mixed, s, n, weights=None):
    return metrics.pearson(guess, truth, weights=weights) / metrics.pearson_ceiling(s, n, weights=weights)


def of(metric, *columns, **settings):
    return lambda *arrays, weights=None: metric(*(arrays[column] for column in columns), weights=weights, **settings)


def mixed_event(metric, **settings):
    return lambda guess, truth, mixed, s, n, weights=None: metric(mixed, (s > 0) & (s < n), weights=weights, **settings)


METRICS = {
    "mean absolute error": of(metrics.mean_absolute_error, 0, 1),
    "pearson": of(metrics.pearson, 0, 1),
    "spearman": of(metrics.spearman, 0, 1),
    "ceiling": of(metrics.pearson_ceiling, 3, 4),
    "pearson over its ceiling": ratio_to_ceiling,
    "mixed share": of(metrics.mixed_share, 3, 4),
    "calibration error": mixed_event(metrics.expected_calibration_error, num_bins=4),
    "calibration error by mass": mixed_event(metrics.expected_calibration_error, num_bins=4, binning="mass"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_standard_errors_are_the_spread_over_fresh_data(name):
    metric = METRICS[name]
    values = jax.vmap(metric)(*(jnp.stack(column) for column in zip(*map(simulated, range(400)), strict=True)))
    spread = np.std(np.asarray(values, np.float64), ddof=1)
    data = simulated(1000)
    closed = jax.jit(partial(metrics.estimate, metric))(*data)
    resampled = jax.jit(partial(metrics.bootstrap, num_resamples=400), static_argnums=1)(
        jax.random.key(0), metric, *data
    )
    np.testing.assert_allclose(closed.value, resampled.value, rtol=1e-6)
    # 5 relative standard errors; those of the spread and of the bootstrap are 1 / sqrt(2 * 400) each
    np.testing.assert_allclose(closed.standard_error, spread, rtol=5 / np.sqrt(800))
    np.testing.assert_allclose(resampled.standard_error, spread, rtol=5 / np.sqrt(400))


def test_the_error_of_a_mean_equals_scipys():
    rng = np.random.default_rng(0)
    x, y, part = rng.normal(size=60), rng.normal(size=60), rng.uniform(size=60) < 0.5
    found = metrics.estimate(metrics.mean_absolute_error, x, y, weights=part)
    np.testing.assert_allclose(found.standard_error, stats.sem(np.abs(x - y)[part]), rtol=1e-5)


def test_the_error_of_a_difference_counts_the_correlation_of_its_terms():
    *_, mixed, s, n = simulated(0)
    prediction = jaxsel.Prediction(*6 * [mixed])
    found = metrics.estimate(metrics.mixed_shares, prediction, s, n)
    difference = np.asarray(mixed) - np.asarray((s > 0) & (s < n))
    np.testing.assert_allclose(found.standard_error.excess, stats.sem(difference), rtol=1e-4)
    assert found.standard_error.excess < found.standard_error.realised  # the two shares are correlated


def test_an_error_of_fewer_than_two_rows_is_nan():
    x = jnp.arange(5.0)
    for part in (np.zeros(5), np.eye(5)[2]):
        assert np.isnan(metrics.estimate(metrics.mean_absolute_error, x, x + 1, weights=part).standard_error)
    assert np.isnan(metrics.estimate(metrics.pearson, x, jnp.ones(5)).standard_error)
    empty = metrics.bootstrap(jax.random.key(0), metrics.mean_absolute_error, x, x, weights=np.zeros(5))
    assert np.isnan(empty.value)
    assert np.isnan(empty.standard_error)


def test_errors_stay_finite_with_empty_bins_and_perfect_predictions():
    p, y = jnp.asarray([0.1, 0.1, 0.9, 0.9]), jnp.asarray([0, 1, 1, 1])
    table = metrics.estimate(metrics.reliability, p, y)
    np.testing.assert_array_equal(np.isfinite(table.standard_error.outcome), np.asarray(table.value.size) > 0)
    assert metrics.estimate(metrics.mean_absolute_error, p, p) == (0, 0)


def test_resamples_are_poisson():
    def total(x, weights):
        return jnp.sum(weights * x)

    x = jnp.ones(1000)
    found = metrics.bootstrap(jax.random.key(1), total, x, num_resamples=1000)
    # a sum of 1000 Poisson counts of variance 1; the tolerance is 5 relative standard errors
    np.testing.assert_allclose(found.standard_error, np.sqrt(1000), rtol=5 / np.sqrt(2000))
    with pytest.raises(ValueError, match="num_resamples is 1"):
        metrics.bootstrap(jax.random.key(1), total, x, num_resamples=1)


def test_slices_part_the_rows():
    rng = np.random.default_rng(0)
    visits, last_visit = rng.integers(0, 9, 100), rng.integers(0, 90, 100)
    parts = jax.jit(metrics.slices)(visits, last_visit, 90)
    assert set(parts) == {
        *("all", "unseen", "seen", "visits 1", "visits 2-4", "visits 5+"),
        *("waiting 1-8", "waiting 9-64", "waiting 65+"),
    }
    np.testing.assert_array_equal(parts["visits 2-4"], (visits >= 2) & (visits < 5))
    np.testing.assert_array_equal(parts["waiting 9-64"], (visits > 0) & (90 - last_visit >= 9) & (90 - last_visit < 65))
    for kind in ("visits", "waiting"):
        of_kind = np.sum([part for name, part in parts.items() if name.startswith(kind)], axis=0)
        np.testing.assert_array_equal(of_kind, parts["seen"])
    np.testing.assert_array_equal(parts["unseen"], visits == 0)


@pytest.mark.parametrize("edges", [(1, 1), (2, 1), ()])
def test_edges_have_to_increase(edges):
    with pytest.raises(ValueError, match="waiting_edges is"):
        metrics.slices(np.array([1]), np.array([0]), 1, waiting_edges=edges)


def test_another_slice_compiles_nothing():
    compiled = []

    @jax.jit
    def score(x, y, weights):
        compiled.append(1)
        return metrics.estimate(metrics.spearman, x, y, weights=weights)

    x, y = simulated(0)[:2]
    for seed in range(3):
        score(x, y, jnp.asarray(np.random.default_rng(seed).uniform(size=len(x)) < 0.5))
    assert len(compiled) == 1


def clustered():
    """Return the cluster and the value of each of 200 rows. The four rows of a cluster share a random offset."""
    rng = np.random.default_rng(5)
    clusters = rng.permutation(np.repeat(np.arange(50), 4))
    return clusters, (rng.normal(size=50)[clusters] + 0.1 * rng.normal(size=200)).astype(np.float32)


def test_rows_of_a_cluster_vary_together():
    """For clusters of equal size, the standard error of the mean is that of the mean of cluster means."""
    clusters, x = clustered()
    means = np.array([x[clusters == c].mean() for c in range(50)])
    found = metrics.estimate(_weighted_mean, x, clusters=clusters)
    np.testing.assert_allclose(found.standard_error, means.std(ddof=1) / np.sqrt(50), rtol=1e-4)
    alone = metrics.estimate(_weighted_mean, x)
    assert alone.standard_error < 0.6 * found.standard_error


def test_clusters_may_have_any_integers_as_ids():
    """Cluster numbers may exceed the number of rows, as ids of a large pool do."""
    clusters, x = clustered()
    wanted = metrics.estimate(_weighted_mean, x, clusters=clusters).standard_error
    for ids in (clusters + 1000, -7 * clusters, 10**6 - clusters):
        np.testing.assert_allclose(metrics.estimate(_weighted_mean, x, clusters=ids).standard_error, wanted, rtol=1e-5)
        compiled = jax.jit(lambda x, ids: metrics.estimate(_weighted_mean, x, clusters=ids).standard_error)
        np.testing.assert_allclose(compiled(x, ids), wanted, rtol=1e-5)
    for ids in (2**32 * clusters + 7, 2**33 + clusters, clusters << 40):  # NumPy alone holds these
        np.testing.assert_allclose(metrics.estimate(_weighted_mean, x, clusters=ids).standard_error, wanted, rtol=1e-5)
    resampled = metrics.bootstrap(jax.random.key(0), _weighted_mean, x, clusters=2**32 * clusters + 7)
    np.testing.assert_allclose(resampled.standard_error, wanted, rtol=0.2)


def test_the_bootstrap_over_clusters_agrees_with_the_closed_form():
    clusters, x = clustered()
    both = (
        metrics.estimate(_weighted_mean, x, clusters=clusters),
        metrics.bootstrap(jax.random.key(0), _weighted_mean, x, clusters=clusters),
    )
    np.testing.assert_allclose(both[1].standard_error, both[0].standard_error, rtol=0.2)


def test_a_cluster_of_weight_0_does_not_count():
    clusters, x = clustered()
    weights = (clusters < 10).astype(np.float32)
    few = metrics.estimate(_weighted_mean, x, weights=weights, clusters=clusters)
    alone = metrics.estimate(_weighted_mean, x[clusters < 10], clusters=clusters[clusters < 10])
    np.testing.assert_allclose(few.standard_error, alone.standard_error, rtol=1e-4)


def _weighted_mean(x, *, weights):
    return jnp.sum(weights * x) / jnp.sum(weights)


def test_clusters_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"clusters has shape \(3,\) for 4 rows"):
        metrics.estimate(_weighted_mean, np.ones(4, np.float32), clusters=np.arange(3))
