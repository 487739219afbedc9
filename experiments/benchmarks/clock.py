"""Wall time of a call."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def milliseconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    result = call()
    taken = 1000 * (time.perf_counter() - start)
    del result  # what it takes to give its memory back is not counted
    return taken


def median_milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Of several, after one that does not count."""
    call()
    return float(np.median([milliseconds(call) for _ in range(repeats)]))
