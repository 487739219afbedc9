"""A lock that lets one thread of one process at a time run the methods of a stateful object."""

import functools
import threading
from collections.abc import Callable
from os import getpid
from typing import Any

_process: int | None = None
"""The process that made its first selector, and started JAX's threads for it."""


def refuse_forks() -> None:
    """Refuse to make or use a selector in a fork of a process that has made one.

    The fork lacks JAX's threads, and inherits locks that nobody will ever release. It would wait forever.

    Raises:
        RuntimeError: This process is such a fork.
    """
    global _process
    if _process is None:
        _process = getpid()
    elif _process != getpid():
        raise RuntimeError(
            f"process {_process} has made a selector, and process {getpid()}, which is a fork of it, lacks the threads "
            "of JAX; start the process with spawn or forkserver in place of fork"
        )


class ProcessBoundLock:
    """A re-entrant lock that no fork of the process can make or acquire, see `refuse_forks`."""

    def __init__(self):
        refuse_forks()
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        refuse_forks()
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
