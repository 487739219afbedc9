"""Converts the state of DPS from the layout of earlier versions.

`filtered` and `predicted` are beliefs with the rows UNSOLVED, MIXED and SOLVED. `excess` holds scaled counts of
transitions, from the state of its row to the state of its column. In the earlier layout the beliefs have no row for
SOLVED, and the last column of `excess` is the sum of its row.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_ROUNDING = 1e-6  # a remainder of a smaller share of its total may be pure rounding, and becomes 0


def shapes_as_here(saved: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Return the shapes of a checkpoint's arrays after their conversion to the layout of the shapes `here`."""
    return saved | {name: [3, *saved[name][1:]] for state in _earlier(saved, here) for name in _beliefs(state)}


def arrays_as_here(arrays: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's arrays in the layout of the shapes `here`."""
    arrays = dict(arrays)
    for state in _earlier({name: np.shape(array) for name, array in arrays.items()}, here):
        for name in _beliefs(state):
            arrays[name] = _applied(_with_solved, arrays[name])
        arrays[f"{state}.excess"] = _applied(_with_counts_to_solved, arrays[f"{state}.excess"])
    return arrays


def arrays_as_saved(arrays: dict[str, Any], saved: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays in the layout of a checkpoint with the shapes `saved`, so that it can be read."""
    names = [name for state in _earlier(saved, here) for name in _beliefs(state)]
    return arrays | {name: _applied(_without_solved, arrays[name]) for name in names}


def _earlier(saved: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return the names of the states whose beliefs have two rows in the checkpoint and three rows here."""
    states = [name.removesuffix(".filtered") for name in here if name.endswith(".filtered")]
    return [
        state
        for state in states
        if {f"{state}.excess", *_beliefs(state)} <= here.keys() & saved.keys()
        and all(_is_belief(saved[name], 2) and _is_belief(here[name], 3) for name in _beliefs(state))
    ]


def _beliefs(state: str) -> tuple[str, str]:
    return f"{state}.filtered", f"{state}.predicted"


def _is_belief(shape: Any, num_rows: int) -> bool:
    return isinstance(shape, list | tuple) and len(shape) == 2 and shape[0] == num_rows


def _applied(function: Callable[..., Any], array: Any) -> Any:
    """Apply the function to the array, on the host or on the array's devices."""
    if isinstance(array, np.ndarray):
        return function(np, array)
    return jax.jit(functools.partial(function, jnp), out_shardings=array.sharding)(array)


def _with_solved(xp: Any, belief: Float[Array | np.ndarray, "2 N"]) -> Float[Array | np.ndarray, "3 N"]:
    return xp.concatenate([belief, _rest(xp, xp.ones_like(belief[:1]), belief[:1], belief[1:])])


def _without_solved(xp: Any, belief: Float[Array | np.ndarray, "3 N"]) -> Float[Array | np.ndarray, "2 N"]:
    return xp.asarray(belief[:2])


def _with_counts_to_solved(xp: Any, excess: Float[Array | np.ndarray, "3 3 N"]) -> Float[Array | np.ndarray, "3 3 N"]:
    unsolved, mixed, total = excess[:, :1], excess[:, 1:2], excess[:, 2:]
    return xp.concatenate([unsolved, mixed, _rest(xp, total, unsolved, mixed)], 1)


def _rest(xp: Any, total: Any, first: Any, second: Any) -> Any:
    rest = total - (first + second)
    return xp.where(rest > _ROUNDING * total, rest, xp.zeros_like(rest))
