"""Calls verifiers that may raise, hang or return anything, and says which completions they judged.

What a verifier returns is read by its type:

* `Verdict(success, reward)`, or a tuple or list of two: success is a boolean, or a number that is 0 or 1; the reward is
  a finite number.
* A boolean: success, with the reward 1 or 0. A number that is 0 or 1 means the same.
* None, and a reward of NaN: the completion was not judged.
* Everything else, text included, is odd: the completion was not judged either, which is counted and logged.

NumPy scalars and arrays or tensors without dimensions stand for their value. An exception and a call over the time
limit mean "not judged" too. Verifiers run in this process, where the limit interrupts Python code, sleeps and regular
expressions. A verifier that hangs in compiled code holds the interpreter: let it run in a process of its own.
"""

import logging
import math
import numbers
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Self, TypeVar

import numpy as np

from rl.prompts import Verdict
from rl.verification_process import Outcome, VerifierProcess

T = TypeVar("T")
_log = logging.getLogger(__name__)
_LARGEST = float(np.finfo(np.float32).max)
_AGAIN = 0.1  # seconds; a verifier may catch the first interrupt
KINDS = ("errors", "timeouts", "odd")


class Verifier:
    """Judges completions with a verifier, within a time limit for each.

    Args:
        verify: see `Task.verify`.
        timeout: seconds for one completion; 0: no limit.
        own_process: call `verify` in a process that is killed at the limit, or when it dies, and then started anew.
        on_main: with several ranks `Ranks.on_main`: rank 0 judges for all, since a time limit may differ between them.

    Raises:
        ValueError: `own_process` without a limit, or with a function that another process cannot import.
    """

    def __init__(
        self,
        verify: Callable[[str, Any], Any],
        *,
        timeout: float = 0.0,
        own_process: bool = False,
        on_main: Callable[[Callable[[], Any]], Any] | None = None,
    ):
        if not 0 <= timeout < math.inf:
            raise ValueError(f"timeout is {timeout}; give a number of seconds, or 0 for no limit")
        self._verify = verify
        self._timeout = timeout
        self._process = VerifierProcess(verify, timeout) if own_process else None
        self._on_main = on_main or (lambda compute: compute())
        self._counts: Counter[str] = Counter()
        self._logged: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.close()

    def __call__(
        self, texts: Sequence[str | None], answers: Sequence[Any], names: Sequence[str]
    ) -> list[Verdict | None]:
        """A verdict for each text; None where there is no text or no judgement.

        Args:
            texts: completions; None for a generation that failed.
            answers: what the verifier needs, one per text.
            names: how the log calls each completion.
        """
        rows = list(zip(texts, answers, names, strict=True))
        return self._on_main(lambda: [self._judged(*row) for row in rows])

    def take_counts(self) -> dict[str, float]:
        """How many verdicts failed since the last call, as metrics `train/verifier_errors`, `_timeouts` and `_odd`."""
        counts = self._on_main(lambda: self._counts)
        self._counts = Counter()
        return {f"train/verifier_{kind}": float(counts[kind]) for kind in KINDS}

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
        self._counts[kind] += 1
        if kind not in self._logged:
            self._logged.add(kind)
            _log.warning(
                "the verifier %s on %s, completion %.200r: not judged; further ones are only counted, in "
                "train/verifier_%s",
                what,
                name,
                text,
                kind,
            )


def attempt(verify: Callable[[str, Any], Any], text: str, answer: Any, timeout: float = 0.0) -> Outcome:
    """What a verifier says of one completion, whatever it does."""
    try:
        return "verdict", as_verdict(within(timeout, lambda: verify(text, answer)))
    except VerifierTimeout:
        return "timeouts", f"took longer than {timeout:g} s"
    except OddVerdictError as error:
        return "odd", str(error)
    except (Exception, SystemExit) as error:  # code that a model wrote may well call exit()
        return "errors", f"raised {type(error).__name__}: {error!s:.200}"


class OddVerdictError(ValueError):
    """What a verifier returned is no verdict."""


class VerifierTimeout(BaseException):
    """A verifier is over its limit. Not an `Exception`, which verifiers catch around the code that they run."""


def as_verdict(said: Any) -> Verdict | None:
    """Read what a verifier returned, by the rules of this module.

    Raises:
        OddVerdictError: it is no verdict.
    """
    said = _plain(said)
    if said is None:
        return None
    if isinstance(said, tuple | list) and len(said) == 2:
        success, reward = map(_plain, said)
        if reward is None:
            return None
        return _checked(said, success, reward)
    if isinstance(said, float) and math.isnan(said):
        return None
    return _checked(said, said, said)


def _checked(said: Any, success: Any, reward: Any) -> Verdict | None:
    if not isinstance(reward, numbers.Real):
        raise OddVerdictError(f"returned {said!r:.100}, whose reward is no number; return Verdict(success, reward)")
    try:
        reward = float(reward)
    except OverflowError:
        reward = math.inf
    if math.isnan(reward):
        return None
    if not isinstance(success, numbers.Real) or success not in (0, 1):  # True == 1; NaN is in nothing
        raise OddVerdictError(
            f"returned {said!r:.100}, whose success is neither true nor false; return Verdict(success, reward)"
        )
    if abs(reward) > _LARGEST:
        raise OddVerdictError(f"returned {said!r:.100}, whose reward is not finite in float32; return a finite number")
    return Verdict(bool(success), reward)


def _plain(value: Any) -> Any:
    """The Python value of a NumPy scalar, and of an array or tensor without dimensions."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def within(seconds: float, compute: Callable[[], T]) -> T:
    """What `compute` returns; 0 seconds, or a thread that gets no signals: there is no limit.

    Raises:
        VerifierTimeout: it took longer.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        return compute()
    running, over = True, False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal over
        del number, frame
        if running:
            over = True
            raise VerifierTimeout

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    delay, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:  # two of them: the signal may come while the inner `finally` begins, and the timer must not survive that
        try:
            value = compute()
        finally:
            running = False
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if delay:  # of an alarm that was set before
            signal.setitimer(signal.ITIMER_REAL, max(delay - (time.monotonic() - start), 1e-3), interval)
    if over:  # and `compute` caught it
        raise VerifierTimeout
    return value
