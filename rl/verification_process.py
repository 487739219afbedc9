"""A process that calls a verifier; it is killed when a call takes too long, and started again.

The process is a fresh interpreter and not a fork, because a fork of a process with the threads of JAX and torch can
hang. It runs in its own session and ignores the signals that stop the trainer, so that a stop changes no verdict.
"""

import contextlib
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rl.preemption import SIGNALS

_START = 120.0  # seconds to start the interpreter and import the verifier's module
_COMMAND = "import sys; sys.path[:] = {path!r}; from rl.verification_process import serve; serve({fd})"

Outcome = tuple[str, Any]
"""Either ("verdict", the verdict or None), or the kind of failure and the message to log."""


class VerifierProcess:
    """Calls a verifier in another process.

    Args:
        verify: The verifier, a function that another process can import; see `Task.verify`.
        timeout: Time limit in seconds per call; 0: no limit.

    Raises:
        ValueError: Another process cannot import the function.
    """

    def __init__(self, verify: Callable[[str, Any], Any], timeout: float):
        self._verify = _portable(verify)
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        kind, what = self._start()
        if kind != "ready":
            self.close()
            raise ValueError(f"another process cannot call the verifier: {what}; define it at the top of a module")

    def __call__(self, text: str, answer: Any) -> Outcome:
        """Return the outcome for one completion. The start of a new process does not count towards the time limit."""
        if self._connection is None:
            kind, what = self._start()
            if kind != "ready":
                self.close()
                return "errors", f"could not be started again: {what}"
        assert self._connection is not None
        try:
            request = pickle.dumps((text, answer))
        except Exception as error:  # the answer's own methods may raise anything
            return "errors", f"cannot be given the answer: {error}"
        try:
            self._connection.send_bytes(request)
            outcome = self._receive(self._timeout)
        except OSError as error:
            outcome = "died", f"lost the process that called it ({error})"
        except BaseException:  # after an interrupt, a late reply must not answer the next call
            self.close()
            raise
        if outcome[0] in ("timeouts", "died"):
            self.close()
        return ("errors", outcome[1]) if outcome[0] == "died" else outcome

    def close(self) -> None:
        """Kill the process and its children."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):  # the process and its children have already ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self) -> Outcome:
        parent_end, child_end = socket.socketpair()
        with child_end:
            path = [part for part in sys.path if isinstance(part, str)]  # Python ignores others, such as a Path
            command = _COMMAND.format(path=path, fd=child_end.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=[child_end.fileno()],
                start_new_session=True,
            )
        self._connection = Connection(parent_end.detach())
        try:
            self._connection.send_bytes(self._verify)
            return self._receive(_START)
        except OSError as error:
            return "died", f"its process died ({error})"

    def _receive(self, seconds: float) -> Outcome:
        assert self._connection is not None
        try:
            if not self._connection.poll(seconds or None):  # None waits without a limit
                return "timeouts", f"took longer than {seconds:g} s"
            return self._connection.recv()
        except (EOFError, OSError):
            return "died", "ended the process that called it"


def serve(fd: int) -> None:
    """Be the verifier's process: unpickle the verifier, then answer requests until the trainer ends."""
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(fd)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, requests), daemon=True).start()
    from rl.verification import attempt

    try:
        verify = pickle.loads(requests.get())
    except Exception as error:
        connection.send(("broken", f"{type(error).__name__}: {error}"))
        return
    connection.send(("ready", None))
    while True:
        connection.send(attempt(verify, *pickle.loads(requests.get())))


def _listen(connection: Connection, requests: "queue.SimpleQueue[bytes]") -> None:
    """Queue the requests; end this process when the trainer ends, even while a verifier hangs."""
    while True:
        try:
            requests.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _portable(verify: Callable[[str, Any], Any]) -> bytes:
    try:
        pickled = pickle.dumps(verify)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"another process cannot import the verifier: {error}; define it at the top of a module"
        ) from error
    if getattr(verify, "__module__", None) == "__main__":
        raise ValueError("another process cannot import the verifier from a script; define it at the top of a module")
    return pickled
