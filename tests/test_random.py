import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxsel import random

KEY = jax.random.key(0)
DRAWS = 20_000
SHAPES = (1e-3, 0.03, 0.5, 1.0, 2.0, 30.0, 1e3, 1e5)
PAIRS = list(itertools.product(SHAPES, SHAPES))

compiled = jax.jit(random.beta)


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    """Draws of every pair of parameters, [pairs, draws]."""
    a, b = (jnp.repeat(jnp.array(column, jnp.float32), DRAWS) for column in zip(*PAIRS, strict=True))
    return np.asarray(compiled(KEY, a, b)).reshape(len(PAIRS), DRAWS)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_draws_have_the_distribution(grid, a, b):
    draws, exact = grid[PAIRS.index((a, b))].astype(float), stats.beta(a, b)
    assert ((draws >= 0) & (draws <= 1)).all()
    # Where float32 cannot tell the draws from 0 or 1 the two functions are not compared.
    at = np.clip(np.concatenate([draws, exact.ppf(np.linspace(0, 1, 200))]), 1e-37, 1 - 1e-6)
    empirical = np.searchsorted(np.sort(draws), at, side="right") / DRAWS
    assert np.abs(empirical - exact.cdf(at)).max() < 2.5 / np.sqrt(DRAWS)  # p = 7e-6


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_draws_have_the_mean_and_the_variance(grid, a, b):
    draws, exact = grid[PAIRS.index((a, b))].astype(float), stats.beta(a, b)
    mean, variance, kurtosis = (float(value) for value in exact.stats("mvk"))
    spread = variance * np.sqrt((kurtosis + 2) / DRAWS)
    rounding = 1e-6
    assert abs(draws.mean() - mean) <= 5 * np.sqrt(variance / DRAWS) + rounding * mean
    if kurtosis < 100:  # else the variance of so few draws is far from normal
        assert abs(draws.var() - variance) <= 5 * spread + rounding * mean


def test_draws_of_neighbours_and_of_other_keys_are_independent():
    ones = jnp.ones(DRAWS)
    first, second = compiled(KEY, ones, ones), compiled(jax.random.key(1), ones, ones)
    bound = 5 / np.sqrt(DRAWS)
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    for lag in (1, 2, 64, 1024):
        assert abs(np.corrcoef(first[lag:], first[:-lag])[0, 1]) < bound


@pytest.mark.parametrize("size", [1, 257, 3000])
def test_a_draw_depends_on_its_own_index_alone(size):
    a, b = jnp.tile(jnp.array([0.2, 1.0, 9.0, 1.0]), 1250), jnp.tile(jnp.array([2.0, 1.0]), 2500)
    np.testing.assert_array_equal(compiled(KEY, a[:size], b[:size]), compiled(KEY, a, b)[:size])


def test_other_elements_do_not_matter():
    b = jnp.ones(100)
    first = compiled(KEY, jnp.full(100, 2.0), b)
    second = compiled(KEY, jnp.full(100, 2.0).at[50:].set(1e-3).at[99].set(jnp.nan), b)
    np.testing.assert_array_equal(first[:50], second[:50])


def test_eager_is_jit():
    a, b = jnp.array([0.5, 1.0, 3.0, 1e4]), jnp.array([2.0, 0.1, 3.0, 1.0])
    np.testing.assert_allclose(random.beta(KEY, a, b), compiled(KEY, a, b), rtol=1e-5)


def test_nan_parameters_and_no_others_give_nan():
    a = jnp.ones(3000).at[::2].set(jnp.nan)
    np.testing.assert_array_equal(np.isnan(compiled(KEY, a, jnp.ones(3000))), np.isnan(a))


@pytest.mark.parametrize("a", [1e-37, 1e-30, 1e-6, 1e7, 1e12, 1e30])
@pytest.mark.parametrize("b", [1e-37, 1e-6, 1.0, 1e12])
def test_extreme_parameters_stay_in_the_interval(a, b):
    draws = np.asarray(compiled(KEY, jnp.full(1000, a), jnp.full(1000, b)))
    assert ((draws >= 0) & (draws <= 1)).all()


def test_no_elements_no_draws():
    assert compiled(KEY, jnp.ones(0), jnp.ones(0)).shape == (0,)
