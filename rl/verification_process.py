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
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rl.preemption import SIGNALS

_START = 120.0  # seconds to start the interpreter and import the verifier's module
_COMMAND = "import sys; sys.path[:] = {path!r}; from rl.verification_process import serve; serve({fd})"

Outcome = tuple[str, Any]
"""Either ("verdict", the verdict or None), or the kind of failure and the message to log."""


class VerifierProcess:
    """Calls a verifier in another process. Calls of several threads wait for each other.

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
        self._lock = threading.RLock()  # a reply belongs to the thread that asked
        self._asked = 0  # and to the request of this number
        kind, what = self._start()
        if kind != "ready":
            self.close()
            raise ValueError(f"another process cannot call the verifier: {what}; define it at the top of a module")

    def __call__(self, text: str, answer: Any) -> Outcome:
        """Return the outcome for one completion. The start of a new process does not count towards the time limit."""
        try:
            request = pickle.dumps((text, answer))
        except Exception as error:  # the answer's own methods may raise anything
            return "errors", f"cannot be given the answer: {error}"
        with self._lock:
            return self._outcome(request)

    def close(self) -> None:
        """Kill the process and its children. A call in another thread then fails."""
        process = self._process
        if process is not None and process.returncode is None:
            _kill(process)
        with self._lock:
            self._forget()

    def _outcome(self, request: bytes) -> Outcome:
        try:
            if self._connection is None:
                kind, what = self._start()
                if kind != "ready":
                    self.close()
                    return "errors", f"could not be started again: {what}"
            outcome = self._asked_for(request, self._timeout)
        except BaseException:  # after an interrupt, a process that has half started must not answer the next call
            self.close()
            raise
        if outcome[0] in ("timeouts", "died"):
            self.close()
        return ("errors", outcome[1]) if outcome[0] == "died" else outcome

    def _forget(self) -> None:
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is not None:
            _kill(process)
            process.wait()

    def _start(self) -> Outcome:
        try:
            self._open()
        except OSError as error:  # no memory, files or processes are left
            return "died", f"its process could not be started ({error})"
        return self._asked_for(self._verify, _START)

    def _open(self) -> None:
        parent_end, child_end = socket.socketpair()
        with parent_end, child_end:
            path = [part for part in sys.path if isinstance(part, str)]  # Python ignores others, such as a Path
            command = _COMMAND.format(path=path, fd=child_end.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=[child_end.fileno()],
                start_new_session=True,
            )
            self._connection = Connection(parent_end.detach())

    def _asked_for(self, what: bytes, seconds: float) -> Outcome:
        """Send a request and return the reply to it. Code of a verifier that forks may reply to a request twice."""
        assert self._connection is not None
        self._asked += 1
        try:
            self._connection.send((self._asked, what))
            deadline = time.monotonic() + seconds if seconds else None
            while True:
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                if not self._connection.poll(left):  # None waits without a limit
                    return "timeouts", f"took longer than {seconds:g} s"
                number, outcome = self._connection.recv()
                if number == self._asked:
                    return outcome
        except (EOFError, OSError) as error:
            return "died", f"lost the process that called it ({str(error) or 'it ended'})"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # the process and its children have already ended
        os.killpg(process.pid, signal.SIGKILL)


def serve(fd: int) -> None:
    """Be the verifier's process: unpickle the verifier, then answer requests until the trainer ends."""
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(fd)
    requests: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, requests), daemon=True).start()
    from rl.verification import attempt

    number, pickled = requests.get()
    try:
        verify = pickle.loads(pickled)
    except (Exception, SystemExit) as error:
        connection.send((number, ("broken", f"{type(error).__name__}: {error}")))
        return
    connection.send((number, ("ready", None)))
    while True:
        number, request = requests.get()
        connection.send((number, attempt(verify, *pickle.loads(request))))


def _listen(connection: Connection, requests: "queue.SimpleQueue[tuple[int, bytes]]") -> None:
    """Queue the requests; end this process when the trainer ends, even while a verifier hangs."""
    while True:
        try:
            requests.put(connection.recv())
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
