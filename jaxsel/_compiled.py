"""The functions of a selector, compiled once, however many `PromptSelector`s it is given to.

Random keys are made inside: a key of its own for every use, from the root key, the use and how often it came.
"""

import functools
from typing import Any

import jax
from jaxtyping import Array, Int, Key

_SELECT, _PREDICT, _UPDATE, _INIT = range(4)  # streams of random keys


def initial_key(seed: int) -> Key[Array, ""]:
    """The key of `Selector.init`."""
    return _key(jax.random.key(seed), _INIT, 0)


@functools.lru_cache(maxsize=64)
def compiled_select(select: Any) -> Any:
    """`(state, root_key, counter, batch_size, candidates) -> Selection`."""

    def run(state, root, counter, batch_size, candidates):
        return select(_key(root, _SELECT, counter), state, batch_size, candidates)

    return jax.jit(run, static_argnums=3)


@functools.lru_cache(maxsize=64)
def compiled_predict(predict: Any) -> Any:
    """`(state, root_key, counter, prompt_ids) -> Prediction`."""
    return jax.jit(lambda state, root, counter, ids: predict(_key(root, _PREDICT, counter), state, ids))


@functools.lru_cache(maxsize=64)
def compiled_update(update: Any) -> Any:
    """`(state, root_key, counter, rollouts) -> state`; the state that is given is donated."""

    def run(state, root, counter, rollouts):
        return update(_key(root, _UPDATE, counter), state, rollouts)

    return jax.jit(run, donate_argnums=0)


def _key(root: Key[Array, ""], stream: int, counter: Int[Array, ""] | int) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.fold_in(root, stream), counter)
