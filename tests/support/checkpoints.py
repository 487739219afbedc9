"""A small selector whose checkpoints show how often it has observed."""

import pathlib

import jaxsel
from jaxsel import PromptSelector

METHOD = jaxsel.dps()
N = 10


def observed(times: int) -> PromptSelector:
    """Return a selector that has visited prompt 3 `times` times."""
    selector = PromptSelector(METHOD, num_prompts=N)
    for _ in range(times):
        selector.observe([3], [4], 8)
    return selector


def load(path: pathlib.Path) -> PromptSelector:
    return PromptSelector.load(path, METHOD, num_prompts=N)
