"""Solve rates, the shares of correct answers that a data set gives beside its prompts, for a prior of the selector."""

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any

_MISSING = {"", "n/a", "na", "nan", "none", "null"}
_LONG_EXPONENT = re.compile(r"e[+-]?[\d_]{4}", re.I)


def as_rate(value: Any) -> float | None:
    """Return a solve rate; None if the value says that there is none. Texts such as "0.5" and "3/8" are read too.

    Raises:
        ValueError: The value is no number from 0 to 1. The message is the value alone, perhaps its beginning.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
        return None
    try:
        rate = float(_number(value))
    except (ValueError, ArithmeticError):
        rate = math.inf
    if not (math.isnan(rate) or 0 <= rate <= 1):
        raise ValueError(f"{value!r:.60}")
    return None if math.isnan(rate) else rate


def mean_rate(rates: Iterable[float | None]) -> float | None:
    """Return the mean of the rates that are there; None if there are none."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known else None


def _number(value: Any) -> Real | Decimal:
    if isinstance(value, str):
        if _LONG_EXPONENT.search(value):  # a fraction would compute the power
            raise OverflowError
        return Fraction(value)
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise ValueError
    return value
