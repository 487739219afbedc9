"""Under other settings of JAX, all methods make the same choices and predict in float32."""

import contextlib
from typing import Any

import jax
import numpy as np
import pytest

import jaxsel
from tests.support.small_gps import EMBEDDINGS, TINY, N

ONE_ENCODER: dict[str, Any] = TINY | {"history_conditioned": False}
METHODS = {
    "uniform": jaxsel.uniform,
    "threshold": jaxsel.threshold,
    "mopps": jaxsel.mopps,
    "mopps by step": lambda: jaxsel.mopps(ageing="step"),
    "dps": lambda: jaxsel.dps(entropy_weight=0.1),
    # gps with one of its two encoders, because compiling them takes most of the time
    "gps": lambda: jaxsel.gps(EMBEDDINGS, **ONE_ENCODER),
    "state space": lambda: jaxsel.make_selector(
        jaxsel.state_space(EMBEDDINGS), jaxsel.expected_variance(), jaxsel.top_k()
    ),
    "stratified": lambda: jaxsel.dps(rule=jaxsel.stratified(jaxsel.gumbel_top_k(), np.arange(N) % 3)),
    "exploring": lambda: jaxsel.exploring(
        jaxsel.mopps(acquisition=jaxsel.mixed_near_target(log=True)), share=0.3, after=1
    ),
    "paced": lambda: jaxsel.paced(jaxsel.kalman(), target=0.3),
    "recalibrated": lambda: jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.hidden_markov()), jaxsel.mixed_probability(), jaxsel.top_k()
    ),
}


@contextlib.contextmanager
def strict_and_without_nans():
    """Apply two settings of JAX that only raise errors. The run under them is the one that others are compared with."""
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        yield


@contextlib.contextmanager
def strict_and_in_64_bits():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


def choices(method: str, setting) -> tuple[list[list[int]], jaxsel.Prediction]:
    with setting():
        live, chosen = jaxsel.PromptSelector(METHODS[method](), num_prompts=N, seed=0), []
        live.observe([], [], 8)
        live.metrics()
        for step in range(3):
            chosen.append(live.select(4).tolist())
            live.observe(chosen[-1], [step, 8, 0, 3], 8)
        return chosen, live.predict()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_choices_do_not_depend_on_settings(method):
    expected, prediction = choices(method, strict_and_without_nans)
    found, again = choices(method, strict_and_in_64_bits)
    assert found == expected
    for one, other in zip(prediction, again, strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-6)
