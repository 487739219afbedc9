"""A selector that chooses and learns, and meshes of devices that there are not."""

import jax
import numpy as np

import jaxsel
from jaxsel import PromptSelector


def choices(selector: PromptSelector, steps: int = 3) -> list[list[int]]:
    """What it selects next, learning on the way."""
    chosen = []
    for _ in range(steps):
        chosen.append(selector.select(4).tolist())
        selector.observe(chosen[-1], np.array(chosen[-1]) % 9, 8)
    return chosen


def mesh_of(size: int) -> jax.sharding.Mesh:
    """The first devices of those that `conftest` has the CPU pretend to be."""
    return jaxsel.prompts_mesh(jax.devices("cpu")[:size])
