"""A lock that lets one thread of one process at a time run the methods of a stateful object."""

import functools
import threading
from collections.abc import Callable
from os import getpid
from typing import Any


class ProcessBoundLock:
    """A re-entrant lock that only the process that made it can acquire.

    A forked child inherits locks that none of its threads will ever release, and it lacks JAX's threads. It would wait
    forever. The process is therefore checked before the lock is acquired.
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


def locked(method: Callable[..., Any]) -> Any:
    """Wrap the method so that it runs while `self._lock` is held."""

    @functools.wraps(method)
    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        with self._lock:
            return method(self, *arguments, **named)

    return run
