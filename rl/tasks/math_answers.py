r"""The final answer of a completion, and its parts: value, unit, percent sign and base.

The final answer is what the last `\boxed{...}` or the last line `#### ...` says, whichever comes later. Only the
text after the last `</think>` counts, and a `<think>` that never ends leaves no answer.
"""

import re
from typing import Any, NamedTuple

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)|\\boxed\s+(\S+)")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_TEXT = r"\\(?:text|textrm|textbf|textit|mathrm|mbox|operatorname|rm)\s*\{([^{}]*)\}"
_POWER = r"(?:\^\s*\{?\s*(\d)\s*\}?)?"
_UNIT_OF_TEXT = re.compile(rf"(?<=[\d\w}}\)])(?:\\ |\\,|~|\s)*{_TEXT}\s*{_POWER}\s*$")
_UNIT_OF_WORDS = re.compile(
    rf"(?<=[\d}}])\s*(?<![A-Za-z\\])((?:square |cubic )?[A-Za-z]{{2,}}(?: [A-Za-z]+)*)\.?{_POWER}$"
)
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|percent)\s*\}|\s+percent)\s*$")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°)\s*(?:([CF])|\\text\s*\{\s*([CF])\s*\})?\s*$")
_BASE = re.compile(r"^\s*([0-9A-Za-z]+)_\{?(\d+)\}?\s*$")
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
}
_UNITS = {
    *_NAMES.values(),
    "day",
    "week",
    "month",
    "year",
    "am",
    "pm",
    "mph",
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
    boxes, hashes = list(_BOXED.finditer(text)), list(_HASHES.finditer(text))
    last = max([*boxes[-1:], *hashes[-1:]], key=lambda match: match.start(), default=None)
    if last is None:
        return None
    found = last.group(1) if last.group(1) is not None else _braced(text[last.end() :])
    return found.strip() or None if found is not None else None


def reference_answer(answer: Any) -> str:
    """Return a reference answer as text; from a worked solution, only its final answer."""
    if isinstance(answer, list | tuple) and len(answer) == 1:
        return reference_answer(answer[0])
    text = f"{answer:g}" if isinstance(answer, float) and answer.is_integer() and abs(answer) < 1e6 else str(answer)
    return final_answer(text) or text.strip()


def parts(text: str) -> Answer:
    """Split an answer into its value and what stands around it."""
    text, percent = _MEMBER.sub("", plain(text)), False
    dollars = text.startswith(("\\$", "$"))
    text = text.lstrip("\\$ ") if dollars else text
    base = _BASE.match(text)
    if base:
        return Answer(base.group(1), base=base.group(2))
    if match := _PERCENT.search(text):
        text, percent = text[: match.start()], True
    if match := _DEGREES.search(text):
        scale = match.group(1) or match.group(2) or ""
        return Answer(text[: match.start()], f"deg{scale}", percent)
    match = _UNIT_OF_TEXT.search(text) or _UNIT_OF_WORDS.search(text)
    if match is None:
        return Answer(text, "$" if dollars else "", percent)
    unit = _unit(match.group(1), match.group(2))
    return Answer(text[: match.start()].strip(), unit or ("$" if dollars else ""), percent)


def plain(text: str) -> str:
    """Return an answer without mere typography: dollar signs around it, LaTeX spaces, sizes of brackets and so on."""
    text = text.strip()
    if (match := re.fullmatch(_TEXT, text)) and re.search(r"\d", match.group(1)):
        text = match.group(1).strip()
    if re.fullmatch(r"\(-?[\d.]+\)", text):
        text = text[1:-1]
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        text = text.removeprefix(opening).removesuffix(closing).strip()
    text = re.sub(r"\\(?:left|right|displaystyle|big|Big)(?![A-Za-z])|(?<!\\)\\!|\\phantom\s*\{?[^{}]?\}?", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"(?<!\\)\\[,;: ] ?|~", " ", text).replace("{,}", ",").replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"^(\d{1,3})((?:[ ,]\d{3})+)(?=\.|$|[^\d,])", lambda m: re.sub(r"[ ,]", "", m.group()), text)
    return text.strip().removesuffix(".").strip()


def words(text: str) -> str | None:
    r"""Return the words of an answer in lower case, such as "monday" for \text{Monday}; None if it is not words."""
    bare = re.sub(_TEXT, r"\1", plain(text)).strip()
    bare = bare.removeprefix("(").removesuffix(")")
    listed = re.sub(r"\s*,\s*", ",", bare.lower())
    return " ".join(listed.split()) if re.fullmatch(r"[A-Za-z][A-Za-z', .-]*", bare) else None


def is_text(text: str) -> bool:
    r"""Return whether an answer is words inside \text{...}. With a digit among them it counts as a value."""
    return re.fullmatch(r"\s*\(?\s*" + _TEXT + r"\s*\)?\s*", plain(text)) is not None


def _unit(text: str, power: str | None) -> str:
    """Return the short name of a unit; "" for words that are no known unit, such as "apples"."""
    name = text.strip().strip(".").lower()
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
    for at, letter in enumerate(text):
        if letter in "{}" and text[at - 1 : at] != "\\":
            depth += 1 if letter == "{" else -1
        if depth == 0:
            return text[1:at]
    return None
