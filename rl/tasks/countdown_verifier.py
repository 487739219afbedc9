r"""The verifier of Countdown answers: a small grammar and exact arithmetic; no answer runs as code.

    expression = number | expression (+ | - | * | /) expression | "(" expression ")"

Numbers are decimal integers of ASCII digits without leading zeros. If the completion contains `<answer>` tags, only the
text of the last pair `<answer>...</answer>` without a tag inside is judged. Tags without such a pair are a wrong
answer. Without tags, the whole completion is judged, because the built-in policy writes none.

Language models write the same expression in several ways, which all count:

* spaces, tabs and line breaks between numbers and operations;
* `×`, `⋅`, `·`, `\times` or `\cdot` for `*`, `÷`, `\div` for `/`, and `−` or another Unicode minus or hyphen for `-`;
* the wide forms of operations and brackets in Chinese text, and LaTeX's narrow spaces;
* `\left(` and `\right)`, and one pair of `$ $`, `$$ $$`, `\( \)` or `\[ \]` around the whole answer;
* `= 22` at the end, if 22 is the target.

Any other text is a wrong answer: `-3+5` (there are four operations of two operands and no sign), `2**3`, `7//2`, `3.0`,
`1_0`, `3x5`, `22 = 3*5+7`, and `3*5+7 = 23`.

Reference: the rule-based reward of TinyZero (github.com/Jiayi-Pan/TinyZero, verl/utils/reward_score/countdown.py). It
differs in these choices:

* It reads the last line of the completion alone, and its pair of tags begins at the first `<answer>` of the line.
* It gives 0.1 to any text between tags that is not right. Here, the argument `format_credit` of `verify` rewards only
  wrong expressions that are well-formed. It is 0 by default, and never counts as success.
* It calls `eval` on texts of digits, `+-*/().` and spaces. So signs, `//` and `**` are right answers there, and `2.5`
  counts as the two numbers 2 and 5.
* It computes in floating point with a tolerance of 1e-5. With four numbers up to 99, no wrong value is as close to a
  target of 1 or more, so this choice changes no verdict.
* It rejects `= 22` at the end and all operations of LaTeX and Unicode.
"""

import ast
import json
import re
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from numbers import Rational
from typing import Any, NamedTuple

from rl.prompts import Verdict

# The longest text that is parsed: about 60 numbers, with far less nesting than Python's parser allows.
MAX_LENGTH = 128
_MAX_WRITTEN = 8 * MAX_LENGTH  # the limit before LaTeX commands and spaces are shortened
_CHARACTERS = re.compile(r"[0-9+\-*/() ]+")
# Python accepts 00 as a number, and warns about a call at 1(2).
_MALFORMED = re.compile(r"\b0[0-9]|[0-9)] *\(|\) *[0-9]")
_SPACE = " \t\r\n"
_TAG = re.compile(r"</?answer>")
_OPERATIONS = str.maketrans(
    {
        **dict.fromkeys("×⋅·∗∙•✕✖＊", "*"),  # noqa: RUF001
        **dict.fromkeys("÷∕⁄／", "/"),  # noqa: RUF001
        **dict.fromkeys("−‐‑‒–﹣－", "-"),  # noqa: RUF001
        **dict(zip("＋﹢（）", "++()", strict=True)),  # noqa: RUF001
    }
)
_LATEX = {"times": "*", "cdot": "*", "div": "/", "left": "", "right": ""}
_COMMAND = re.compile(rf"\\({'|'.join(_LATEX)})(?![A-Za-z])")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


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
    """Return the text inside the last `<answer>...</answer>`, or the whole completion if it has no tag.

    A pair is an opening tag whose next tag is a closing one. If tags form no pair, as in a truncated completion, the
    answer is the empty text.
    """
    tags = list(_TAG.finditer(completion))
    if not tags:
        return completion.strip(_SPACE)
    inside = [(a.end(), b.start()) for a, b in pairwise(tags) if (a[0], b[0]) == ("<answer>", "</answer>")]
    start, end = inside[-1] if inside else (0, 0)
    return completion[start:end].strip(_SPACE)


def plain(text: str) -> str:
    """Return an answer with ASCII operations, single spaces and no LaTeX; a text too long to parse is unchanged."""
    if len(text) > _MAX_WRITTEN:
        return text
    text = text.translate(_OPERATIONS).strip(_SPACE)
    for left, right in _DELIMITERS:
        if len(text) >= len(left + right) and text.startswith(left) and text.endswith(right):
            text = text[len(left) : -len(right)]
            break
    text = _COMMAND.sub(lambda found: _LATEX[found[1]], text)
    text = re.sub(r"\\[,;: ]", " ", text)
    return re.sub(rf"[{_SPACE}]+", " ", text).strip(" ")


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
    """Return the value of a node and append its numbers. `MAX_LENGTH` bounds the recursion and the digits."""
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
        answer: A mapping with `numbers` (or `nums`) and `target`, as integers or their decimal text. The numbers may be
            one text, such as `[3, 5, 7]`. The mapping may also be given as a JSON text, as in a Parquet file that
            another program wrote.
        format_credit: Reward of a well-formed expression that is wrong; it never counts as success.

    Raises:
        ValueError: The answer lacks numbers or a target, or one of them is not an integer.
    """
    numbers, target = instance_of(answer)
    expression = parse(_without_result(plain(extract(completion)), target))
    if expression is None:
        return Verdict(False, 0.0)
    numbers_match = sorted(expression.numbers) == sorted(numbers)
    success = numbers_match and expression.value == target
    return Verdict(success, 1.0 if success else format_credit)


def _without_result(text: str, target: Any) -> str:
    """Return the text without `= target` at its end. Any other `= ...` stays and makes the answer wrong."""
    expression, equals, result = text.rpartition("=")
    return expression.rstrip(" ") if equals and result.strip(" ") == str(target) else text


def instance_of(answer: Mapping[str, Any] | str) -> tuple[list[Any], Any]:
    """Return the numbers and the target of an answer; see `verify`.

    Raises:
        ValueError: The answer lacks numbers or a target, or one of them is not an integer.
    """
    try:
        found: Any = json.loads(answer) if isinstance(answer, str) else answer
        given = found["numbers"] if "numbers" in found else found["nums"]
        numbers, target = numbers_of(given), _number(found["target"])
        if not all(isinstance(number, Rational) and not isinstance(number, bool) for number in (*numbers, target)):
            raise TypeError
        return numbers, target
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"answer is {answer!r}; give numbers and target, integers or their decimal text") from error


def numbers_of(value: Any) -> list[Any]:
    """Return numbers that are given as a list, or as a text such as `[3, 5, 7]` or `3 5 7`.

    Raises:
        TypeError: The value is neither a list nor a text.
        ValueError: A text among the numbers is not an integer.
    """
    if isinstance(value, str):
        inside = value.strip()
        inside = inside[1:-1] if inside.startswith("[") and inside.endswith("]") else inside
        value = re.split(r"[,\s]+", inside.strip())
    return [_number(number) for number in value]


def _number(value: Any) -> Any:
    """Return an integer for its decimal text and for a whole number in floating point, as a CSV reader may give it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) else value
