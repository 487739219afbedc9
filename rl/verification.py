"""Calls to verifiers that may raise an exception, hang or return anything.

The type of a verifier's return value decides its meaning:

* `Verdict(success, reward)`, or a tuple or list of two: success is a boolean, or a number that is 0 or 1. The reward is
  a finite number.
* A boolean means success, with the reward 1 or 0. A number that is 0 or 1 means the same.
* None, NaN, NumPy's `masked`, or a reward of one of these, means that the completion was not judged.
* Any other value, text included, is odd: the completion counts as not judged. Odd values are counted, and the first one
  is logged.

A NumPy scalar, array or tensor without dimensions stands for its value. An exception, or a call over the time limit,
also means "not judged".

By default a verifier runs in this process, where the time limit interrupts Python code, sleeps and regular expressions.
A verifier that hangs in compiled code blocks the interpreter. So do a regular expression after the verifier's own
`signal.alarm`, and a loop that catches every BaseException. Run such a verifier in its own process. Outside the main
thread only a process of its own has a limit.
"""

import copy
import logging
import math
import numbers
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from types import FrameType
from typing import Any, Self, TypeVar

import numpy as np

from rl import _checks
from rl.preemption import PreemptedError, raise_if_asked
from rl.prompts import Verdict
from rl.verification_process import Outcome, VerifierProcess

T = TypeVar("T")
_log = logging.getLogger(__name__)
_LARGEST = float(np.finfo(np.float32).max)
_LONGEST = 2e6  # seconds, 23 days: polls of a process refuse longer limits
_AGAIN = 0.1  # seconds between interrupts; a verifier may catch the first one
_SECOND = signal.SIGURG  # no verifier uses this signal, and by default it does nothing
_deadline = math.inf  # of the call in the main thread; by `time.monotonic`
_NUMBER = numbers.Real | Decimal
KINDS = ("errors", "timeouts", "odd")


class Verifier:
    """Judges completions with a verifier, within a time limit per completion.

    Args:
        verify: The verifier; see `Task.verify`.
        timeout: Time limit in seconds per completion; 0 means no limit.
        own_process: Whether to call `verify` in another process, which is killed at the limit and started again.
        on_main: `Ranks.on_main`, where several processes (ranks) train together. Rank 0 then judges for all of them,
            because a call may exceed the time limit on one rank and not on another.

    Raises:
        ValueError: `timeout` is negative or infinite. Or: `own_process` is true, and another process cannot import the
            function.
    """

    def __init__(
        self,
        verify: Callable[[str, Any], Any],
        *,
        timeout: float = 0.0,
        own_process: bool = False,
        on_main: Callable[[Callable[[], Any]], Any] | None = None,
    ):
        if not (_checks.is_number(timeout) and 0 <= timeout < math.inf):
            raise ValueError(f"timeout is {timeout}; give a number of seconds, or 0 for no limit")
        self._verify = verify
        self._timeout = timeout = min(timeout, _LONGEST)
        self._process = VerifierProcess(verify, timeout) if own_process else None
        self._on_main = on_main or (lambda compute: compute())
        self._counts: Counter[str] = Counter()
        self._logged: set[str] = set()
        self._counting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the verifier's process, if there is one."""
        if self._process is not None:
            self._process.close()

    def __call__(
        self, texts: Sequence[str | None], answers: Sequence[Any], names: Sequence[str]
    ) -> list[Verdict | None]:
        """Return one verdict per text; None where there is no text or no judgement.

        Args:
            texts: The completions; None for a generation that failed.
            answers: Reference answers for the verifier, one per text.
            names: Names of the completions in the log, one per text.
        """
        rows = list(zip(texts, answers, names, strict=True))
        return self._on_main(lambda: self._judge(rows))

    def take_counts(self) -> dict[str, float]:
        """Return how many verifications failed since the last call: `train/verifier_errors`, `_timeouts` and `_odd`."""
        with self._counting:
            counts, self._counts = self._counts, Counter()
        counts = self._on_main(lambda: counts)
        return {f"train/verifier_{kind}": float(counts[kind]) for kind in KINDS}

    def _judge(self, rows: Sequence[tuple[str | None, Any, str]]) -> list[Verdict | None]:
        limited_here = self._timeout and self._process is None
        if limited_here and not _in_main_thread() and "thread" not in self._logged:
            self._logged.add("thread")
            cure = "call it in the main thread, or in a process of its own (train.verify_process=true)"
            _log.warning("the time limit of %g s for verifiers only works in the main thread; %s", self._timeout, cure)
        with _watched() if limited_here and _in_main_thread() else nullcontext():
            verdicts = []
            for row in rows:
                verdicts.append(self._judged(*row))
                raise_if_asked()  # a verifier may have caught the error of a signal to stop
            return verdicts

    def _judged(self, text: str | None, answer: Any, name: str) -> Verdict | None:
        if text is None:
            return None
        if self._process is not None:
            kind, said = self._process(text, answer)
        else:
            kind, said = attempt(self._verify, text, answer, self._timeout)
        if kind in KINDS:
            self._failed(kind, name, said, text)
        return said if kind == "verdict" else None

    def _failed(self, kind: str, name: str, what: str, text: str) -> None:
        with self._counting:
            self._counts[kind] += 1
            is_first = kind not in self._logged
            self._logged.add(kind)
        if is_first:
            later = f"later failures of this kind are only counted, in train/verifier_{kind}"
            _log.warning("the verifier %s on %s, completion %.200r: not judged; %s", what, name, text, later)


def attempt(verify: Callable[[str, Any], Any], text: str, answer: Any, timeout: float = 0.0) -> Outcome:
    """Call a verifier for one completion; return its verdict or the kind of failure. Its exceptions are not raised.

    A fork of this process that the verifier's code made ends here: it must not go on as a second trainer.
    """
    process = os.getpid()
    try:
        own = copy.deepcopy(answer) if isinstance(answer, list | dict) else answer  # a verifier may change its copy
        return "verdict", as_verdict(within(timeout, lambda: verify(text, own)))
    except VerifierTimeout:
        return "timeouts", f"took longer than {timeout:g} s"
    except OddVerdictError as error:
        return "odd", str(error)
    except PreemptedError:
        raise
    except BaseException as error:  # code that a model wrote may call exit(), and asyncio cancels by a BaseException
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise  # it may be the user's; a run has another handler
        return "errors", f"raised {type(error).__name__}: {_said(error)}"
    finally:
        if os.getpid() != process:
            os._exit(0)


def _said(error: BaseException) -> str:
    """Return the message of an exception, whose own methods may raise another one."""
    try:
        return f"{error!s:.200}"
    except Exception as another:
        return f"(its message raised {type(another).__name__})"


class OddVerdictError(ValueError):
    """A verifier returned a value that is not a verdict."""


class VerifierTimeout(BaseException):
    """A verifier exceeded its time limit. No subclass of `Exception`, because verifiers catch `Exception`."""


def as_verdict(said: Any) -> Verdict | None:
    """Convert a verifier's return value to a verdict, by the rules of this module.

    Raises:
        OddVerdictError: The value is not a verdict.
    """
    said = _plain(said)
    if said is None:
        return None
    if isinstance(said, tuple | list) and len(said) == 2:
        success, reward = map(_plain, said)
        if reward is None:
            return None
        return _checked(said, success, reward)
    if isinstance(said, float | Decimal) and math.isnan(said):
        return None
    return _checked(said, said, said)


def _checked(said: Any, success: Any, reward: Any) -> Verdict | None:
    if not isinstance(reward, _NUMBER):
        raise OddVerdictError(f"returned {said!r:.100}, whose reward is not a number; return Verdict(success, reward)")
    try:
        reward = float(reward)
    except OverflowError:
        reward = math.inf
    if math.isnan(reward):
        return None
    if not isinstance(success, _NUMBER) or success not in (0, 1):  # True equals 1, and NaN equals nothing
        raise OddVerdictError(
            f"returned {said!r:.100}, whose success is neither true nor false; return Verdict(success, reward)"
        )
    if abs(reward) > _LARGEST:
        raise OddVerdictError(f"returned {said!r:.100}, whose reward is not finite in float32; return a finite number")
    return Verdict(bool(success), reward)


def _plain(value: Any) -> Any:
    """Return the Python value of a NumPy scalar, or of an array or tensor without dimensions; None if it is masked."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    return None if np.ma.is_masked(value) else value.item()


def within(seconds: float, compute: Callable[[], T]) -> T:
    """Return the result of `compute`, within a time limit.

    There is no limit if `seconds` is 0, or outside the main thread, which alone receives signals. A timer of the system
    interrupts regular expressions too, during which no other thread runs. Inside of `_watched`, a thread interrupts
    code that has changed this timer, as `signal.alarm` does.

    Raises:
        VerifierTimeout: `compute` took longer than `seconds`.
    """
    global _deadline
    if not seconds or not _in_main_thread():
        return compute()
    running, over = True, False
    start = time.monotonic()

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal over
        del number, frame
        if running and time.monotonic() - start >= seconds:  # a late signal may be meant for the call before
            over = True
            raise VerifierTimeout

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGALRM, _SECOND)}
    delay, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    _deadline = start + seconds
    try:  # a second `try`: the signal may arrive as the inner `finally` begins, and the timer must still be stopped
        try:
            value = compute()
        finally:
            running = False
    finally:
        running, _deadline = False, math.inf
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if delay:  # an earlier alarm was running
            signal.setitimer(signal.ITIMER_REAL, max(delay - (time.monotonic() - start), 1e-3), interval)
    if over:  # `compute` caught the interrupt
        raise VerifierTimeout
    return value


@contextmanager
def _watched() -> Iterator[None]:
    """Let a thread send the main thread a signal while a call of `within` is over its limit, inside a `with` block."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_AGAIN):
            if time.monotonic() > _deadline:
                signal.pthread_kill(threading.main_thread().ident or 0, _SECOND)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
