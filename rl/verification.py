"""Judging completions with a verifier that may raise, hang, or return what is no verdict: a run goes on.

With a time limit the verifier works in a process of its own, which is killed when it takes longer for one completion.
That process is a new Python, not a fork: threads of JAX and torch do not survive a fork.
"""

import contextlib
import logging
import os
import pickle
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Self

import cloudpickle

from rl import _verifier_process
from rl.prompts import Verdict

_log = logging.getLogger(__name__)

ERRORS, TIMEOUTS, ODD = "verifier_errors", "verifier_timeouts", "verifier_odd"
PROBLEMS = (ERRORS, TIMEOUTS, ODD)
"""What may go wrong with a verdict: the verifier raised, it took too long, it returned what is no verdict."""

_PATIENCE = 10
"""A batch waits for at most this many limits in all; what is left then was not judged."""


class Verifier:
    """Judges batches of completions. What could not be judged is None, counted, and logged once per kind of problem.

    Args:
        verify: `(completion, answer) -> Verdict | None`, see `rl.verdicts.read_verdict`.
        limit: seconds for one completion; 0: no limit, and no process.

    Raises:
        ValueError: `limit` is negative or not finite, or a verifier with a limit cannot be sent to a process.

    Attributes:
        problems: how often each of `PROBLEMS` occurred, in all.
    """

    def __init__(self, verify: Callable[[str, Any], Any], *, limit: float = 0.0):
        if not 0 <= limit < float("inf"):
            raise ValueError(f"limit is {limit}; give a finite number of seconds, or 0 for no limit")
        self._verify = verify
        self._limit = limit
        self._process: _Process | None = None
        self._code = b""
        if limit:
            try:
                self._code = cloudpickle.dumps(verify)
            except Exception as error:  # whatever the verifier refers to may refuse to be pickled
                raise ValueError(
                    f"the verifier cannot be sent to a process ({error}); give one that can, or a limit of 0"
                ) from error
        self.problems: Counter[str] = Counter()

    def __call__(self, texts: Sequence[str | None], answers: Sequence[Any]) -> list[Verdict | None]:
        """The verdict on each completion, in order; None where there is none. A text of None was never generated."""
        rows = [(text, answer) for text, answer in zip(texts, answers, strict=True) if text is not None]
        said = iter(self._limited(rows) if self._limit else [self._judged(*row) for row in rows])
        return [None if text is None else next(said) for text in texts]

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _judged(self, text: str, answer: Any) -> Verdict | None:
        return self._read(_verifier_process.answer(self._verify, text, answer), text)

    def _limited(self, rows: list[tuple[str, Any]]) -> list[Verdict | None]:
        """Sends all that is left, and reads until one takes too long; goes on behind that one with a new process."""
        verdicts: list[Verdict | None] = []
        timeouts = 0
        try:
            while len(verdicts) < len(rows) and timeouts < _PATIENCE:
                process = self._process = self._process or _Process(self._code)
                for reply in process.replies(rows[len(verdicts) :], self._limit):
                    verdicts.append(self._read(reply, rows[len(verdicts)][0]))
                if len(verdicts) < len(rows):
                    self.close()
                    self._note(TIMEOUTS, rows[len(verdicts)][0], f"it took more than {self._limit} s, or died")
                    verdicts.append(None)
                    timeouts += 1
        except BaseException:  # a second signal, say: the process has answers that nobody reads any more
            self.close()
            raise
        self.problems[TIMEOUTS] += len(rows) - len(verdicts)
        return verdicts + [None] * (len(rows) - len(verdicts))

    def _read(self, reply: tuple[str, Any], text: str) -> Verdict | None:
        kind, said = reply
        if kind:
            self._note(kind, text, said)
            return None
        return said

    def _note(self, kind: str, text: str, why: str) -> None:
        if not self.problems[kind]:
            _log.warning(
                "%s: %s; the completion %r was not judged (said once, counted in train/%s)", kind, why, text, kind
            )
        self.problems[kind] += 1


class _Process:
    """A Python that has the verifier. It answers in order, one message per completion."""

    def __init__(self, code: bytes):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", _verifier_process.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the run
        )
        self._buffer = b""
        self._send(code)
        if self._receive(_START_LIMIT) is None:
            self.kill()
            raise RuntimeError("the verifier's process did not start; its error is above")

    def replies(self, rows: list[tuple[str, Any]], limit: float):
        """The replies that come, each within `limit` seconds of the one before."""
        if self._send(pickle.dumps(rows)):
            for _ in rows:
                reply = self._receive(limit)
                if reply is None:
                    return
                yield reply

    def kill(self) -> None:
        self._popen.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError):  # what was not flushed goes nowhere
                stream.close()  # type: ignore[union-attr]
        self._popen.wait()

    def _send(self, message: bytes) -> bool:
        try:
            _verifier_process.write(self._popen.stdin, message)
        except OSError:  # it is dead
            return False
        return True

    def _receive(self, limit: float) -> tuple[str, Any] | None:
        """The next message; None where none came in time or the process ended."""
        deadline, descriptor = time.monotonic() + limit, self._popen.stdout.fileno()  # type: ignore[union-attr]
        while (size := _verifier_process.size(self._buffer)) is None:
            if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
                return None
            more = os.read(descriptor, 1 << 16)
            if not more:
                return None
            self._buffer += more
        message, self._buffer = self._buffer[_verifier_process.HEADER : size], self._buffer[size:]
        return pickle.loads(message)  # of a process of ours


_START_LIMIT = 120.0
"""Seconds: it imports what the verifier needs."""
