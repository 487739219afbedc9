"""Features of prompts: numbers from their strata, such as the settings of a generated prompt's difficulty."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rl import _checks

_MOST_VALUES = 256
_LARGEST = 1e100  # larger integers, which JSON may have, count as texts: their squares are no floats


def features_of(strata: Sequence[str]) -> Float[np.ndarray, "N d"]:
    """Return a vector per prompt from its stratum, as embeddings of the pool. All columns have mean 0 and variance 1.

    A stratum that is a number gives one column. A JSON object, such as a difficulty of reasoning-gym, gives one column
    per name whose values are numbers. Other values give one column per distinct value, which tells where it occurs.
    Columns without variance are left out, and a number that a stratum lacks counts as the mean.

    >>> features_of(['{"terms": 2}', '{"terms": 4}']).tolist()
    [[-1.0], [1.0]]
    >>> features_of(["algebra", "algebra", "geometry", "geometry"])[:, 0].tolist()
    [1.0, 1.0, -1.0, -1.0]

    Args:
        strata: The stratum of each prompt.

    Raises:
        ValueError: No number and no kind differs among the strata, or texts have over 256 distinct values.
    """
    distinct = sorted(set(strata))  # not np.unique: in its array, every text takes as much memory as the longest
    number = {stratum: i for i, stratum in enumerate(distinct)}
    row = np.fromiter((number[stratum] for stratum in strata), np.int64, len(strata))
    count = np.bincount(row, minlength=len(distinct))
    parsed = [_parsed(str(stratum)) for stratum in distinct]
    columns = []
    for name in sorted({name for values in parsed for name in values}):
        values = [one.get(name) for one in parsed]
        if all(value is None or _is_number(value) for value in values):
            columns.append(np.array([math.nan if value is None else value for value in values], float))
            continue
        kinds = sorted({str(value) for value in values})
        if len(kinds) > _MOST_VALUES:
            raise ValueError(
                f"strata have {len(kinds)} distinct values {name!r}, such as {kinds[0]!r:.60}; give numbers, or at "
                f"most {_MOST_VALUES} kinds of prompts"
            )
        columns += [np.array([str(value) == kind for value in values], float) for kind in kinds]
    scaled = [one for column in columns if (one := _standardised(column, count)) is not None]
    if not scaled:
        raise ValueError(
            f"strata, such as {str(distinct[0])!r:.60}, have no number and no kind that differs; they tell no prompt "
            "from another, so use other embeddings"
        )
    return np.stack(scaled, 1).astype(np.float32)[row]


def _parsed(stratum: str) -> dict[str, Any]:
    """Return the values of a stratum by name; one value without a name has the name ''."""
    try:
        found = json.loads(stratum)
    except (ValueError, RecursionError):
        return {"": stratum}
    if isinstance(found, dict):
        return found
    return {"": found if _is_number(found) else stratum}


def _is_number(value: Any) -> bool:
    return _checks.is_number(value) and abs(value) < _LARGEST


def _standardised(column: np.ndarray, count: np.ndarray) -> np.ndarray | None:
    """Return a column of the distinct strata with mean 0 and variance 1 over the prompts; None without variance."""
    weight = np.where(np.isnan(column), 0, count)
    if not weight.any():
        return None
    mean = np.average(np.nan_to_num(column), weights=weight)
    centred = np.where(np.isnan(column), 0, column - mean)
    scale = math.sqrt(float(np.average(centred**2, weights=count)))
    return centred / scale if scale > 1e-9 * max(1.0, abs(mean)) else None
