"""The verifier of Countdown answers: a small grammar and exact arithmetic; no answer runs as code.

    expression = number | expression (+ | - | * | /) expression | "(" expression ")"

Numbers are decimal integers of ASCII digits without leading zeros. Spaces may stand between tokens. Any other text is a
wrong answer: `-3+5` (there are four operations of two operands and no sign), `2**3`, `7//2`, `3.0`, `1_0`, and
`3+5 = 8` with its tail (which TinyZero also rejects). If the completion contains `<answer>...</answer>`, only the text
in the last such pair is judged. Without tags, the whole completion is judged.

Reference: the rule-based reward of TinyZero (github.com/Jiayi-Pan/TinyZero), which differs: it evaluates in floating
point with a tolerance, accepts signs and `//`, and gives the format credit to any text between the tags.
"""

import ast
import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from rl.prompts import Verdict

# The longest text that is parsed: about 60 numbers, with far less nesting than Python's parser allows.
MAX_LENGTH = 128
_CHARACTERS = re.compile(r"[0-9+\-*/() ]+")
# Python accepts 00 as a number, and warns about a call at 1(2).
_MALFORMED = re.compile(r"\b0[0-9]|[0-9)] *\(|\) *[0-9]")
_OPENING, _CLOSING = "<answer>", "</answer>"


class Expression(NamedTuple):
    """A well-formed answer.

    Attributes:
        numbers: The numbers in the expression, from left to right.
        value: The exact value; None if the expression divides by zero.
    """

    numbers: list[int]
    value: Fraction | None


class _NotInGrammarError(ValueError):
    """The text is valid Python, but not in the grammar."""


def extract(completion: str) -> str:
    """Return the text inside the last `<answer>...</answer>`, or the whole completion if it has no such tag.

    If a tag is opened and never closed, as in a truncated completion, the answer is the empty text.
    """
    end = completion.rfind(_CLOSING)
    start = completion.rfind(_OPENING, 0, None if end < 0 else end)
    if start < 0 and end < 0:
        return completion.strip(" \t\r\n")
    if start < 0 or end < 0:
        return ""
    return completion[start + len(_OPENING) : end].strip(" \t\r\n")


def parse(text: str) -> Expression | None:
    """Parse an expression of the grammar; return None for any other text."""
    if len(text) > MAX_LENGTH or not _CHARACTERS.fullmatch(text) or _MALFORMED.search(text):
        return None
    numbers: list[int] = []
    try:
        return Expression(numbers, _value(ast.parse(text.strip(" "), mode="eval").body, numbers))
    except (SyntaxError, _NotInGrammarError):
        return None


def _value(node: ast.AST, numbers: list[int]) -> Fraction | None:
    """Return the value of a node and append its numbers. The text's length bounds the depth and the digits."""
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
    """Judge a completion: solved if it is well-formed, uses each number exactly once, and reaches the target.

    Args:
        completion: The policy's completion.
        answer: A mapping with `numbers` and `target`, as integers or their decimal text. It may also be given as a JSON
            text, as in a Parquet file that another program wrote.
        format_credit: Reward of a well-formed expression that is wrong; it never counts as success.

    Raises:
        ValueError: The answer lacks numbers or a target, or a text among them is not an integer.
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
