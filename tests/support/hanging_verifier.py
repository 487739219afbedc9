"""Verifiers that hang or fail in a process of their own. The module imports little, so that processes start quickly."""

import os
import signal
import time


def verify(text: str, answer: str) -> bool:
    """Judge a completion, and hang on the text "hang"."""
    if text == "hang":
        time.sleep(60)
    return text == answer


def elsewhere(text: str, answer: str) -> bool:
    """Return whether this process is not the one whose number is the answer."""
    return os.getpid() != int(answer)


def slow(text: str, answer: str) -> bool | str:
    """Judge a completion after a fifth of a second, or fail as `unreliable` does."""
    time.sleep(0.2)
    return unreliable(text, answer)


def unreliable(text: str, answer: str) -> bool | str:
    """Fail in the way that the text names. The text "hang" hangs in compiled code, which no signal interrupts."""
    if text == "hang":
        return (3 + len(text)) ** (10**8) % 2 == 0
    if text == "die":
        signal.raise_signal(signal.SIGKILL)
    if text == "raise":
        raise ValueError("boom")
    return "maybe" if text == "odd" else text == answer


def forking(text: str, answer: str) -> bool:
    """Judge a completion; on the text "fork", a copy of this process ends as the code of a model may end it."""
    if text == "fork" and os.fork() == 0:
        raise SystemExit(0)
    return text == answer


def interrupting(text: str, answer: str) -> bool:
    """Raise what Ctrl-C raises."""
    del text, answer
    raise KeyboardInterrupt
