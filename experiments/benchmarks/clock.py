"""Wall time of calls."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def milliseconds(call: Callable[[], Any]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    result = call()
    taken = 1000 * (time.perf_counter() - start)
    del result  # freeing its memory does not count
    return taken


def median_milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the median wall time of several calls, after one call that does not count."""
    call()
    return float(np.median([milliseconds(call) for _ in range(repeats)]))
