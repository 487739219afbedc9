"""A table of the pool for other programs: visits and predictions, one row per prompt."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxsel.base import Prediction


def pool_table(
    prediction: Prediction,
    visits: Int[np.ndarray, " N"],
    last_visit: Int[np.ndarray, " N"],
    keys: Any | None,
    level: float,
) -> dict[str, np.ndarray]:
    """Return the columns by name, see `PromptSelector.table`."""
    rate, variance, mixed = map(np.asarray, (prediction.success_rate, prediction.variance, prediction.mixed))
    lower, upper = interval(rate, variance, level)
    return {
        **({} if keys is None else {"key": np.array(keys, object)}),
        "visits": visits.copy(),
        "last_visit": last_visit.copy(),
        "success_rate": rate,
        "lower": lower,
        "upper": upper,
        "mixed": mixed,
    }


def interval(
    mean: Float[np.ndarray, " N"], variance: Float[np.ndarray, " N"], level: float
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Return the central interval of the Beta distribution with this mean and variance."""
    from scipy.special import betaincinv

    m, v = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    # a Beta distribution has a variance above 0 and below m (1 - m)
    m = np.clip(m, 1e-6, 1 - 1e-6)
    strength = np.clip(m * (1 - m) / np.maximum(v, 1e-12) - 1, 1e-3, 1e9)
    tail = (1 - level) / 2
    lower, upper = (betaincinv(m * strength, (1 - m) * strength, share) for share in (tail, 1 - tail))
    return lower.astype(np.float32), upper.astype(np.float32)
