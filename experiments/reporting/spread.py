"""Numbers of several seeds: their mean and its standard error."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis, the seeds; NaN for one alone, and where one is infinite."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):
        return values.std(0, ddof=1) / np.sqrt(len(values))


def over_seeds(values: Sequence[Any] | np.ndarray) -> dict[Any, Any]:
    """Mean and standard error, for a result; of dictionaries that are alike, nested too, those of every number."""
    if isinstance(values[0], dict):
        return {name: over_seeds([one[name] for one in values]) for name in values[0]}
    array = np.array(values, float)
    return {"mean": float(array.mean()), "standard_error": float(standard_error(array))}


def of_seeds(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """`over_seeds` of numbers, with those of every seed."""
    return {"per_seed": [float(value) for value in values]} | over_seeds(values)


def shown(number: dict[str, float], digits: int = 3) -> str:
    """For a table: the mean, and the standard error where there is one; a dash where there is neither.

    What is infinite, as the steps to an accuracy that is not reached, is "never".
    """
    if not np.isfinite(number["mean"]):
        return "-" if np.isnan(number["mean"]) else "never"
    error = "" if np.isnan(number["standard_error"]) else f" ({number['standard_error']:,.{digits}f})"
    return f"{number['mean']:,.{digits}f}{error}"
