"""Values that XLA must compute once."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsel.numerics import fusion


def test_values_that_are_computed_once_stay_the_same_bits():
    for values in ([], [0.0, -0.0, 1.5], [-np.inf, np.nan, np.inf], [np.nan, 2.0], [-np.nan, 2.0], [[np.nan, 1.0]]):
        before = np.array(values, np.float32)
        np.testing.assert_array_equal(
            np.asarray(fusion.computed_once(jnp.array(before))).view(np.int32), before.view(np.int32)
        )


def test_xla_keeps_the_loop_that_stores_values():
    """Without the loop, XLA may compute a score again for every use, and round it differently."""
    scores = jax.jit(lambda a, b: fusion.computed_once(a * b - 0.5))
    assert " while(" in (scores.lower(jnp.ones(40), jnp.ones(40)).compile().as_text() or "")


def test_on_a_gpu_nothing_is_stored(monkeypatch):
    monkeypatch.setattr(fusion.devices, "for_a_cpu", lambda: False)
    values, others = jnp.ones(3), jnp.zeros(3)
    assert fusion.stored_on_a_cpu(values) is values
    assert fusion.stored_together_on_a_cpu(values, others) == (values, others)


def test_values_that_are_stored_together_stay_the_same_bits():
    first, second = np.array([np.nan, -0.0, np.inf], np.float32), np.array([-np.inf, 1e-42, np.nan], np.float32)
    for found, wanted in zip(
        fusion.stored_together_on_a_cpu(*map(jnp.array, (first, second))), (first, second), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(found).view(np.int32), wanted.view(np.int32))
