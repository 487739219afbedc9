"""The mean over seeds and its standard error."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def standard_error(values: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over the first axis, the seeds.

    It is NaN for a single seed, and where a value is infinite.
    """
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):
        return values.std(0, ddof=1) / np.sqrt(len(values))


def over_seeds(values: Sequence[Any] | np.ndarray) -> dict[Any, Any]:
    """Return the mean over seeds and its standard error.

    Dictionaries, nested ones too, become one dictionary of the same keys, with a mean and a standard error per number.
    """
    if isinstance(values[0], dict):
        return {name: over_seeds([one[name] for one in values]) for name in values[0]}
    array = np.array(values, float)
    return {"mean": float(array.mean()), "standard_error": float(standard_error(array))}


def of_seeds(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Return `over_seeds` of numbers, and the numbers themselves as `per_seed`."""
    return {"per_seed": [float(value) for value in values]} | over_seeds(values)


def shown(number: dict[str, float], digits: int = 3) -> str:
    """Return a table's cell: the mean with its standard error in brackets, or a dash where the mean is NaN.

    An infinite mean, such as the steps to an accuracy that is never reached, becomes "never".
    """
    if not np.isfinite(number["mean"]):
        return "-" if np.isnan(number["mean"]) else "never"
    error = "" if np.isnan(number["standard_error"]) else f" ({number['standard_error']:,.{digits}f})"
    return f"{number['mean']:,.{digits}f}{error}"
