"""The actor of `jaxsel.integrations.ray`, in a process that Ray may start again. This module does not import Ray."""

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsel.integrations._served import Served
from jaxsel.runtime.prompt_selector import PromptSelector

LOCK_FILE = "server.lock"
_METHODS = ("call", "save", "load", "metrics", "rows")
_PATIENCE = 20.0  # seconds to wait for the lock, which a killed server may still hold
_log = logging.getLogger(__name__)


class Server:
    """Holds a `Served` (the selector and its journal), or the error that kept it from starting, for its callers.

    Args:
        token: Identifies the call of `serve` that made this server.
        make: Function that makes the selector.
        folder: Folder of the state.
        save_every: Number of observations after which the state is saved.
        options: Arguments of `TrainerEdge`.
    """

    def __init__(
        self, token: str, make: Callable[[], PromptSelector], folder: str, save_every: int, options: dict[str, Any]
    ):
        self._token, self._folder = token, folder
        self._failure: Exception | None = None
        try:
            self._lock = _locked(Path(folder))
            self._served = Served(make, folder, save_every, options)
        except Exception as error:
            self._failure = error

    def has_failed(self) -> bool:
        """Return whether the server could not start."""
        return self._failure is not None

    def accept(
        self, token: str, make: Callable[[], PromptSelector], folder: str, wanted_meaning: dict[str, Any]
    ) -> None:
        """Accept a call of `serve` if its token shows that it made this server, or if it asks for the same server.

        Args:
            token: Identifies the call of `serve`.
            make: Function that makes the selector of the call.
            folder: Folder of the state.
            wanted_meaning: The options of the call that decide what calls mean, see `_served.meaning`.

        Raises:
            ValueError: The folder, the method, the pool, or an option that decides what calls mean differs.
        """
        served = self._running()
        if token == self._token:
            return
        if folder != self._folder:
            raise ValueError(
                f"folder is {folder}, but the running server of this name uses {self._folder}; give that folder or "
                "another name"
            )
        wanted, own = make(), served.edge.selector
        if (wanted.spec, wanted.pool) != (own.spec, own.pool):
            raise ValueError(
                f"selector is {wanted.spec['method']} for {wanted.pool}, but the running server of this name has "
                f"{own.spec['method']} for {own.pool}, or other hyperparameters; give another name, or stop that server"
            )
        if wanted_meaning != served.meaning:
            raise ValueError(
                f"the options are {wanted_meaning}, but the running server of this name has {served.meaning} (without "
                "defaults); give these, another name, or stop that server"
            )

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of `Served`."""
        assert method in _METHODS, method
        return getattr(self._running(), method)(*arguments)

    def _running(self) -> Served:
        if self._failure is not None:
            raise self._failure
        return self._served


def _locked(folder: Path) -> int:
    """Return an open file whose lock keeps other servers out of the folder until this process ends.

    Raises:
        ValueError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, deadline = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644), time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(file)
                raise ValueError(f"folder {folder} is in use by another server; give each server its own") from None
            time.sleep(0.05)
            continue
        except OSError as error:  # some network file systems have no locks
            _log.warning("%s cannot be locked (%s); start no second server in it", folder, error)
        return file
