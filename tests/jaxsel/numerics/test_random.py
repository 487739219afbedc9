import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxsel.numerics import random
from tests.support.optimized import OPTIMIZED

KEY = jax.random.key(0)
DRAWS = 20_000
SHAPES = (1e-3, 0.03, 0.5, 1.0, 2.0, 30.0, 1e3, 1e5)
PAIRS = list(itertools.product(SHAPES, SHAPES))

compiled = jax.jit(random.beta)


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    """Return draws for every pair of parameters, [pairs, draws]."""
    a, b = (jnp.repeat(jnp.array(column, jnp.float32), DRAWS) for column in zip(*PAIRS, strict=True))
    return np.asarray(compiled(KEY, a, b)).reshape(len(PAIRS), DRAWS)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_draws_have_the_distribution(grid, a, b):
    draws, exact = grid[PAIRS.index((a, b))].astype(float), stats.beta(a, b)
    assert ((draws >= 0) & (draws <= 1)).all()
    # Where float32 rounds the draws to 0 or 1, the two distribution functions are not compared.
    at = np.clip(np.concatenate([draws, exact.ppf(np.linspace(0, 1, 200))]), 1e-37, 1 - 1e-6)
    empirical = np.searchsorted(np.sort(draws), at, side="right") / DRAWS
    assert np.abs(empirical - exact.cdf(at)).max() < 2.5 / np.sqrt(DRAWS)  # a Kolmogorov test with p = 7e-6


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_draws_have_the_mean_and_the_variance(grid, a, b):
    draws, exact = grid[PAIRS.index((a, b))].astype(float), stats.beta(a, b)
    mean, variance, kurtosis = (float(value) for value in exact.stats("mvk"))
    spread = variance * np.sqrt((kurtosis + 2) / DRAWS)
    rounding = 1e-6
    assert abs(draws.mean() - mean) <= 5 * np.sqrt(variance / DRAWS) + rounding * mean
    if kurtosis < 100:  # otherwise the variance of so few draws is far from normal
        assert abs(draws.var() - variance) <= 5 * spread + rounding * mean


def test_draws_of_neighbours_and_of_other_keys_are_independent():
    ones = jnp.ones(DRAWS)
    first, second = compiled(KEY, ones, ones), compiled(jax.random.key(1), ones, ones)
    bound = 5 / np.sqrt(DRAWS)
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    for lag in (1, 2, 64, 1024):
        assert abs(np.corrcoef(first[lag:], first[:-lag])[0, 1]) < bound


@pytest.mark.parametrize("size", [1, 257, 3000])
def test_a_draw_depends_only_on_its_index(size):
    a, b = jnp.tile(jnp.array([0.2, 1.0, 9.0, 1.0]), 1250), jnp.tile(jnp.array([2.0, 1.0]), 2500)
    np.testing.assert_array_equal(compiled(KEY, a[:size], b[:size]), compiled(KEY, a, b)[:size])


def test_the_second_half_of_a_large_array_draws_the_same_alone():
    """Beta(1, 1) rejects about a tenth of the 40,000 proposals; one further round draws only 1/32 of them again."""
    size, half = 40_000, 20_000
    a = jnp.ones(size)
    alone = random.beta(KEY, a[half:], a[half:], ids=jnp.arange(half, size))
    np.testing.assert_array_equal(random.beta(KEY, a, a)[half:], alone)


@pytest.mark.parametrize("a", [1e4, 1e5, 1e6, 1e7])
def test_large_parameters_have_the_spread_of_the_distribution(a):
    draws = np.asarray(compiled(KEY, jnp.full(300_000, a), jnp.full(300_000, a)), float)
    assert abs(draws.std() / stats.beta(a, a).std() - 1) < 5 / np.sqrt(2 * 300_000)


def test_other_elements_do_not_matter():
    b = jnp.ones(100)
    first = compiled(KEY, jnp.full(100, 2.0), b)
    second = compiled(KEY, jnp.full(100, 2.0).at[50:].set(1e-3).at[99].set(jnp.nan), b)
    np.testing.assert_array_equal(first[:50], second[:50])


def test_eager_equals_jit_also_inside_other_code():
    a, b = jnp.array([0.5, 1.0, 3.0, 1e4]), jnp.array([2.0, 0.1, 3.0, 1.0])
    within = jax.jit(lambda key, a, b: 2 * random.beta(key, a - 1 + 1, b / 2 * 2))
    np.testing.assert_array_equal(random.beta(KEY, a, b), compiled(KEY, a, b))
    np.testing.assert_array_equal(2 * random.beta(KEY, a, b), within(KEY, a, b))


def test_parameters_of_any_shape_and_broadcast():
    a, b = jnp.full((4, 1, 3), 2.0), jnp.full((5, 1), 3.0)
    draws = random.beta(KEY, *jnp.broadcast_arrays(a, b))
    assert draws.shape == (4, 5, 3)
    np.testing.assert_array_equal(draws.ravel(), random.beta(KEY, jnp.full(60, 2.0), jnp.full(60, 3.0)))


def test_draws_depend_on_the_id():
    """Not on the number of elements either: few elements are drawn again all together, many only where rejected."""
    ids = jnp.array([7, 1_000_000_007, 0, 31])
    a, b = jnp.linspace(0.5, 9.0, 40), jnp.linspace(3.0, 1.0, 40)
    some = random.beta(KEY, a[ids % 40], b[ids % 40], ids=ids)
    for at, name in enumerate(ids):
        alone = random.beta(KEY, a[name % 40][None], b[name % 40][None], ids=name[None])
        assert alone[0] == some[at]
    many = jnp.arange(4000)
    drawn = random.beta(KEY, a[many % 40], b[many % 40], ids=many)
    some = random.beta(KEY, a[many[:200] % 40], b[many[:200] % 40], ids=many[:200])
    np.testing.assert_array_equal(drawn[:200], some)


def test_words_of_ids_keys_and_words_are_independent():
    """Test pairs of random 32-bit words by chi-square, each word reduced to its first 6 bits."""
    ids = jnp.arange(1 << 18, dtype=jnp.int32)
    other = jax.random.fold_in(KEY, 1)
    first, second = (np.asarray(word) for word in random.words(KEY, ids, 2))
    elsewhere = np.asarray(random.words(other, ids, 1)[0])
    pairs = {
        "two words": (first, second),
        "two keys": (first, elsewhere),
        "neighbours": (first[1:], first[:-1]),
        "ids a power of two apart": (first[1 << 10 :], first[: -(1 << 10)]),
        "high and low bits": (first, first << 24),
    }
    for name, (x, y) in pairs.items():
        cells = np.bincount((x >> 26).astype(np.int64) * 64 + (y >> 26), minlength=4096)
        assert stats.chisquare(cells).pvalue > 1e-6, name


@pytest.mark.slow
def test_no_pair_of_words_repeats_in_a_hundred_million():
    """Two 32-bit words per id make a number of 64 bits. It differs for all 1e8 pairs of 100 keys and 1e6 ids."""
    pairs = jax.jit(lambda key, ids: jnp.stack(random.words(key, ids, 2), 1), compiler_options=OPTIMIZED)
    first = jax.jit(lambda key, ids: random.words(key, ids, 1)[0], compiler_options=OPTIMIZED)

    def drawn(keys, ids):
        words = np.empty((len(keys), len(ids), 2), np.uint32)
        for at, key in enumerate(keys):
            words[at] = pairs(key, ids)
        return words.view(np.uint64).ravel()

    numbers = drawn(jax.random.split(KEY, 100), jnp.arange(1_000_000, dtype=jnp.int32))
    numbers.sort()
    assert (numbers[1:] != numbers[:-1]).all()
    # for one key, the first word is a bijection of the id; 1e7 ids that are spread over int32 test it
    words = np.sort(np.asarray(first(KEY, jnp.arange(0, 2**31 - 1, 214, dtype=jnp.int32))))
    assert (words[1:] != words[:-1]).all()


def test_only_nan_parameters_give_nan():
    a = jnp.ones(3000).at[::2].set(jnp.nan)
    np.testing.assert_array_equal(np.isnan(compiled(KEY, a, jnp.ones(3000))), np.isnan(a))


@pytest.mark.parametrize("a", [1e-37, 1e-30, 1e-6, 1e7, 1e12, 1e30])
@pytest.mark.parametrize("b", [1e-37, 1e-6, 1.0, 1e12])
def test_extreme_parameters_stay_in_the_interval(a, b):
    draws = np.asarray(compiled(KEY, jnp.full(1000, a), jnp.full(1000, b)))
    assert ((draws >= 0) & (draws <= 1)).all()


def test_empty_parameters_give_no_draws():
    assert compiled(KEY, jnp.ones(0), jnp.ones(0)).shape == (0,)
