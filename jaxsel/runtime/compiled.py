"""Compiles the functions of a selector once, for all `PromptSelector`s that use it.

A compiled function is an attribute of its original function, so that both are freed together. This matters because a
selector may hold the embeddings of a pool. The compiled functions make their own random keys, one per call, from the
seed, the kind of call and a counter of earlier calls.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Shaped, UInt32

from jaxsel.base import Rollouts

_SELECT, _PREDICT, _UPDATE, _INIT = range(4)  # one stream of random keys per kind of call


def initial_key(seed: np.uint32) -> Key[Array, ""]:
    """Return the key of `Selector.init`."""
    return _key(seed, _INIT, 0)


def _kept_with_its_function(compile_it: Callable[[Any], Any]) -> Callable[[Any], Any]:
    name = f"_jaxsel_{compile_it.__name__}"

    @functools.wraps(compile_it)
    def compiled(function: Any) -> Any:
        compiled_before = getattr(function, name, None)
        if compiled_before is not None:
            return compiled_before
        compiled_now = compile_it(function)
        # a bound method takes no attribute, so each `PromptSelector` compiles it again
        with contextlib.suppress(AttributeError):
            setattr(function, name, compiled_now)
        return compiled_now

    return compiled


@_kept_with_its_function
def compiled_select(select: Any) -> Any:
    """Compile `select` to `(state, seed, counter, batch_size, candidates, options) -> Selection`.

    `options` are further arguments of `select` by name.
    """

    def run(state, seed, counter, batch_size, candidates, options):
        return select(_key(seed, _SELECT, counter), state, batch_size, candidates, **options)

    return jax.jit(run, static_argnums=3)


@_kept_with_its_function
def compiled_predict(predict: Any) -> Any:
    """Compile `predict` to `(state, seed, counter, prompt_ids) -> Prediction`."""
    return jax.jit(lambda state, seed, counter, ids: predict(_key(seed, _PREDICT, counter), state, ids))


@_kept_with_its_function
def compiled_update(update: Any) -> Any:
    """Compile `update` to `(state, seed, counter, visits) -> state`; the given state is donated."""
    return jax.jit(_update_with_key(update), donate_argnums=0)


@_kept_with_its_function
def compiled_preview(update: Any) -> Any:
    """Compile `update` as `compiled_update` does, but without donating the given state."""
    return jax.jit(_update_with_key(update))


def _update_with_key(update: Any) -> Any:
    def run(state, seed, counter, visits):
        return update(_key(seed, _UPDATE, counter), state, Rollouts(*visits))

    return run


def bucket(size: int) -> int:
    """Return the smallest power of two that is at least `size` and at least 8."""
    return max(8, 1 << max(size - 1, 0).bit_length())


def wide_bucket(size: int) -> int:
    """Return the smallest power of four that is at least `size` and at least 256.

    An update costs little per row. For gps it costs the same for 8 and 256 rows, and its compilation costs seconds.
    """
    return max(256, 1 << 2 * math.ceil(max(size - 1, 0).bit_length() / 2))


def lengthened(
    column: Shaped[Array | np.ndarray, " m"], fill: int = 0, *, to: Callable[[int], int] = bucket
) -> Shaped[Array | np.ndarray, " p"]:
    """Pad the column to the size of its bucket, so that batches of many sizes share few compilations."""
    missing = to(len(column)) - len(column)
    xp = jnp if isinstance(column, jax.Array) else np
    return xp.pad(column, (0, missing), constant_values=fill) if missing else column


def _key(seed: UInt32[Array, ""] | np.uint32, stream: int, counter: Int[Array, ""] | int) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), counter)
