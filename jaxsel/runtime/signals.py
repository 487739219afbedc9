"""Signals that must not stop a program in the middle of an update."""

import signal
import threading
from types import FrameType
from typing import Any

_NAMES = {"SIGHUP", "SIGINT", "SIGTERM", "SIGALRM", "SIGUSR1", "SIGUSR2"}  # Windows lacks some
_KINDS = [kind for kind in signal.Signals if kind.name in _NAMES]


class SignalsWait:
    """A block in which handlers of signals wait for its end.

    An update donates the state's memory to the next state. If Ctrl-C raised an exception between the update and the
    assignment of its result, both states would be lost. Python runs handlers only in the main thread, so in every other
    thread the block changes nothing.
    """

    def __enter__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._waiting: list[int] | None = []
        if threading.current_thread() is not threading.main_thread():
            return
        for kind in _KINDS:
            handler = signal.getsignal(kind)
            if callable(handler):
                self._handlers[kind] = handler
                signal.signal(kind, self._handle)

    def __exit__(self, *exception: object) -> None:
        waiting, self._waiting = self._waiting, None  # from here on, a signal goes to its own handler at once
        for kind, handler in self._handlers.items():
            signal.signal(kind, handler)
        for kind in waiting or ():
            signal.raise_signal(kind)

    def _handle(self, kind: int, frame: FrameType | None) -> None:
        if self._waiting is None:
            self._handlers[kind](kind, frame)
        else:
            self._waiting.append(kind)
