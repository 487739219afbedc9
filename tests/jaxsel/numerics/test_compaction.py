import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxsel.numerics.compaction import true_positions

compiled = jax.jit(true_positions, static_argnums=1)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000, 4096, 100_003])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_positions_equal_numpys(size, share):
    mask = np.random.default_rng(0).random(size) < share
    expected = np.flatnonzero(mask)
    for capacity in {1, max(1, len(expected)), len(expected) + 7}:
        filled = np.pad(expected, (0, capacity), constant_values=size)[:capacity]
        np.testing.assert_array_equal(compiled(jnp.array(mask), capacity), filled)


@hypothesis.given(st.lists(st.booleans(), min_size=70, max_size=70))
def test_any_mask(mask):
    np.testing.assert_array_equal(
        compiled(jnp.array(mask), 70), np.pad(np.flatnonzero(mask), (0, 70), constant_values=70)[:70]
    )


def test_an_empty_mask_has_no_positions():
    np.testing.assert_array_equal(compiled(jnp.zeros(0, bool), 3), [0, 0, 0])
