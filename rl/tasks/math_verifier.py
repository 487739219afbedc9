r"""The verifier of mathematical answers: the final answer, by the library math-verify.

A completion is right if its final answer (see `rl.tasks.math_answers`) equals the reference answer. math-verify reads
both as SymPy expressions and compares them. The rules below are added, because they are closer to an examiner's:

* Two units must be the same unit: 5 cm is not 5 m, 5 mA is not 5 MA, and 5 m/s is not 5 km/h. A unit on one side alone
  is ignored. Letters after a number that are neither a unit nor words after a space are variables: 2ab is not 2, and 5m
  is 5 metres only where the other answer has metres.
* Words after a number may say what is counted, as in 5 apples, but not change the number: 5 or more, 5 thirds and
  5 squared are not 5. Dozen, hundred, thousand, million and so on multiply: 1.5 million is 1500000.
* A percentage equals its value: 25% is 1/4. Also right is 25 where the reference is 25%, and
  25% where it is the integer 25, because references often leave the sign out.
* Two bases must be the same: 120_5 is not 120_6. 120 is 120_5 where the reference has the base, and 10_2 is 2 where it
  has none. The parts of a ratio a:b are compared one by one.
* Words are compared in lower case, and the order of their letters counts: east is not seat, and no is not on. Letters
  inside \text{...}, four or more letters, and common words of two or three letters (see `rl.tasks.math_words`) are
  words. Other letters are a product of variables, whose order does not count: ab is ba, and xyz is zyx.
* A set never equals a point or an interval. The order of coordinates counts. In a list without braces it counts how
  often an item occurs: 2,9,9 is not 2,2,9. A list of letters with values, such as x=1, y=2, is the tuple of the values
  in the alphabetical order of the letters.
* Decimals agree with the exact value to six places: 0.333333 is 1/3, and 0.333 is not; 2.9999999 is not the whole
  number 3. This also holds for decimals inside expressions, which count by the digits they show: 6.02 times 10^23 is a
  whole number. Numbers may also differ by at most one part in 100,000, so that two tiny numbers are not equal by
  rounding.
* Dates and numerals such as 0xFF are texts: 2023-01-02 is not 2020.
* A choice may have its letter, what it says, or both: (B) 12 is B, and 12 is right where the reference is (B) 12.
* An equation stands for its last side: 2 + 3 = 5 is 5, but the false equation 7 = 5 is not. Nor is a polynomial
  equation in one unknown that must still be solved, such as 4x = 5 or x^2 + x = 5, unless the reference is one too.
* If no other letter is left, i is the imaginary unit: \sqrt{-4} is 2i.

The verifier has no time limit of its own. `rl.verification` runs it in another process, which it kills after the limit.
"""

import itertools
import logging
import re
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from latex2sympy2_extended.sets import FiniteSet
from math_verify import LatexExtractionConfig, parse
from math_verify import verify as equal

from rl.tasks.math_answers import Answer, final_answer, is_text, parts, reference_answer, words
from rl.tasks.math_choices import same_choice
from rl.tasks.math_lists import as_tuples, same_items
from rl.tasks.math_numbers import close, is_finite, same_decimals
from rl.tasks.math_texts import as_texts
from rl.tasks.math_typography import plain
from rl.tasks.math_words import with_words

# math-verify's own units are off: it takes the last variable of 2c or a + b + c for a unit and drops it.
_NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
# It reads a part of an answer where it cannot read the whole, unless try_extract_without_anchor is off.
_EXTRACTION = [
    LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False, normalization_config=_NORMALIZATION)
]
_DOTS = re.compile(r"\\[lcdv]?dots|\.\.\.|\N{HORIZONTAL ELLIPSIS}")
_OF_AN_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_ANGLE = re.compile(
    r"(?:\{([\d.+\-]+)\}|(?:\\left)?\(([\d.+\-]+)(?:\\right)?\)|(\d+(?:\.\d+)?))"
    r"\s*(?:\^\s*\{\s*\\circ\s*\}|\^\s*\\circ|\\degree|°)"
)
_ROUNDING = 1e-2  # relative; of a side of an equation, as in 22/7 = 3.14
# math-verify warns that it has no time limit; `rl.verification` has one.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def verify(completion: str, answer: Any) -> bool:
    """Return whether the final answer of a completion is right, by the rules at the top of this module.

    Args:
        completion: The completion, which must box its answer or write it after `####`.
        answer: The reference: an answer, a number, or a solution that ends in its answer.
    """
    said = final_answer(completion)
    return said is not None and same_answer(reference_answer(answer), said)


def same_answer(reference: str, said: str) -> bool:
    """Return whether an answer equals the reference."""
    if _squeezed(reference) == _squeezed(said):
        return True
    if (agree := same_choice(reference, said, same_answer)) is not None:
        return agree
    if is_text(reference) or is_text(said):
        return words(reference) is not None and words(reference) == words(said)
    if (agree := as_texts(reference, said)) is not None:
        return agree
    if (tuples := as_tuples(reference, said)) is not None:
        return same_answer(*tuples)
    gold, own = parts(reference), parts(said)
    values = with_words(gold.value, own.value)
    gold, own = gold._replace(value=values[0]), own._replace(value=values[1])
    gold, own = _with_unit_of(own, gold), _with_unit_of(gold, own)
    if (gold.unit and own.unit and gold.unit != own.unit) or (gold.base and own.base and gold.base != own.base):
        return False
    if own.base and not gold.base:
        number = _in_base_ten(own)
        if number is None:
            return False
        own = own._replace(value=number)
    if (gold.percent and own.unit) or (own.percent and gold.unit):
        return False
    if ":" in gold.value or ":" in own.value:
        return _same_ratio(gold.value, own.value)
    if _same_value(gold, own) and not _is_false(said) and (not _is_unsolved(said) or _is_unsolved(reference)):
        return True
    converted = _in_radians(reference), _in_radians(said)
    return converted != (reference, said) and same_answer(*converted)


def _in_radians(text: str) -> str:
    """Return an answer with the angles of its sines and other functions in radians, where they are in degrees."""
    if not _OF_AN_ANGLE.search(text):
        return text
    return _ANGLE.sub(lambda found: rf"(({found[1] or found[2] or found[3]})\pi/180)", text)


def _in_base_ten(answer: Answer) -> str | None:
    """Return the value of a numeral with a base, such as 2 for 10_2; None if it has a digit that its base lacks."""
    try:
        return str(int(answer.value, int(answer.base)))
    except ValueError:
        return None


def _with_unit_of(other: Answer, answer: Answer) -> Answer:
    """Return an answer with the unit of the other one if it ends in it: 5m is 5 m there, and elsewhere 5 times m."""
    number = answer.value.removesuffix(other.unit).rstrip()
    has_it = other.unit and not answer.unit and number != answer.value and number[-1:].isdigit()
    return answer._replace(value=number, unit=other.unit) if has_it else answer


def _same_value(gold: Answer, own: Answer) -> bool:
    if gold.percent == own.percent:
        return _equal(gold.value, own.value)
    if gold.percent:
        return _equal(gold.value, own.value) or _equal(_hundredth(gold.value), own.value)
    is_whole = re.fullmatch(r"-?\d+", gold.value) is not None and abs(int(gold.value)) > 1
    return _equal(gold.value, _hundredth(own.value)) or (is_whole and _equal(gold.value, own.value))


def _same_ratio(gold: str, own: str) -> bool:
    left, right = gold.split(":"), own.split(":")
    return len(left) == len(right) and all(map(_equal, left, right))


def _hundredth(value: str) -> str:
    return rf"\frac{{{value}}}{{100}}"


def _equal(gold: str, own: str) -> bool:
    """Return whether two values are equal by math-verify and by the rules that it lacks."""
    if _squeezed(gold) == _squeezed(own):
        return True
    if re.search(r"(?<![_^])\d\s+\d", own) or {_kind(gold), _kind(own)} == {"set", "point"}:
        return False
    if len(_DOTS.findall(gold)) != len(_DOTS.findall(own)):
        return False
    if (agree := same_items(gold, own, _equal)) is not None:
        return agree
    left, right = _parsed(gold), _parsed(own)
    if not left or not right or _reordered(left[0], right[0], gold):
        return False
    # math-verify returns the text where it can parse nothing. Equal texts were accepted above.
    if isinstance(left[0], str) or isinstance(right[0], str):
        return False
    if (agree := same_decimals(left[0], right[0])) is not None:
        return agree
    if equal(left[:1], right[:1], allow_set_relation_comp=True, timeout_seconds=None) and close(left[0], right[0]):
        return True
    numbers = [_with_imaginary_unit(one) for one in (left[0], right[0])]
    return numbers != [left[0], right[0]] and all(map(is_finite, numbers)) and close(*numbers)


def _with_imaginary_unit(value: Any) -> Any:
    """Return an expression with the imaginary unit in place of the variable i."""
    names = {one: sympy.I for one in getattr(value, "free_symbols", ()) if getattr(one, "name", "") == "i"}
    return value.subs(names) if names else value


def _is_false(answer: str) -> bool:
    """Return whether an equation has two numbers that differ by over one percent; math-verify reads its last side."""
    if "%" in answer or "_" in answer:
        return False
    numbers = [side for side in _sides(answer) if getattr(side, "is_number", False)]
    return not all(close(*pair, _ROUNDING) for pair in itertools.pairwise(numbers))


def _is_unsolved(answer: str) -> bool:
    """Return whether an equation gives a number for a polynomial in one unknown, and for no other name.

    The perimeter P = 4s = 20 has a name. A power alone may be what was asked for, as in r^2 = 9, and so may other
    expressions: m + n = 5, x + 1/x = 5, a sine.
    """
    sides = _sides(answer)
    if not sides or not getattr(sides[-1], "is_number", False):
        return False
    names = {side for side in sides if isinstance(side, sympy.Symbol)}
    return any(_is_polynomial(side) and not names - side.free_symbols for side in sides[:-1])


def _is_polynomial(expression: Any) -> bool:
    """Return whether an expression is linear in its only variable, such as 4x, or a sum of powers of it."""
    if not isinstance(expression, sympy.Add | sympy.Mul) or len(expression.free_symbols) != 1:
        return False
    (symbol,) = expression.free_symbols
    is_sum = isinstance(expression, sympy.Add)
    return bool(expression.is_polynomial(symbol)) and (is_sum or sympy.Poly(expression, symbol).degree() == 1)


def _sides(answer: str) -> list[Any]:
    """Return the sides of an equation, with None where one cannot be read; nothing for another answer."""
    return [next(iter(_parsed(text)), None) for text in answer.split("=")] if "=" in answer else []


def _parsed(value: str) -> list[Any]:
    return parse(rf"\boxed{{{value}}}", _EXTRACTION, parsing_timeout=None)  # type: ignore[arg-type]


def _kind(value: str) -> str:
    """Return "set" for a list in braces, "point" for a list in other brackets, and "" for anything else."""
    value = value.strip()
    if "," not in value:
        return ""
    if value.startswith(r"\{") and value.endswith(r"\}"):
        return "set"
    return "point" if value[0] in "([" and value[-1] in ")]" and _closes_last(value) else ""


def _closes_last(value: str) -> bool:
    """Return whether the first bracket of a value closes at its end, unlike in a union of two intervals."""
    depths = list(itertools.accumulate((letter in "([") - (letter in ")]") for letter in value))
    return 0 not in depths[:-1]


def _reordered(gold: Any, own: Any, text: str) -> bool:
    """Return whether a point is compared with a list without order."""
    return _kind(text) == "point" and isinstance(own, FiniteSet | sympy.FiniteSet) and not isinstance(gold, type(own))


def _squeezed(text: str) -> str:
    """Return an answer without spaces, except those between two digits."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", " ".join(plain(text).split()))
