"""Verifiers by name, and any Python function as a verifier.

A verifier is one of the names in `VERIFIERS`, or `module:function` for a function `verify(completion, answer)`. It
returns a boolean, a number that is 0 or 1, or a `Verdict`; `rl.verification` gives all rules. A function may take
further arguments: each gets the value of the data's column of that name, and `**columns` gets all columns. The
first two arguments may have any names; a column with one of these names is not passed on.
"""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from rl.tasks.math_answers import digits

VERIFIERS: Mapping[str, str] = {
    "exact": "rl.verifiers:exact",
    "math": "rl.tasks.math_verifier:verify",
    "countdown": "rl.tasks.countdown_verifier:verify",
    "string_ops": "rl.tasks.string_ops:verify",
}
"""The names of the verifiers, each with its module and function."""
OWN_PROCESS = frozenset({"math"})
"""The verifiers that always run in a process of their own, because compiled code may keep them for long."""
_CHECKS = {
    "exact": "rl.verifiers:texts_of",
    "math": "rl.tasks.math_answers:reference_answer",
    "countdown": "rl.tasks.countdown_verifier:instance_of",
    "string_ops": "rl.tasks.string_ops:check_answer",
}

_CURE = f"give one of {', '.join(VERIFIERS)}, or module:function for a function verify(completion, answer)"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class RowAnswer(NamedTuple):
    """The answer of a prompt together with the other columns of its row, for a verifier that takes columns."""

    answer: Any
    columns: Mapping[str, Any]


class Wanted(NamedTuple):
    """The columns that a verifier takes besides completion and answer.

    Attributes:
        names: The columns; None: all columns of the data, except those in `taken`.
        needed: The columns without which the verifier cannot be called.
        taken: The function's own names for completion and answer, by which no column can be passed.
    """

    names: tuple[str, ...] | None
    needed: tuple[str, ...]
    taken: tuple[str, ...] = ()

    def passed(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a row that the verifier gets."""
        names = columns if self.names is None else self.names
        return {name: columns[name] for name in names if name in columns and name not in self.taken}


def exact(completion: str, answer: Any) -> bool:
    """Judge a completion: solved if it is the answer as a text, apart from spaces at both ends; see `texts_of`."""
    return completion.strip() in texts_of(answer)


def texts_of(answer: Any) -> set[str]:
    """Return the texts that are right for an answer.

    A list of one stands for what it holds. A number such as 72.0 is also 72, because a missing value makes pandas
    store a column of integers as floats. A boolean is right in Python's and in JSON's spelling.

    Raises:
        ValueError: There is no answer, or it is an empty text, a record, or a list of none or several.
    """
    if isinstance(answer, list | tuple) and len(answer) == 1:
        return texts_of(answer[0])
    if answer is None or isinstance(answer, list | tuple | dict) or not str(answer).strip():
        raise ValueError(f"the reference answer is {answer!r:.80}; give one text or number, or your own verifier")
    text = str(answer).strip()
    if isinstance(answer, bool):
        return {text, text.lower()}
    return {text, digits(answer)} if isinstance(answer, float) and math.isfinite(answer) else {text}


def find_verifier(name: str) -> Callable[..., Any]:
    """Return the verifier of a name.

    Args:
        name: One of `VERIFIERS`, or `module:function`.

    Raises:
        ValueError: There is no such name, or the function cannot be imported.
    """
    module, colon, function = VERIFIERS.get(name, name).partition(":")
    if not (module and colon and function):
        raise ValueError(f"verifier is {name!r}; {_CURE}")
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # the module may raise anything
        raise ValueError(f"verifier is {name!r}, which cannot be imported ({error}); {_CURE}") from error
    if not callable(found):
        raise ValueError(f"verifier is {name!r}, which is of type {type(found).__name__}, no function; {_CURE}")
    return found


def check_of(name: str) -> Callable[[Any], Any] | None:
    """Return the function that raises a ValueError at a reference answer that the verifier cannot use; None: no such.

    Args:
        name: The name of the verifier.
    """
    return find_verifier(_CHECKS[name]) if name in _CHECKS else None


def wanted_columns(verify: Callable[..., Any]) -> Wanted:
    """Return the columns that a verifier takes besides completion and answer.

    Raises:
        ValueError: The function cannot be called with a completion and an answer, in this order.
    """
    try:
        parameters = list(inspect.signature(verify).parameters.values())
    except (TypeError, ValueError):  # some compiled functions have no signature
        return Wanted((), ())
    first = [one for one in parameters if one.kind in _POSITIONAL]
    if len(first) < 2 and not any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters):
        raise ValueError(f"verifier is {_name(verify)}, which does not take a completion and an answer; {_CURE}")
    names = [one.name for one in first]
    if "answer" in names[:1] or "completion" in names[1:]:
        given = ", ".join(names)
        raise ValueError(f"verifier is {_name(verify)}({given}); let completion be the first argument, then answer")
    named = first[2:] + [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    needed = tuple(one.name for one in named if one.default is inspect.Parameter.empty)
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    taken = tuple(one.name for one in first[:2] if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return Wanted(None if takes_all else tuple(one.name for one in named), needed, taken)


def with_columns(verify: Callable[..., Any]) -> Callable[[str, RowAnswer], Any]:
    """Return a verifier of `RowAnswer`s, which another process can import if it can import `verify`."""
    return partial(_call, verify)


def _call(verify: Callable[..., Any], completion: str, row: RowAnswer) -> Any:
    return verify(completion, row.answer, **row.columns)


def _name(verify: Callable[..., Any]) -> str:
    return f"{getattr(verify, '__module__', '')}:{getattr(verify, '__qualname__', repr(verify))}"
