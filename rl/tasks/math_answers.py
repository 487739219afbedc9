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

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)|\\boxed\s+(\S+)")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_JSON = re.compile(r'\s*[\[{][\s\[{]*"')
_ANSWER_IS = re.compile(
    r"^[*_\s]*(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?answer\b[*_\s]*(?:is\b|[:=])[*_\s:]*",
    re.I,
)
_NUMBER = re.compile(r"^[*`$\s\\({\[+-]*\d")
_HEADING = re.compile(r"^[*_\s]*\d+[.):]+[*_]*\s+[*_]*[A-Za-z]")
_TEXT = r"\\(?:text|textrm|textbf|textit|mathrm|mbox|operatorname|rm)\s*\{([^{}]*)\}"
_POWER = r"(?:\^\s*\{?\s*(\d)\s*\}?)?"
_UNIT_OF_TEXT = re.compile(rf"(?<=[\d\w}}\)])(?:\\ |\\,|~|\s)*{_TEXT}\s*{_POWER}\s*$")
_WORDS = r"[A-Za-z]+(?: [A-Za-z]+)*(?: ?/ ?[A-Za-z]+)?"
_UNIT_OF_WORDS = re.compile(rf"(?<=[\d}}])(?<!\\)(?P<space>\s*)(?<![A-Za-z\\])(?P<name>{_WORDS})\.?{_POWER}$")
_POWER_OF_NAME = re.compile(r"\^\{?(\d)\}?$")
_AROUND = re.compile(
    r"^(?:\*\*+|`+)|(?:\*\*+|`+)$|\\+\s*$"
    r"|^(?:=|\\(?:approx|therefore)(?![A-Za-z])|\N{ALMOST EQUAL TO}|\N{THEREFORE})\s*"
)
_FRACTION = re.compile(r"\\frac\s*([A-Za-z\d])\s+([A-Za-z\d])(?![A-Za-z\d])")
_ALPHABET = re.compile(r"(\\math(?:bb|bf|rm))(?:\s+(?=[A-Za-z])|\s*(?=\d))([A-Za-z\d])(?![A-Za-z\d])")
_UPRIGHT = re.compile(r"\\mathrm\s*\{\s*([ei])\s*\}")
_ORDINAL = re.compile(
    r"(?<=\d)\s*\^\s*(\{)?\s*\\(?:text|textrm|mathrm|mbox)\s*\{\s*(?:st|nd|rd|th)\s*\}(?(1)\s*\})\s*\.?$"
)
_SYMBOLS = str.maketrans(
    {
        **{"\N{MINUS SIGN}": "-", "\N{SUPERSCRIPT TWO}": "^2", "\N{SUPERSCRIPT THREE}": "^3"},
        **{"\N{MIDDLE DOT}": r"\cdot ", "\N{DOT OPERATOR}": r"\cdot ", "\N{INFINITY}": r"\infty "},
        **{"\N{UNION}": r"\cup ", "\N{INTERSECTION}": r"\cap ", "\N{EMPTY SET}": r"\emptyset "},
    }
)
_ROOT = re.compile(r"\N{SQUARE ROOT}\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[A-Za-z]))")
_VULGAR = re.compile(
    r"[\N{VULGAR FRACTION ONE QUARTER}-\N{VULGAR FRACTION THREE QUARTERS}"
    r"\N{VULGAR FRACTION ONE SEVENTH}-\N{VULGAR FRACTION SEVEN EIGHTHS}]"
)
_CURRENCIES = {r"\$": "$", "$": "$", "\N{EURO SIGN}": "euro", "\N{POUND SIGN}": "\N{POUND SIGN}"}
_MIXED = re.compile(r"^(-?\d+)\s+(\d{1,60})\s*/\s*(\d{1,60})(?![\d/.])")
_EXPONENT = re.compile(r"^(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})$")
_REPEATING = re.compile(r"(?<!\d)(\d{0,60})\.(\d{0,60})\\(?:overline|bar)\s*(?:\{(\d{1,60})\}|(\d))")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|percent)\s*\}|\s+percent)\s*$")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°)\s*(?:([CF])|\\text\s*\{\s*([CF])\s*\})?\s*$")
_BASE = re.compile(r"^\s*(-?[0-9A-Za-z]+)_\{?(\d+)\}?\s*$")
_MEMBER = re.compile(r"^[A-Za-z]\s*\\in\s*(?=[\[(\\])")
_NAMES = {
    **dict.fromkeys(("centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("kilometer", "kilometre"), "km"),
    **dict.fromkeys(("meter", "metre"), "m"),
    **dict.fromkeys(("inch", "inche"), "in"),
    **dict.fromkeys(("foot", "feet"), "ft"),
    **{"yard": "yd", "mile": "mi", "gram": "g", "kilogram": "kg", "milligram": "mg", "pound": "lb", "ounce": "oz"},
    **dict.fromkeys(("liter", "litre"), "l"),
    **dict.fromkeys(("milliliter", "millilitre"), "ml"),
    **{"second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h"},
    **{"dollar": "$", "cent": "cent", "degree": "deg", "radian": "rad"},
    **{"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h"},
}
_UNITS = {
    *_NAMES.values(),
    "day",
    "week",
    "month",
    "year",
    "am",
    "pm",
    "gallon",
    "quart",
    "euro",
    "\N{POUND SIGN}",
}


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
    if "<think>" in text:
        return None
    boxes, lines = list(_BOXED.finditer(text)), [line for line in _HASHES.finditer(text) if _line(line)]
    hashes = [line for line in lines if _is_answer(line.group(1))] or ([] if boxes else lines)
    last = max([*boxes[-1:], *hashes[-1:]], key=lambda match: match.start(), default=None)
    if last is None:
        return None
    if last.re is _HASHES:
        return _line(last)
    found = last.group(1) if last.group(1) is not None else _braced(text[last.end() :])
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
    if match := _UNIT_OF_TEXT.search(text):
        unit = _unit(match.group(1), match.group(2))
        return Answer(text[: match.start()].strip(), unit or money, percent)
    match = _UNIT_OF_WORDS.search(text)
    unit = "" if match is None else _unit(match["name"], match.group(3))
    if match is None or not _is_counted(match["space"], match["name"], unit):
        return Answer(text, money, percent)
    return Answer(text[: match.start()].strip(), unit or money, percent)


def plain(text: str) -> str:
    """Return an answer without mere typography: dollar signs around it, LaTeX spaces, sizes of brackets and so on."""
    text = _AROUND.sub("", text.strip()).strip()
    if (match := re.fullmatch(_TEXT, text)) and re.search(r"\d", match.group(1)):
        text = match.group(1).strip()
    if re.fullmatch(r"\(-?[\d.]+\)", text):
        text = text[1:-1]
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        text = text.removeprefix(opening).removesuffix(closing).strip()
    text = re.sub(r"(?<=[\d,])\\!\s*(?=\d)", "", text)
    text = re.sub(r"\\(?:left|right|displaystyle|big|Big)(?![A-Za-z])|(?<!\\)\\!|\\phantom\s*\{?[^{}]?\}?", "", text)
    text = _FRACTION.sub(r"\\frac{\1}{\2}", re.sub(r"\\[dt]frac", r"\\frac", text))
    text = _UPRIGHT.sub(r" \1 ", _ALPHABET.sub(r"\1{\2}", text))  # otherwise the i of 2\mathrm{i} would be a unit
    text = re.sub(r"(?<!\\)\\[,;: ] ?|~", " ", text).replace("{,}", ",")
    text = _ascii(text).replace(r"\varnothing", r"\emptyset")
    text = _EXPONENT.sub(r"\1 \\times 10^{\2}", _ORDINAL.sub("", text.strip()))
    text = _REPEATING.sub(_fraction, _MIXED.sub(_mixed, text))
    text = re.sub(r"^(\d{1,3})((?:[ ,]\d{3})+)(?=\.|$|[^\d,])", lambda m: re.sub(r"[ ,]", "", m.group()), text)
    return text.strip().removesuffix(".").strip()


def words(text: str) -> str | None:
    r"""Return the words of an answer in lower case, such as "monday" for \text{Monday}; None if it is not words."""
    bare = unicodedata.normalize("NFC", re.sub(_TEXT, r"\1", plain(text)).strip())
    bare = bare.removeprefix("(").removesuffix(")")
    listed = re.sub(r"\s*,\s*", ",", bare.lower())
    is_words = bare[:1].isalpha() and all(
        unicodedata.category(letter)[0] in "LM" or letter in "', .-" for letter in bare
    )
    return " ".join(listed.split()) if is_words else None


def is_text(text: str) -> bool:
    r"""Return whether an answer is words inside \text{...}. With a digit among them it counts as a value."""
    return re.fullmatch(r"\s*\(?\s*" + _TEXT + r"\s*\)?\s*", plain(text)) is not None


def _ascii(text: str) -> str:
    """Return an answer with LaTeX in place of common symbols of Unicode."""
    text = _ROOT.sub(lambda match: rf"\sqrt{{{next(filter(None, match.groups()), '')}}}", text)
    text = _VULGAR.sub(_vulgar, text)
    return text.translate(_SYMBOLS)


def _vulgar(match: re.Match[str]) -> str:
    above, below = unicodedata.normalize("NFKC", match.group()).split("\N{FRACTION SLASH}")
    return rf"\frac{{{above}}}{{{below}}}"


def digits(number: float) -> str:
    """Return a float without an exponent, which is a product with the letter e in mathematics."""
    text = f"{Decimal(repr(float(number))):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _mixed(match: re.Match[str]) -> str:
    """Return a mixed number such as 2 1/2 in LaTeX."""
    whole, above, below = match.groups()
    return rf"{whole}\frac{{{above}}}{{{below}}}" if int(above) < int(below) else match.group()


def _fraction(match: re.Match[str]) -> str:
    """Return a repeating decimal as a fraction."""
    whole, first, repeated = match[1], match[2], match[3] or match[4]
    above = int(whole + first + repeated) - int((whole + first) or 0)
    return rf"\frac{{{above}}}{{{10 ** len(first) * (10 ** len(repeated) - 1)}}}"


def _is_counted(space: str, name: str, unit: str) -> bool:
    """Return whether letters after a number are a unit or what is counted, and not variables as in 2xy."""
    if name in ("st", "nd", "rd", "th"):
        return True
    if unit:
        return len(name) > 1 or (space != "" and name in _UNITS | {"L"})
    return space != "" and any(len(word) > 2 and re.search("[aeiouAEIOU]", word) for word in name.split())


def _unit(text: str, power: str | None) -> str:
    """Return the short name of a unit; "" for words that are no known unit, such as "apples"."""
    name = text.strip().strip(".").lower()
    if match := _POWER_OF_NAME.search(name):
        name, power = name[: match.start()], match.group(1)
    above, per, below = name.replace(" per ", "/").partition("/")
    if per:
        units = _unit(above, None), _unit(below, power)
        return "/".join(units) if all(units) else ""
    for word, exponent in (("square ", "2"), ("cubic ", "3"), ("sq ", "2"), ("cu ", "3")):
        if name.startswith(word):
            name, power = name.removeprefix(word), exponent
    name = name if name in _UNITS else name.removesuffix("s")
    name = _NAMES.get(name, name)
    if name not in _UNITS:
        return ""
    return f"{name}^{power}" if power and power != "1" else name


def _braced(text: str) -> str | None:
    """Return what the braces at the beginning of a text hold; None if they never close."""
    depth = 0
    for mark in re.finditer(r"\\.|[{}]", text, re.DOTALL):  # \} is no brace, and \\} is a line's end and a brace
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return text[1 : mark.start()]
    return None
