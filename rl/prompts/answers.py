"""The values and the check of reference answers.

No completion can agree with an empty answer, JSON holds neither NaN nor infinite numbers nor bytes nor times, and UTF-8
holds no lone surrogates.
"""

import datetime
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from rl.prompts.messages import Fault, check_each, fault_of_texts_in

_JSON_TYPES = (str, int, float, list, tuple, dict, type(None))
_NO_ANSWERS = "or read no answers by answer='' if the verifier needs none"


def as_answer(value: Any) -> Any:
    """Return a value of a file with decimal numbers, dates, times and durations as texts, which JSON can hold."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    if isinstance(value, dict):
        return {name: as_answer(inner) for name, inner in value.items()}
    return [as_answer(inner) for inner in value] if isinstance(value, list) else value


def fault_of_answer(answer: Any) -> Fault | None:
    """Return what makes a reference answer useless for every verifier, or None."""
    if isinstance(answer, str) and not answer.strip():
        return Fault("has an empty answer", f"give one, {_NO_ANSWERS}")
    return _fault_inside(answer) or fault_of_texts_in(answer)


def check_answers(answers: Sequence[Any], name: str) -> None:
    """Refuse answers that are empty texts, or that are or hold NaN, what else JSON cannot hold, or a lone surrogate.

    Args:
        answers: The answers.
        name: Name of the answers in the error message.

    Raises:
        ValueError: An answer is refused; the message names the row of the first one.
    """
    check_each(answers, fault_of_answer, name)


def _fault_inside(value: Any) -> Fault | None:
    if isinstance(value, float) and math.isnan(value):
        return Fault("has NaN as an answer, which is no value", f"give one, {_NO_ANSWERS}")
    if isinstance(value, float) and math.isinf(value):  # also a number of JSON that is too large, such as 1e400
        return Fault("has an infinite number as an answer, which JSON cannot hold", f"give a text, {_NO_ANSWERS}")
    if isinstance(value, bytes | bytearray | memoryview):
        return Fault(f"has bytes as an answer, {bytes(value)[:20]!r}", "give a text, for example by value.decode()")
    if not isinstance(value, _JSON_TYPES):
        kind = type(value).__name__
        return Fault(f"has a value of type {kind} as an answer, {value!r:.40}", "give a text, for example str(answer)")
    if isinstance(value, dict) and (odd := [name for name in value if not isinstance(name, str)]):
        return Fault(f"has an answer with the name {odd[0]!r:.40}, which is no text,", f"give {str(odd[0])!r:.40}")
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((odd for odd in map(_fault_inside, inside) if odd), None)
