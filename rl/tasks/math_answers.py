r"""The final answer of a completion, and its parts: value, unit, percent sign and base.

The final answer is what the last `\boxed{...}` or the last line `#### ...` says, whichever comes later. A line of
words, such as `#### Verification`, is a heading of Markdown: it counts only where nothing else gives an answer. In
`#### The answer is 5` and `#### Answer: 5` the answer is 5. Only the text after the last `</think>` counts, and a
`<think>` that never ends leaves no answer. A `<think>` that the chat template writes into the prompt is not seen.
"""

import json
import math
import re
import unicodedata
from decimal import Decimal
from typing import Any, NamedTuple

from rl.tasks.math_typography import TEXT, braced, plain
from rl.tasks.math_units import is_counted, makes_another_number, symbol, unit

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)|\\boxed(?:\s+|(?=[+-]?\d|\\[A-Za-z{]))([^\s$]+)")
_END = re.compile(
    r"(?:[ \t]*(?:</s>|<(?:eos|end_of_turn)>|<[|\N{FULLWIDTH VERTICAL LINE}][^<>\s]+[|\N{FULLWIDTH VERTICAL LINE}]>))+"
    r"[ \t]*$",
    re.MULTILINE,
)
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_JSON = re.compile(r'\s*[\[{][\s\[{]*"')
_ANSWER_IS = re.compile(
    r"^[*_\s]*(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?answer\b[*_\s]*(?:is\b|[:=])[*_\s:]*",
    re.I,
)
_NUMBER = re.compile(r"^[*`$\s\\({\[+-]*\d")
_HEADING = re.compile(r"^[*_\s]*\d+[.):]+[*_]*\s+[*_]*[A-Za-z]")
_POWER = r"(?:\^\s*\{?\s*(\d)\s*\}?)?"
_BETWEEN = r"(?:\\ |\\,|~|\s)*"
_UNIT_OF_TEXT = re.compile(rf"(?<=[\d\w}}\)]){_BETWEEN}{TEXT}\s*{_POWER}\s*$")
_UNIT_OF_TEXTS = re.compile(
    rf"(?<=[\d}}\)]){_BETWEEN}(?P<all>{TEXT}\s*(?:\^\s*\{{?\s*-?\d\s*\}}?)?"
    rf"(?:{_BETWEEN}(?:\\cdot|/)?{_BETWEEN}{TEXT}\s*(?:\^\s*\{{?\s*-?\d\s*\}}?)?)+)\s*$"
)
_WORDS = r"[A-Za-z]+(?: [A-Za-z]+)*(?: ?/ ?[A-Za-z]+)?"
_UNIT_OF_WORDS = re.compile(rf"(?<=[\d}}])(?<!\\)(?P<space>\s*)(?<![A-Za-z\\])(?P<name>{_WORDS})\.?{_POWER}$")
_CURRENCIES = {r"\$": "$", "$": "$", "\N{EURO SIGN}": "euro", "\N{POUND SIGN}": "\N{POUND SIGN}"}
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|per ?cent)\s*\}|\s+per ?cent)\s*$")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°)\s*(?:([CF])|\\text\s*\{\s*([CF])\s*\})?\s*$")
_BASE = re.compile(r"^\s*(-?[0-9A-Za-z]+)_\{?(\d+)\}?\s*$")
_MEMBER = re.compile(r"^[A-Za-z]\s*\\in\s*(?=[\[(\\])")


class Answer(NamedTuple):
    """The parts of a final answer.

    Attributes:
        value: The answer without the other parts, for a parser of mathematics.
        unit: The short name of a known unit, such as "cm^2" or "deg"; "" if there is none.
        percent: Whether the value is a percentage.
        base: The base of a numeral, such as "5" for 120_5; "" if none is given.
    """

    value: str
    unit: str = ""
    percent: bool = False
    base: str = ""


def final_answer(completion: str) -> str | None:
    """Return the final answer of a completion; None if it gives none."""
    text = completion.rpartition("</think>")[2]
    text = _END.sub("", text)
    if "<think>" in text:
        return None
    boxes, lines = list(_BOXED.finditer(text)), [line for line in _HASHES.finditer(text) if _line(line)]
    hashes = [line for line in lines if _is_answer(line.group(1))] or ([] if boxes else lines)
    last = max([*boxes[-1:], *hashes[-1:]], key=lambda match: match.start(), default=None)
    if last is None:
        return None
    if last.re is _HASHES:
        return _line(last)
    found = last.group(1) if last.group(1) is not None else braced(text[last.end() :])
    return found.strip() or None if found is not None else None


def _line(match: re.Match[str]) -> str:
    """Return what a line says after `####`, without the words "The answer is"."""
    said, count = _ANSWER_IS.subn("", match.group(1))
    return re.sub(r"(?<!\.)\.$", "", said.strip()) if count else said.strip()


def _is_answer(line: str) -> bool:
    """Return whether a line after `####` is an answer, and not a heading of Markdown."""
    if _ANSWER_IS.match(line):
        return True
    if _NUMBER.match(line):
        return not _HEADING.match(line)
    bare = re.sub(r"\\[A-Za-z]+", "1", line)
    return re.search("[A-Za-z0-9]", bare) is not None and re.search("[A-Za-z]{2}", bare) is None


def reference_answer(answer: Any) -> str:
    """Return a reference answer as text; from a worked solution, only its final answer.

    A list of one answer and a record with the field `ground_truth` stand for what they hold, also as JSON text.

    Raises:
        ValueError: There is no answer, or there are several, or none that is a text or a number.
    """
    answer = _decoded(answer)
    if isinstance(answer, list | tuple) and len(answer) == 1:
        return reference_answer(answer[0])
    if isinstance(answer, dict) and "ground_truth" in answer:
        return reference_answer(answer["ground_truth"])
    if answer is None or isinstance(answer, list | tuple | dict):
        raise ValueError(f"the reference answer is {answer!r:.80}; give one text or number")
    text = digits(answer) if isinstance(answer, float) and math.isfinite(answer) else str(answer)
    return final_answer(text) or text.strip()


def _decoded(answer: Any) -> Any:
    """Return what a text of JSON holds if it is a list or a record with a text in it; other answers stay."""
    if not isinstance(answer, str) or not _JSON.match(answer):  # without a quote, as in [1, 2], it is mathematics
        return answer
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return answer


def parts(text: str) -> Answer:
    """Split an answer into its value and what stands around it."""
    text, percent = _MEMBER.sub("", plain(text)), False
    currency = next((sign for sign in _CURRENCIES if text.startswith(sign)), "")
    money = _CURRENCIES.get(currency, "")
    text = text.removeprefix(currency).strip()
    base = _BASE.match(text)
    if base:
        return Answer(base.group(1), base=base.group(2))
    if match := _PERCENT.search(text):
        text, percent = text[: match.start()], True
    if match := _DEGREES.search(text):
        scale = match.group(1) or match.group(2) or ""
        return Answer(text[: match.start()], f"deg{scale}", percent)
    if match := _UNIT_OF_TEXTS.search(text):
        name = re.sub(TEXT, r" \1 ", match["all"]).replace(r"\cdot", " ")
        if not makes_another_number(name):
            return Answer(text[: match.start()].strip(), unit(name, None) or money or symbol(name, None), percent)
    if match := _UNIT_OF_TEXT.search(text):
        if makes_another_number(match.group(1), money):
            return Answer(text, money, percent)
        of = unit(*match.groups()) or money or symbol(*match.groups())
        return Answer(text[: match.start()].strip(), of, percent)
    match = _UNIT_OF_WORDS.search(text)
    of = "" if match is None else unit(match["name"], match.group(3))
    if match is None or not is_counted(match["space"], match["name"], of):
        return Answer(text, money, percent)
    return Answer(text[: match.start()].strip(), of or money, percent)


def words(text: str) -> str | None:
    r"""Return the words of an answer in lower case, such as "monday" for \text{Monday}; None if it is not words."""
    bare = unicodedata.normalize("NFC", re.sub(TEXT, r"\1", plain(text)).strip())
    bare = bare.removeprefix("(").removesuffix(")")
    listed = re.sub(r"\s*,\s*", ",", bare.lower())
    is_words = bare[:1].isalpha() and all(
        unicodedata.category(letter)[0] in "LM" or letter in "', .-" for letter in bare
    )
    return " ".join(listed.split()) if is_words else None


def is_text(text: str) -> bool:
    r"""Return whether an answer is words inside \text{...}. With a digit among them it counts as a value."""
    return re.fullmatch(r"\s*\(?\s*" + TEXT + r"\s*\)?\s*", plain(text)) is not None


def digits(number: float) -> str:
    """Return a float without an exponent, which is a product with the letter e in mathematics."""
    text = f"{Decimal(repr(float(number))):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
