"""Whether two numbers of SymPy are equal: zeros by calculation, tiny and huge numbers, and decimals in expressions."""

import cmath
import sys
from typing import Any

import sympy

_TOLERANCE = 1e-5  # relative
_NO_NUMBER = (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError)
_PLACES = 5e-7  # absolute; half of the sixth decimal place


def close(gold: Any, own: Any, tolerance: float = _TOLERANCE) -> bool:
    """Return whether two numbers are close, relative to their size; True for anything but numbers."""
    try:
        exact = _number(gold), _number(own)
        left, right = map(complex, exact)
        if abs(left) + abs(right) < sys.float_info.min:  # too small for floats, where 10^-400 and 10^-500 are 0
            (left, right), size = exact, sympy.Max(*map(abs, exact))
            return left == right or bool(abs(left - right) <= tolerance * size)
        return left == right or abs(left - right) <= tolerance * max(abs(left), abs(right))
    except _NO_NUMBER:
        return True


def is_finite(value: Any) -> bool:
    """Return whether a value is a number, and not an infinite one."""
    try:
        return cmath.isfinite(complex(sympy.N(value)))
    except _NO_NUMBER:
        return False


def same_decimals(gold: Any, own: Any) -> bool | None:
    """Return whether two numbers, of which one has a decimal in it, agree to six places and relative to their size.

    Decimals count by the digits they show, so that 6.02 times 10^23 is a whole number. With a whole number they must
    agree exactly. None for anything else.
    """
    if not all(getattr(one, "is_number", False) for one in (gold, own)) or not (_decimals(gold) or _decimals(own)):
        return None
    try:
        left, right = _exact(gold), _exact(own)
        if not (is_finite(left) and is_finite(right)):
            return None
        apart = abs(_number(left - right))
        return apart == 0 or (
            bool(apart <= _PLACES) and not (left.is_Integer or right.is_Integer) and close(left, right)
        )
    except _NO_NUMBER:
        return False


def _number(value: Any) -> Any:
    """Return the value of an expression, which is 0 where no digit of a hundred is known to differ from 0."""
    number = sympy.N(value.doit())
    return number.xreplace({one: sympy.S.Zero for one in number.atoms(sympy.Float) if not one.is_comparable})


def _decimals(value: Any) -> set[Any]:
    return value.atoms(sympy.Float)


def _exact(value: Any) -> Any:
    """Return an expression with fractions in place of its decimals."""
    return value.xreplace({one: sympy.Rational(str(one)) for one in _decimals(value) if is_finite(one)}).doit()
