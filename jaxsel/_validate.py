"""Checks of arguments on the host. Each raises a ValueError that names the argument, the value and the cure."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import jax
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_COLDEST = 1e-30  # temperature
_SMALLEST_RATE = 1e-6  # next to 1, float32 has about 17 numbers per 1e-6


def traced(value: Any) -> TypeGuard[jax.Array]:
    """Return whether JAX traces the value, for example to take a gradient. A traced value cannot be checked."""
    return isinstance(value, Tracer)


def json_value(value: Any) -> Any:
    """Return a number or an array for a spec, the JSON description of a method: a number, lists, or "traced".

    "traced" stands for a value that JAX traces.
    """
    return "traced" if traced(value) else np.asarray(value).tolist()


def is_number(value: Any) -> bool:
    """Return whether the value is one finite number. Text, None, vectors and torch tensors are not."""
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return False  # NumPy refuses an integer that no float holds
    is_scalar = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and np.ndim(value) == 0
    return is_scalar and not traced(value) and bool(np.isfinite(value))


def finite(**arguments: float) -> None:
    """Check that every argument is a finite number."""
    for name, value in arguments.items():
        if not is_number(value):
            raise ValueError(f"{name} is {value}; give a finite number")


def positive(**arguments: float) -> None:
    """Check that every argument is finite and above 0, in float32 too."""
    for name, value in arguments.items():
        if not (is_number(value) and value > 0):
            raise ValueError(f"{name} is {value}; give a finite number above 0")
        if not _SMALLEST <= value <= _LARGEST:
            raise ValueError(f"{name} is {value}; give a number from {_SMALLEST:.2g} to {_LARGEST:.2g}, as in float32")


def inner_rate(**arguments: float) -> None:
    """Check that every argument is a success rate that float32 tells well from 0 and 1."""
    for name, value in arguments.items():
        if not (is_number(value) and _SMALLEST_RATE <= value <= 1 - _SMALLEST_RATE):
            raise ValueError(f"{name} is {value}; give a number from {_SMALLEST_RATE} to {1 - _SMALLEST_RATE}")


def temperature(**arguments: float) -> None:
    """Check that every argument is finite and at least 1e-30: scores divided by less could overflow in float32."""
    for name, value in arguments.items():
        if not (is_number(value) and value >= _COLDEST):
            cure = "give a finite number of at least 1e-30, or the rule top_k() for the largest scores"
            raise ValueError(f"{name} is {value}; {cure}")


def positive_integer(**arguments: int) -> None:
    """Check that every argument is an integer of at least 1."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is {value!r}; give an integer of at least 1")


def non_negative(**arguments: float) -> None:
    """Check that every argument is finite and at least 0."""
    for name, value in arguments.items():
        if not (is_number(value) and value >= 0):
            raise ValueError(f"{name} is {value}; give a finite number of at least 0")


def unit_interval(**arguments: Any) -> None:
    """Check that every argument lies in [0, 1]. Traced arguments are not checked."""
    for name, value in arguments.items():
        if not traced(value) and not (is_number(value) and 0 <= value <= 1):
            raise ValueError(f"{name} is {value}; give a number from 0 to 1")


def integer_in(low: int, high: int, **arguments: Any) -> None:
    """Check that every argument is an integer with low <= value < high."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value < high:
            raise ValueError(f"{name} is {value!r}; give an integer from {low} to {high - 1}")


def listed(what: str, **arguments: Any) -> None:
    """Check that every argument can be iterated and is not a text; `what` says what it should list."""
    for name, value in arguments.items():
        if isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
            raise ValueError(f"{name} is {value!r:.60}; give {what}")


def one_of(options: Mapping[str, Any] | tuple[str, ...], **arguments: str) -> None:
    """Check that every argument is one of the options."""
    for name, value in arguments.items():
        if value not in options:
            raise ValueError(f"{name} is {value!r}; give one of {', '.join(map(repr, options))}")


def integers(name: str, value: ArrayLike, *, low: int, high: int) -> np.ndarray:
    """Return `value` as an int32 vector of integers with low <= value < high. Whole floats count as integers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is not an array on the host ({error}); give a vector of integers") from error
    unmasked(name, value, "leave out their rows")
    if array.size == 0:
        return np.zeros(0, np.int32)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; give a vector")
    whole = array.dtype.kind == "f" and np.array_equal(array, np.trunc(array))
    if array.dtype.kind not in "iu" and not whole:
        shown = np.array2string(array, threshold=6)
        raise ValueError(f"{name} is {shown} of type {array.dtype}; give integers")
    wrong = (array < low) | (array >= high)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"{name}[{at}] is {array[at]}; give integers from {low} to {high - 1}")
    return array.astype(np.int32)


def numbers(name: str, value: ArrayLike, *, low: float, high: float) -> np.ndarray:
    """Return `value` as a float64 vector of numbers from `low` to `high`. Excesses of up to 1e-6 are clipped."""
    array = on_host(name, value, np.float64, "give a vector of numbers")
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; give a vector")
    wrong = ~((array >= low - 1e-6) & (array <= high + 1e-6))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"{name}[{at}] is {array[at]}; give numbers from {low} to {high}")
    return np.clip(array, low, high)


def on_host(name: str, value: ArrayLike | Any, dtype: Any, cure: str) -> np.ndarray:
    """Return `value` as an array of this type, a copy: its owner may change it later.

    Complex numbers, texts, times and other values that are not numbers are refused. None becomes NaN.
    """
    unmasked(name, value, cure)
    try:
        array = np.asarray(value)
        if np.iscomplexobj(array):
            raise TypeError("it is complex")
        if array.dtype.kind in "USTMm" or any(isinstance(entry, str | bytes) for entry in _objects(array)):
            raise TypeError("it holds texts or times")
        return array.astype(dtype)
    except (TypeError, ValueError, RuntimeError) as error:  # for example a torch tensor with gradient
        raise ValueError(f"{name} is not an array of numbers on the host ({error}); {cure}") from error


def _objects(array: np.ndarray) -> Iterator[Any]:
    return array.flat if array.dtype.kind == "O" else iter(())


def unmasked(name: str, value: Any, cure: str) -> None:
    """Check that the value is not a masked array with masked entries: NumPy would take what lies under the mask."""
    if np.ma.is_masked(value):
        raise ValueError(f"{name} has masked entries, of which nothing is known; {cure}")


def nan_where_masked(value: Any) -> Any:
    """Return a masked array as float64 with NaN under the mask, and anything else unchanged."""
    if not isinstance(value, np.ma.MaskedArray):
        return value
    return np.ma.filled(value.astype(np.float64), np.nan)


def rows(name: str, value: ArrayLike, num_prompts: int) -> np.ndarray:
    """Return rows of the pool as an int32 vector, from integers or from a boolean mask of the whole pool."""
    try:
        mask = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # `integers` below raises the error for this value
        mask = np.zeros(0)
    if mask.dtype.kind != "b" or np.ma.is_masked(value):
        return integers(name, value, low=0, high=num_prompts)
    if mask.shape != (num_prompts,):
        raise ValueError(f"{name} is a mask of shape {mask.shape}; give one boolean per prompt, {num_prompts} in all")
    return np.flatnonzero(mask).astype(np.int32)


_CURES = {
    ("Predictor", "Selector"): "compose it: make_selector(predictor, expected_variance(log=True), gumbel_top_k(1.0))",
    ("Selector", "Predictor"): "give the predictor alone, for example hidden_markov() and not dps()",
}


def made(kind: type, **arguments: Any) -> None:
    """Check that every argument is an instance of `kind`, for example a `Rule` and not the function `top_k`."""
    for name, value in arguments.items():
        if not isinstance(value, kind):
            called = getattr(value, "__name__", None) if callable(value) else None
            a_kind = f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
            cure = f"call it: {called}(...)" if called else f"give {a_kind}"
            cure = _CURES.get((type(value).__name__, kind.__name__), cure)
            raise ValueError(f"{name} is {value!r:.200}, which is not {a_kind}; {cure}")


def distinct(name: str, value: np.ndarray) -> None:
    """Check that the entries of the vector are distinct."""
    unique, counts = np.unique(value, return_counts=True)
    if len(unique) != len(value):
        repeated = unique[np.argmax(counts)].item()
        raise ValueError(f"{name} holds the entry {repeated!r} {counts.max()} times; give distinct entries")
