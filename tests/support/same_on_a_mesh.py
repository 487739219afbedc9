"""A predictor on three devices of the CPU makes the choices that it makes on one."""

from pathlib import Path

import jax
import pytest

import jaxsel


def assert_same_on_a_mesh(predictor: jaxsel.Predictor, steps: int, folder: Path) -> None:
    """Choose for some steps on one device and on three, and go on from a checkpoint of the three."""
    method = jaxsel.make_selector(predictor, jaxsel.expected_variance(), jaxsel.top_k())
    mesh = jaxsel.prompts_mesh(jax.devices("cpu")[:3])
    one, three = (jaxsel.PromptSelector(method, num_prompts=20, mesh=where) for where in (None, mesh))
    for step in range(steps):
        ids = one.select(4)
        assert ids.tolist() == three.select(4).tolist()
        for selector in (one, three):
            selector.observe(ids, (ids + step) % 9, 8)
    assert three.metrics() == pytest.approx(one.metrics(), rel=1e-4)
    three.save(folder)
    assert jaxsel.PromptSelector.load(folder).select(4).tolist() == one.select(4).tolist()
