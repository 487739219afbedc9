"""Standard dtype promotion for calls of Flax and Optax, which mix dtypes even if the user's JAX setting forbids it."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def with_standard_dtype_promotion(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return a function that runs the given one under standard dtype promotion, whatever the user's setting is."""

    @functools.wraps(function)
    def run(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        with jax.numpy_dtype_promotion("standard"):
            return function(*arguments, **options)

    return run
