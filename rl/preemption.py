"""Preemption: a signal stops a run between two steps, after its checkpoint is written."""

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""SIGTERM, Ctrl-C (SIGINT), and the signals that schedulers send before they take the machine away: USR1 with SLURM's
`--signal=USR1@120`, USR2 with submitit."""


class PreemptedError(Exception):
    """The run stopped because of a signal. A resumed run gives the numbers of an undisturbed run.

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

    Args:
        at_once: Whether a signal also raises `PreemptedError`. This suits work that may stop anywhere.

    Attributes:
        asked: Whether a signal has arrived.
    """

    def __init__(self, *, at_once: bool = False):
        self.asked = False
        self._at_once = at_once
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers in no other thread
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = True
        signal.signal(number, self._before[signal.Signals(number)])
        if self._at_once:
            raise PreemptedError(0)
