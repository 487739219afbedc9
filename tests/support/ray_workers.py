"""Workers of a Ray cluster that share one selector, and the process that kills its server."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import ray  # pyright: ignore[reportMissingImports]

from jaxsel.integrations.ray import SelectorHandle
from tests.support.served_calls import rewards_of


class _Worker:
    """Trains on its own batches, and records its calls with their place in the order of all calls."""

    def __init__(self, selector: SelectorHandle):
        self._selector = selector
        self._calls: list[tuple[int, str, dict[str, Any], Any]] = []

    def work(self, batch_size: int, stop: Path) -> None:
        """Select and observe until the file `stop` exists; the last prompt of a batch is observed with the next one."""
        late: list[int] = []
        round_ = 0
        while not stop.exists():
            ids = self._noted("next_batch", batch_size=batch_size).tolist()
            observed = late + ids[:-1]
            self._noted("observe", prompt_ids=observed, rewards=rewards_of(observed, round_))
            late = ids[-1:]
            round_ += 1
        self._noted("release", prompt_ids=late)

    def calls(self) -> list[tuple[int, str, dict[str, Any], Any]]:
        return self._calls

    def _noted(self, method: str, **arguments: Any) -> Any:
        answer = getattr(self._selector, method)(**arguments)
        self._calls.append((self._selector._order, method, arguments, np.asarray(answer).tolist()))
        return answer


Worker: Any = ray.remote(num_cpus=0)(_Worker)


def process_of(selector: SelectorHandle) -> int:
    return ray.get(selector._actor.__ray_call__.remote(lambda server: os.getpid()))


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
