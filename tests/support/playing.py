"""Choices of a selector that observes its batches, and meshes of simulated devices."""

import jax
import numpy as np

import jaxsel
from jaxsel import PromptSelector


def choices(selector: PromptSelector, steps: int = 3) -> list[list[int]]:
    """Return the next selections of a selector that observes each of them."""
    chosen = []
    for _ in range(steps):
        chosen.append(selector.select(4).tolist())
        selector.observe(chosen[-1], np.array(chosen[-1]) % 9, 8)
    return chosen


def mesh_of(size: int) -> jax.sharding.Mesh:
    """Return a mesh of the first `size` of the 8 CPU devices that `tests/conftest.py` makes JAX simulate."""
    return jaxsel.prompts_mesh(jax.devices("cpu")[:size])
