"""One thread at a time, in one process: what keeps the methods of a stateful object apart."""

import functools
import threading
from collections.abc import Callable
from os import getpid
from typing import Any


class Guard:
    """A re-entrant lock that refuses every process but the one that made it.

    A forked child inherits locks that no thread of it will ever release, and JAX's threads are not there: it would
    wait forever. The process is checked before the lock is touched.
    """

    def __init__(self):
        self._process = getpid()
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if getpid() != self._process:
            raise RuntimeError(
                f"this selector was made in process {self._process} and cannot be used in process {getpid()}, "
                "which is a fork of it; make or load the selector in the child, or start processes with spawn"
            )
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


def guarded(method: Callable[..., Any]) -> Any:
    """Let the method run under `self._guard`."""

    @functools.wraps(method)
    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        with self._guard:
            return method(self, *arguments, **named)

    return run
