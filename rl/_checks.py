"""Checks of settings. Each raises a ValueError that names the setting, its value and the accepted values."""

import math
import numbers
from collections.abc import Sequence
from typing import Any


def integers(least: int, **settings: Any) -> None:
    """Require every setting to be an integer of at least `least`. Booleans and floats such as 2.0 are refused."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; give an integer of at least {least}")


def booleans(**settings: Any) -> None:
    """Require every setting to be True or False. Texts such as "true" are refused."""
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; give True or False")


def one_of(names: Sequence[str], **settings: Any) -> None:
    """Require every setting to be one of the names; an empty one among them stands for no choice."""
    for name, value in settings.items():
        if value not in names:
            given = ", ".join(filter(None, names)) + (", or nothing" if "" in names else "")
            raise ValueError(f"{name} is {value!r}; give one of {given}")


def above_zero(*, infinite: bool = False, **settings: Any) -> None:
    """Require every setting to be a number above 0, and finite unless `infinite`."""
    for name, value in settings.items():
        if not (is_number(value) and value > 0 and (infinite or value < math.inf)):
            raise ValueError(f"{name} is {value!r}; give a {'' if infinite else 'finite '}number above 0")


def at_least_zero(*, infinite: bool = False, **settings: Any) -> None:
    """Require every setting to be a number of at least 0, and finite unless `infinite`."""
    for name, value in settings.items():
        if not (is_number(value) and value >= 0 and (infinite or value < math.inf)):
            raise ValueError(f"{name} is {value!r}; give a {'' if infinite else 'finite '}number of at least 0")


def temperatures(*, least: float = 1e-6, greedy: bool = True, **settings: Any) -> None:
    """Require every setting to be a finite number of at least `least`; or 0, for the likeliest tokens, if `greedy`.

    Numbers that are divided by a smaller temperature may overflow.
    """
    (at_least_zero if greedy else above_zero)(**settings)
    for name, value in settings.items():
        if 0 < value < least:
            zero = "0, for the likeliest tokens, or " if greedy else ""
            raise ValueError(f"{name} is {value!r}; give {zero}a number of at least {least}")


def from_zero_to_one(**settings: Any) -> None:
    """Require every setting to be a number from 0 to 1."""
    for name, value in settings.items():
        if not (is_number(value) and 0 <= value <= 1):
            raise ValueError(f"{name} is {value!r}; give a number from 0 to 1")


def from_zero_to_half(**settings: Any) -> None:
    """Require every setting to be a number from 0 to 0.5."""
    for name, value in settings.items():
        if not (is_number(value) and 0 <= value <= 0.5):
            raise ValueError(f"{name} is {value!r}; give a number from 0 to 0.5")


def is_number(value: Any) -> bool:
    """Return whether the value is a number, and no boolean."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
