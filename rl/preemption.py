"""Preemption: a signal stops a run between two steps, after its checkpoint is written."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""SIGTERM, Ctrl-C (SIGINT), and the signals that schedulers send before they take the machine away: USR1 with SLURM's
`--signal=USR1@120`, USR2 with submitit."""


_open = 0  # number of `Preemption` contexts that the main thread is in
_leaving = threading.Lock()


class PreemptedError(BaseException):
    """The run stopped because of a signal. A resumed run gives the numbers of an undisturbed run.

    No subclass of `Exception`, because libraries and engines catch `Exception` and try again.

    Attributes:
        step: The number of finished steps. 0: this process had not started to train.
    """

    def __init__(self, step: int):
        super().__init__(step)  # pickle makes the copy for another process from these arguments
        self.step = step

    def __str__(self) -> str:
        where = f"after step {self.step}" if self.step else "before it trained"
        return f"stopped {where}, as it was asked to; resume to go on"


class Preemption:
    """A context manager that records the first signal of `SIGNALS` instead of ending the process.

    A second signal of the same kind has its usual effect.

    Attributes:
        asked: Whether a signal has arrived.
    """

    def __init__(self):
        self.asked = False
        self._at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers in no other thread
            _count(1)
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            _count(-1)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal raise `PreemptedError` at once, inside of a `with` block that may stop anywhere.

        Raises:
            PreemptedError: A signal arrived before or inside of the block, even if the block caught the error.
        """
        before, self._at_once = self._at_once, True
        try:
            if not self.asked:
                yield
        except Exception:
            if not self.asked:
                raise
        finally:
            self._at_once = before
        if self.asked:
            raise PreemptedError(0)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = True
        signal.signal(number, self._before[signal.Signals(number)])
        if self._at_once:
            raise PreemptedError(0)


def exit_when_asked() -> None:
    """Let the first signal of `SIGNALS` end this process with exit code 75, except inside of `Preemption`.

    Call this before imports that take seconds. A thread watches for signals too: while the main thread waits inside of
    a library, for example for another process, Python calls no handler.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in SIGNALS:
        signal.signal(number, _exit)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # the signals of a child are its own
    threading.Thread(target=_watch, args=(read,), daemon=True).start()


def _watch(read: int) -> None:
    while number := os.read(read, 1):
        if number[0] in SIGNALS and not _open:
            _exit(number[0], None)


def _exit(number: int, frame: FrameType | None) -> None:
    """End the process at once: there is nothing to save, and an importing library may catch errors."""
    del number, frame
    _leaving.acquire(timeout=1)  # the watching thread and the handler may both get here; one of them says why
    os.write(2, b"stopped before it trained, as it was asked to; resume to go on\n")
    os._exit(os.EX_TEMPFAIL)


def _count(change: int) -> None:
    global _open
    _open += change
