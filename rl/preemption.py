"""Preemption: a signal stops a run between two steps, after its checkpoint is written."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""SIGTERM, Ctrl-C (SIGINT), and the signals that schedulers send before they take the machine away: USR1 with SLURM's
`--signal=USR1@120`, USR2 with submitit."""


_open = 0  # number of `Preemption` contexts that the main thread is in
_pipe: int | None = None  # the end from which `_watch` reads the numbers of signals
_reading = threading.Lock()  # of `_pipe` together with `_open`
_leaving = threading.Lock()
_AGAIN = 0.01  # seconds
_ending: "Preemption | None" = None  # the one whose `interrupting` block the process is in


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

    A second signal of the same kind has its usual effect. Where several ranks stop because one of them was asked, the
    signal of another rank may arrive after `PreemptedError` has left its `with` block. After `exit_when_asked`, it ends
    no process either. Elsewhere, as in a notebook, every `with` block gives the signals back.

    Attributes:
        asked: Whether a signal has arrived.
    """

    def __init__(self):
        self.asked = False
        self._at_once = False
        self._number: int = signal.SIGTERM  # of the last signal
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers in no other thread
            _count(1)
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is PreemptedError and not self.asked and _open == 1 and _pipe is not None:
            return  # another rank was asked, and the signal of this one is on its way; an outer block would take it
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
        global _ending
        before, self._at_once = self._at_once, True
        outer, _ending = _ending, self
        hook = sys.unraisablehook
        sys.unraisablehook = partial(self._raise_again, hook)
        try:
            if not self.asked:
                yield
        except Exception:
            if not self.asked:
                raise
        finally:
            self._at_once, _ending, sys.unraisablehook = before, outer, hook
        if self.asked:
            raise PreemptedError(0)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked, self._number = True, number
        signal.signal(number, self._before[signal.Signals(number)])
        if self._at_once:
            raise PreemptedError(0)

    def _raise_again(self, hook: Callable[[Any], Any], ignored: Any) -> None:
        """Send the signal once more if its error was raised where Python ignores all errors.

        Those are destructors and callbacks of the garbage collection, during which a signal may arrive.
        """
        if not isinstance(ignored.exc_value, PreemptedError):
            hook(ignored)
            return
        signal.signal(self._number, self._ask)
        again = threading.Timer(_AGAIN, lambda: self._at_once and os.kill(os.getpid(), self._number))
        again.daemon = True
        again.start()


def raise_if_asked() -> None:
    """Raise `PreemptedError` inside of `interrupting` if a signal has arrived: other code may have caught its error."""
    if _ending is not None and _ending.asked:
        raise PreemptedError(0)


def exit_when_asked() -> None:
    """Let the first signal of `SIGNALS` end this process with exit code 75, except inside of `Preemption`.

    Call this before imports that take seconds. A thread watches for signals too: while the main thread waits inside of
    a library, for example for another process, Python calls no handler.
    """
    global _pipe
    _pipe, write = os.pipe()
    os.set_blocking(_pipe, False)
    os.set_blocking(write, False)
    for number in SIGNALS:
        signal.signal(number, _exit)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_watch, args=(_pipe,), daemon=True).start()


def _forget() -> None:
    """Let a child of this process have its own signals; a lock that another thread held would stay locked."""
    global _pipe, _reading
    signal.set_wakeup_fd(-1)
    _pipe, _reading = None, threading.Lock()


def _watch(pipe: int) -> None:
    while True:
        select.select([pipe], [], [])
        with _reading:
            arrived = _read(pipe)
            ends = not _open and any(number in SIGNALS for number in arrived)
        if ends:
            _exit()


def _read(pipe: int) -> bytes:
    """Return the numbers of the signals that have arrived since the last call."""
    try:
        return os.read(pipe, 2**16)
    except BlockingIOError:
        return b""


def _exit(*_: object) -> None:
    """End the process at once: there is nothing to save, and an importing library may catch errors."""
    _leaving.acquire(timeout=1)  # the watching thread and the handler may both get here; one of them says why
    os.write(2, b"stopped before it trained, as it was asked to; resume to go on\n")
    os._exit(os.EX_TEMPFAIL)


def _count(change: int) -> None:
    """Count an opened or closed `Preemption`. One that closes has handled the signals that have arrived."""
    global _open
    with _reading:
        if change < 0 and _pipe is not None:
            _read(_pipe)
        _open += change
