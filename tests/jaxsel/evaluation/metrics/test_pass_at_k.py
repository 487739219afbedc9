"""mean@k and pass@k against enumeration of all subsets, and their standard errors against simulation."""

import itertools
from functools import partial
from math import comb

import jax
import numpy as np
import pytest

from jaxsel.metrics import bootstrap, estimate, mean_at_k, pass_at_k


def by_enumeration(s: int, n: int, k: int) -> float:
    """Return the share of all subsets of k completions that hold a correct one."""
    completions = [1] * s + [0] * (n - s)
    chosen = list(itertools.combinations(completions, k))
    return sum(map(any, chosen)) / len(chosen)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_success(k):
    for n in range(k, 7):
        for s in range(n + 1):
            found = pass_at_k(np.array([s]), np.array([n]), k=k)
            np.testing.assert_allclose(found, by_enumeration(s, n, k), rtol=1e-6)


def test_large_groups_agree_with_exact_binomial_coefficients():
    n, k = 1024, 256
    s = np.array([0, 1, 2, 7, 500, 1024])
    exact = [1 - comb(n - c, k) / comb(n, k) for c in s.tolist()]
    for c, expected in zip(s, exact, strict=True):
        np.testing.assert_allclose(pass_at_k(np.array([c]), np.array([n]), k=k), expected, rtol=1e-4)


def test_pass_at_1_is_the_mean_and_more_tries_never_hurt():
    rng = np.random.default_rng(0)
    n = rng.integers(8, 17, 40)
    s = rng.binomial(n, rng.uniform(size=40))
    np.testing.assert_allclose(pass_at_k(s, n, k=1), mean_at_k(s, n), rtol=1e-6)
    values = [float(pass_at_k(s, n, k=k)) for k in range(1, 9)]
    assert values == sorted(values)
    np.testing.assert_allclose(mean_at_k(s, n), np.mean(s / n), rtol=1e-6)


def test_pass_at_k_is_unbiased_where_the_naive_estimate_is_not():
    """Of 8 completions with success rate p, the estimate of pass@4 is 1 - (1 - p)^4 on average."""
    rng, p, rows = np.random.default_rng(1), 0.2, 20_000
    s, n = rng.binomial(8, p, rows), np.full(rows, 8)
    found = estimate(partial(pass_at_k, k=4), s, n)
    assert abs(found.value - (1 - (1 - p) ** 4)) < 5 * found.standard_error
    naive = np.mean(1 - (1 - s / n) ** 4)
    assert naive < 1 - (1 - p) ** 4 - 5 * found.standard_error


@pytest.mark.parametrize("metric", [mean_at_k, partial(pass_at_k, k=3)])
def test_standard_errors_are_those_of_a_mean_over_problems(metric):
    rng = np.random.default_rng(2)
    n = np.full(30, 8)
    s = rng.binomial(n, rng.beta(0.5, 0.5, size=30))
    each = [float(metric(s[i : i + 1], n[i : i + 1])) for i in range(30)]
    found = estimate(metric, s, n)
    np.testing.assert_allclose(found.value, np.mean(each), rtol=1e-5)
    np.testing.assert_allclose(found.standard_error, np.std(each, ddof=1) / 30**0.5, rtol=1e-4)
    resampled = bootstrap(jax.random.key(0), metric, s, n, num_resamples=500)
    np.testing.assert_allclose(found.standard_error, resampled.standard_error, rtol=0.25)


def test_problems_without_enough_completions_do_not_count():
    s, n = np.array([0, 1, 2, 8]), np.array([0, 2, 4, 8])
    np.testing.assert_allclose(pass_at_k(s, n, k=4), pass_at_k(s[2:], n[2:], k=4), rtol=1e-6)
    np.testing.assert_allclose(mean_at_k(s, n), np.mean([1 / 2, 2 / 4, 8 / 8]), rtol=1e-6)
    assert np.isnan(pass_at_k(s, n, k=9))
    assert np.isnan(mean_at_k(s[:1], n[:1]))
    weights = np.array([1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(mean_at_k(s, n, weights=weights), np.mean([1 / 2, 8 / 8]), rtol=1e-6)


def test_the_metrics_can_be_compiled():
    s, n = np.array([1, 2]), np.array([4, 4])
    np.testing.assert_allclose(jax.jit(partial(pass_at_k, k=2))(s, n), pass_at_k(s, n, k=2), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(mean_at_k)(s, n), 3 / 8, rtol=1e-6)


@pytest.mark.parametrize("k", [0, -1, True])
def test_k_must_be_a_positive_integer(k):
    with pytest.raises(ValueError, match="k is"):
        pass_at_k(np.array([1]), np.array([2]), k=k)
