"""A run whose machine is wanted back stops between two steps, with everything on disk."""

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""SIGTERM, Ctrl-C (SIGINT), and what a scheduler sends some time before it takes the machine away: SLURM's
`--signal=USR1@120`, submitit's USR2."""


class PreemptedError(Exception):
    """The run stopped because it was asked to; resumed, it goes on as if it had not.

    Attributes:
        step: steps done; 0: it had not begun, or not gone on.
    """

    def __init__(self, step: int):
        super().__init__(step)  # what a copy in another process is made of
        self.step = step

    def __str__(self) -> str:
        where = f"after step {self.step}" if self.step else "before it trained"
        return f"stopped {where}, as it was asked to; resume to go on"


class Preemption:
    """While it is entered, a signal does not kill: it asks. A second one of the same kind does what it always does.

    Args:
        at_once: a signal raises `PreemptedError` too: for what comes before training, and has nothing to finish.

    Attributes:
        asked: a signal came.
    """

    def __init__(self, *, at_once: bool = False):
        self.asked = False
        self._at_once = at_once
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
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
