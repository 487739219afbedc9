"""What a verifier said of a completion: read strictly, so that no odd answer becomes a wrong verdict in silence."""

import math
from typing import Any

import numpy as np

from rl.prompts import Verdict


class OddVerdictError(ValueError):
    """A verifier returned something that is no verdict."""


def read_verdict(said: Any) -> Verdict | None:
    """The verdict that a verifier returned; None: it could not judge.

    A verdict is a `Verdict`, a pair of success and reward, true or false, or a number that is 0 or 1. Success is true,
    false, 0 or 1. None, and a reward that is not finite, mean that the completion was not judged.

    Raises:
        OddVerdictError: it is anything else: a text, another number, a success that is NaN.
    """
    if said is None:
        return None
    if isinstance(said, tuple | list):
        if len(said) != 2:
            raise OddVerdictError(f"the verifier returned {said!r:.80}; return Verdict(success, reward)")
        success, reward = _flag(said[0]), said[1]
    elif isinstance(said, float | np.floating) and not math.isfinite(said):
        return None
    else:
        success = reward = _flag(said)
    if reward is None:
        return None
    reward = _number(reward)
    return Verdict(success, reward) if math.isfinite(reward) else None


def _flag(value: Any) -> bool:
    number = _number(value)
    if number not in (0.0, 1.0):  # NaN is in nothing
        raise OddVerdictError(f"the verifier returned {value!r:.80} as success; return true, false, 0 or 1")
    return bool(number)


def _number(value: Any) -> float:
    """A real number: Python's, NumPy's, or an array or tensor that holds a single one."""
    if not isinstance(value, str | bytes):
        try:
            if np.size(value) == 1:
                return float(value)
        except (TypeError, ValueError, RuntimeError):
            pass  # said below
    raise OddVerdictError(f"the verifier returned {value!r:.80}; return Verdict(success, reward) of two numbers")
