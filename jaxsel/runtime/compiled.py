"""Compiles the functions of a selector once, for all `PromptSelector`s that use it.

A compiled function is an attribute of its original function, so that both are freed together. This matters because a
selector may hold the embeddings of a pool. The compiled functions make their own random keys, one per call, from the
seed, the kind of call and a counter of earlier calls.
"""

import contextlib
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Shaped, UInt32

from jaxsel.base import Rollouts, State, call_optional

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
    return _Update(update, donates=True)


@_kept_with_its_function
def compiled_preview(update: Any) -> Any:
    """Compile `update` as `compiled_update` does, but without donating the given state."""
    return _Update(update, donates=False)


class _Update:
    """A compiled update. The state's constants stay where they are: they are neither donated nor results.

    XLA copies a donated or returned array whose memory is not its own, such as the memory of a mapped file.
    """

    def __init__(self, update: Any, *, donates: bool):
        def run(names, constants, changing, seed, counter, visits):
            state = with_fields(changing, dict(zip(names, constants, strict=True)))
            state = update(_key(seed, _UPDATE, counter), state, Rollouts(*visits))
            return with_fields(state, dict.fromkeys(names))

        self._run = jax.jit(run, static_argnums=0, donate_argnums=2 if donates else ())

    def __call__(self, state: State, seed: Any, counter: Any, visits: Any) -> State:
        names = tuple(call_optional(state, "constants", ()))
        constants = [operator.attrgetter(name)(state) for name in names]
        changing = with_fields(state, dict.fromkeys(names))
        changed = self._run(names, constants, changing, seed, counter, visits)
        return with_fields(changed, dict(zip(names, constants, strict=True)))

    def number_of_programs(self) -> int:
        """Return how many shapes of arguments it was compiled for."""
        return self._run._cache_size()  # pyright: ignore[reportAttributeAccessIssue]


def with_fields(state: State, values: dict[str, Any]) -> State:
    """Return the state with other values of these fields; `inner.embeddings` is a field of the field `inner`."""
    for name, value in values.items():
        field, _, rest = name.partition(".")
        state = state._replace(**{field: with_fields(getattr(state, field), {rest: value}) if rest else value})
    return state


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
    length, size = len(column), to(len(column))
    if length == size:
        return column
    if isinstance(column, jax.Array):
        return jnp.pad(column, (0, size - length), constant_values=fill)
    longer = np.full(size, fill, column.dtype)  # np.pad takes 9 microseconds
    longer[:length] = column
    return longer


def _key(seed: UInt32[Array, ""] | np.uint32, stream: int, counter: Int[Array, ""] | int) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), counter)
