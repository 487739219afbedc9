"""The process in which a verifier works, see `rl.verification`: messages come on stdin, replies go to stdout.

A message is its length in eight bytes, and that many bytes of pickle.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from rl.verdicts import OddVerdictError, read_verdict

HEADER = 8


def answer(verify: Callable[[str, Any], Any], text: str, expected: Any) -> tuple[str, Any]:
    """The problem and a text about it, or no problem and the verdict."""
    try:
        return "", read_verdict(verify(text, expected))
    except OddVerdictError as error:
        return "verifier_odd", str(error)
    except Exception as error:  # it is the user's code, which may raise anything
        return "verifier_errors", f"the verifier raised {type(error).__name__}: {error}"


def write(stream: BinaryIO | Any, message: bytes) -> None:
    """Writes one message."""
    stream.write(len(message).to_bytes(HEADER, "big") + message)
    stream.flush()


def size(buffer: bytes) -> int | None:
    """The length of the first message in the buffer, header included; None: it is not complete."""
    if len(buffer) < HEADER:
        return None
    whole = HEADER + int.from_bytes(buffer[:HEADER], "big")
    return whole if len(buffer) >= whole else None


def _read(stream: BinaryIO) -> bytes:
    return stream.read(int.from_bytes(stream.read(HEADER), "big"))


def main() -> None:
    """Answers until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    messages, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the verifier prints
    verify = pickle.loads(_read(messages))
    write(replies, pickle.dumps(("", "ready")))
    while message := _read(messages):
        for text, expected in pickle.loads(message):
            write(replies, pickle.dumps(answer(verify, text, expected)))


if __name__ == "__main__":
    main()
