"""Functions that are made once, so that selectors with equal settings share their compiled programs."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = (bool, int, float, str, bytes, type(None))
_KEPT = 8  # results per function; more would keep the memory of many compiled programs

_made: weakref.WeakValueDictionary[int, Callable[..., Any]] = weakref.WeakValueDictionary()  # by their `id`


def shared(make: Callable[P, R]) -> Callable[P, R]:
    """Return `make` with a memory: a call with the arguments of one of the last calls returns its result again.

    The result is a function or a tuple with functions. The arguments are numbers, texts, bytes, None, functions from
    other shared results, or tuples of these. With another argument, for example an array, a traced value or a function
    of the user, every call makes a new result, so that the memory keeps no data alive.
    """

    @functools.lru_cache(_KEPT, typed=True)
    def remembering(*args: P.args, **kwargs: P.kwargs) -> R:
        result = make(*args, **kwargs)
        for part in result if isinstance(result, tuple) else (result,):
            if callable(part):
                _made[id(part)] = part
        return result

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        result: Any = (remembering if _can_be_kept((*args, *kwargs.values())) else make)(*args, **kwargs)
        # everyone who asks has a spec of their own to change
        return result._replace(spec=dict(result.spec)) if hasattr(result, "spec") else result

    return made


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_can_be_kept, value))
    return type(value) in _PLAIN or (callable(value) and _made.get(id(value)) is value)
