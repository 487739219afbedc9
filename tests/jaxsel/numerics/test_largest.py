import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsel.numerics import largest

SIZE = 200_000  # so large that `kth_largest` takes a bound from a sample
compiled = jax.jit(largest.kth_largest, static_argnums=1)
by_bits = jax.jit(largest._kth_largest_by_bits, static_argnums=1)


def values(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    every_stride = np.arange(SIZE) % (SIZE // largest._SAMPLE) == 0
    return {
        "normal": rng.standard_normal(SIZE),
        "ascending": np.arange(SIZE) / 7.0,
        "descending": -np.arange(SIZE) / 7.0,
        "equal": np.full(SIZE, -0.25),
        "few levels": rng.integers(0, 3, SIZE) / 2.0,
        "many equal below the best": np.maximum(rng.random(SIZE), 0.99),
        "one above": np.where(np.arange(SIZE) == 77, 1.0, 0.0),
        "the sample sees only the best": np.where(every_stride, 10.0 + rng.random(SIZE), rng.random(SIZE)),
        "the sample sees only the worst": np.where(every_stride, -1.0, rng.random(SIZE)),
        "infinite": np.where(rng.random(SIZE) < 0.5, -np.inf, rng.standard_normal(SIZE)),
        "nothing finite": np.where(rng.random(SIZE) < 0.5, -np.inf, np.inf),
        "not numbers": np.where(rng.random(SIZE) < 0.5, np.nan, rng.standard_normal(SIZE)),
        "zeros of both signs": np.where(rng.random(SIZE) < 0.5, -0.0, 0.0),
    }[kind].astype(np.float32)


KINDS = (
    *(
        "normal",
        "ascending",
        "descending",
        "equal",
        "few levels",
        "many equal below the best",
        "one above",
        "the sample sees only the best",
    ),
    *("the sample sees only the worst", "infinite", "nothing finite", "not numbers", "zeros of both signs"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 100, 3_000, 150_000, SIZE])
def test_the_kth_largest_equals_sorting(kind, k):
    x = values(kind)
    assert compiled(jnp.array(x), k) == np.sort(np.where(np.isnan(x), -np.inf, x))[-k]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3_000, SIZE])
def test_the_search_by_bits_equals_sorting(kind, k):
    x = values(kind)
    assert by_bits(jnp.array(x), k) == np.sort(np.where(np.isnan(x), -np.inf, x))[-k]


def test_small_arrays():
    assert compiled(jnp.array([3.0, 1.0, 2.0]), 2) == 2.0


@pytest.mark.parametrize(("size", "sorts"), [(SIZE, False), (1000, True)])
def test_a_large_pool_is_not_sorted(size, sorts):
    text = compiled.lower(jnp.zeros(size), 100).as_text()
    lines = [line for line in text.splitlines() if "chlo.top_k" in line or "stablehlo.sort" in line]
    assert any(f"tensor<{size}xf32>" in line for line in lines) == sorts
