"""Judges Countdown answers: a small grammar, exact arithmetic, nothing evaluated as code.

    expression = number | expression (+ | - | * | /) expression | "(" expression ")"

Numbers are decimal integers of ASCII digits without leading zeros; spaces may stand between tokens.
Everything else is a wrong answer: `-3+5` (the rules know four operations of two operands and no sign),
`2**3`, `7//2`, `3.0`, `1_0`, and the tail in `3+5 = 8` (TinyZero rejects it as well). Where the completion
holds `<answer>...</answer>`, the last such pair is judged and nothing around it; without tags, all of it.

Reference: the rule-based reward of TinyZero (github.com/Jiayi-Pan/TinyZero), which evaluates in floating
point with a tolerance, takes signs and `//`, and gives the format credit to any text between the tags.
"""

import ast
import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from rl.prompts import Verdict

# The longest text that is parsed: some 60 numbers, and parentheses far from where Python's parser gives up.
MAX_LENGTH = 128
_CHARACTERS = re.compile(r"[0-9+\-*/() ]+")
# Python reads 00 as a number, and warns of a call at 1(2).
_MALFORMED = re.compile(r"\b0[0-9]|[0-9)] *\(|\) *[0-9]")
_OPENING, _CLOSING = "<answer>", "</answer>"


class Expression(NamedTuple):
    """A well-formed answer.

    Attributes:
        numbers: the numbers in it, from left to right.
        value: exact; None where it divides by zero.
    """

    numbers: list[int]
    value: Fraction | None


class _NotInGrammarError(ValueError):
    """The text is Python, but not of the grammar."""


def extract(completion: str) -> str:
    """The text inside the last `<answer>...</answer>`, or the whole completion if it has no such tag.

    A tag that is opened and never closed, as in a truncated completion, leaves no answer: the empty text.
    """
    end = completion.rfind(_CLOSING)
    start = completion.rfind(_OPENING, 0, None if end < 0 else end)
    if start < 0 and end < 0:
        return completion.strip(" \t\r\n")
    if start < 0 or end < 0:
        return ""
    return completion[start + len(_OPENING) : end].strip(" \t\r\n")


def parse(text: str) -> Expression | None:
    """Reads an expression of the grammar; None for any other text, of whatever length and content."""
    if len(text) > MAX_LENGTH or not _CHARACTERS.fullmatch(text) or _MALFORMED.search(text):
        return None
    numbers: list[int] = []
    try:
        return Expression(numbers, _value(ast.parse(text.strip(" "), mode="eval").body, numbers))
    except (SyntaxError, _NotInGrammarError):
        return None


def _value(node: ast.AST, numbers: list[int]) -> Fraction | None:
    """The value of a node; its numbers are appended. The length of the text bounds depth and digits."""
    match node:
        case ast.Constant(value=int(number)):
            numbers.append(number)
            return Fraction(number)
        case ast.BinOp(left, operation, right):
            a, b = _value(left, numbers), _value(right, numbers)
            return _apply(operation, a, b)
    raise _NotInGrammarError


def _apply(operation: ast.operator, a: Fraction | None, b: Fraction | None) -> Fraction | None:
    if not isinstance(operation, ast.Add | ast.Sub | ast.Mult | ast.Div):
        raise _NotInGrammarError
    if a is None or b is None:
        return None
    match operation:
        case ast.Add():
            return a + b
        case ast.Sub():
            return a - b
        case ast.Mult():
            return a * b
    return a / b if b else None


def verify(completion: str, answer: Mapping[str, Any] | str, *, format_credit: float = 0.0) -> Verdict:
    """Solved when the answer is well-formed, uses each number exactly once, and its value is the target.

    Args:
        completion: what the policy wrote.
        answer: `numbers` and `target`, integers or their decimal text; or a JSON text of both, as in a Parquet file
            that another program wrote.
        format_credit: the reward of a well-formed expression that is wrong; it never counts as success.

    Raises:
        ValueError: the answer has no numbers, no target, or text for one of them that is no integer.
    """
    numbers, target = _instance(answer)
    expression = parse(extract(completion))
    if expression is None:
        return Verdict(False, 0.0)
    numbers_match = sorted(expression.numbers) == sorted(numbers)
    success = numbers_match and expression.value == target
    return Verdict(success, 1.0 if success else format_credit)


def _instance(answer: Mapping[str, Any] | str) -> tuple[list[Any], Any]:
    try:
        found: Any = json.loads(answer) if isinstance(answer, str) else answer
        return [_number(number) for number in found["numbers"]], _number(found["target"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"answer is {answer!r}; give numbers and target, integers or their decimal text") from error


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) else value
