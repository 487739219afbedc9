r"""The typography of an answer: what LaTeX and Unicode write in many ways and mathematics in one."""

import re
import unicodedata

from rl.tasks.math_units import multiplied

TEXT = r"\\(?:text|textrm|textbf|textit|mathrm|mbox|operatorname|rm)\s*\{([^{}]*)\}"
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
        **{"\N{PLUS-MINUS SIGN}": r"\pm ", "\N{MINUS-OR-PLUS SIGN}": r"\mp "},
        **{"\N{UNION}": r"\cup ", "\N{INTERSECTION}": r"\cap ", "\N{EMPTY SET}": r"\emptyset "},
    }
)
_ROOT = re.compile(r"\N{SQUARE ROOT}\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[A-Za-z]))")
_VULGAR = re.compile(
    r"[\N{VULGAR FRACTION ONE QUARTER}-\N{VULGAR FRACTION THREE QUARTERS}"
    r"\N{VULGAR FRACTION ONE SEVENTH}-\N{VULGAR FRACTION SEVEN EIGHTHS}]"
)
_MIXED = re.compile(r"^(-?\d+)\s+(\d{1,60})\s*/\s*(\d{1,60})(?![\d/.])")
_EXPONENT = re.compile(r"^(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})$")
_REPEATING = re.compile(r"(?<!\d)(\d{0,60})\.(\d{0,60})\\(?:overline|bar)\s*(?:\{(\d{1,60})\}|(\d))")


def plain(text: str) -> str:
    """Return an answer without mere typography: dollar signs around it, LaTeX spaces, sizes of brackets and so on."""
    text = _AROUND.sub("", text.strip()).strip()
    if (match := re.fullmatch(TEXT, text)) and re.search(r"\d", match.group(1)):
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
    return multiplied(text.strip().removesuffix(".").strip())


def _ascii(text: str) -> str:
    """Return an answer with LaTeX in place of common symbols of Unicode."""
    text = _ROOT.sub(lambda match: rf"\sqrt{{{next(filter(None, match.groups()), '')}}}", text)
    text = _VULGAR.sub(_vulgar, text)
    return text.translate(_SYMBOLS)


def _vulgar(match: re.Match[str]) -> str:
    above, below = unicodedata.normalize("NFKC", match.group()).split("\N{FRACTION SLASH}")
    return rf"\frac{{{above}}}{{{below}}}"


def _mixed(match: re.Match[str]) -> str:
    """Return a mixed number such as 2 1/2 in LaTeX."""
    whole, above, below = match.groups()
    return rf"{whole}\frac{{{above}}}{{{below}}}" if int(above) < int(below) else match.group()


def _fraction(match: re.Match[str]) -> str:
    """Return a repeating decimal as a fraction."""
    whole, first, repeated = match[1], match[2], match[3] or match[4]
    above = int(whole + first + repeated) - int((whole + first) or 0)
    return rf"\frac{{{above}}}{{{10 ** len(first) * (10 ** len(repeated) - 1)}}}"
