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
        **{"\N{MINUS SIGN}": "-", "\N{ELEMENT OF}": r"\in "},
        **{"\N{MIDDLE DOT}": r"\cdot ", "\N{DOT OPERATOR}": r"\cdot ", "\N{INFINITY}": r"\infty "},
        **{"\N{PLUS-MINUS SIGN}": r"\pm ", "\N{MINUS-OR-PLUS SIGN}": r"\mp "},
        **{"\N{UNION}": r"\cup ", "\N{INTERSECTION}": r"\cap ", "\N{EMPTY SET}": r"\emptyset "},
    }
)
_FULLWIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = dict.fromkeys(map(ord, "\N{NON-BREAKING HYPHEN}\N{HYPHEN}\N{EN DASH}\N{SMALL HYPHEN-MINUS}"), "-")
_RANGE = re.compile(r"[\d.,]+\s*\N{EN DASH}\s*[\d.,]+")
_RAISED = re.compile(r"[\u2070\u2071\u00b2\u00b3\u00b9\u2074-\u207b\u207d-\u207f]+")
_LOWERED = re.compile(r"[\u2080-\u208b\u208d\u208e\u2090-\u209c]+")
_FONT = re.compile(
    r"\\(?:math(?:bf|it|sf|tt|normal)|boldsymbol|bm|pmb|underline|emph|textcolor\s*(?:\[[^\]]*\])?\s*\{[^{}]*\})\s*"
    r"(?=\{)(?!\{[NZQRC]\})"
)
_SWITCH = re.compile(
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge|bf|it|sf|tt|bfseries|itshape|boldmath"
    r"|displaystyle|textstyle)(?![A-Za-z])\s*|\\color\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}\s*"
)
_ROMAN = re.compile(r"\{\s*\\rm\s+([A-Za-z ]+)\}|\\rm\s+([A-Za-z]+)\s*$")
_FUNCTION = re.compile(
    r"\\(?:operatorname\s*\{\s*(arc(?:sin|cos|tan|cot|sec|csc)|sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|ln|log|exp|max|min"
    r"|gcd|lcm)|mathrm\s*\{\s*(arc(?:sin|cos|tan)|sin|cos|tan|ln|log))\s*\}"
)
_ROOT_OF = re.compile(r"(\\sqrt\s*\[[^\]]*\])\s*(\\pi(?![A-Za-z])|[A-Za-z\d])")
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
    text = _AROUND.sub("", text.strip().translate(_FULLWIDTH)).strip()
    text = _without_fonts(text if _RANGE.fullmatch(text) else text.translate(_DASHES))
    if (match := re.fullmatch(TEXT, text)) and re.search(r"\d", match.group(1)):
        text = match.group(1).strip()
    if re.fullmatch(r"\(-?[\d.]+\)", text):
        text = text[1:-1]
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        text = text.removeprefix(opening).removesuffix(closing).strip()
    text = re.sub(r"(?<=[\d,])\\!\s*(?=\d)", "", text)
    text = re.sub(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])|(?<!\\)\\!|\\phantom\s*\{?[^{}]?\}?", "", text)
    text = re.sub(r"\\([lr])brace(?![A-Za-z])", lambda side: r"\{" if side[1] == "l" else r"\}", text)
    text = re.sub(r"\\pmod\s*(\d)", r"\\pmod{\1}", _ROOT_OF.sub(r"\1{\2}", text))
    text = _FRACTION.sub(r"\\frac{\1}{\2}", re.sub(r"\\[dt]frac", r"\\frac", text))
    text = _UPRIGHT.sub(r" \1 ", _ALPHABET.sub(r"\1{\2}", text))  # otherwise the i of 2\mathrm{i} would be a unit
    text = re.sub(r"(?<!\\)\\[,;: ] ?|~", " ", text).replace("{,}", ",")
    text = _ascii(text).replace(r"\varnothing", r"\emptyset")
    text = _EXPONENT.sub(r"\1 \\times 10^{\2}", _ORDINAL.sub("", text.strip()))
    text = _REPEATING.sub(_fraction, _MIXED.sub(_mixed, text))
    text = re.sub(r"^(\d{1,3})((?:[ ,]\d{3})+)(?=\.|$|[^\d,])", lambda m: re.sub(r"[ ,]", "", m.group()), text)
    return multiplied(text.strip().removesuffix(".").strip())


def braced(text: str) -> str | None:
    """Return what the braces at the beginning of a text hold; None if they never close."""
    depth = 0
    for mark in re.finditer(r"\\.|[{}]", text, re.DOTALL):  # \} is no brace, and \\} is a line's end and a brace
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return text[1 : mark.start()]
    return None


def _without_fonts(text: str) -> str:
    """Return an answer without fonts, sizes and colours; letters in roman type are a text."""
    text = _ROMAN.sub(lambda match: rf"\mathrm{{{match[1] or match[2]}}}", text)
    text = _SWITCH.sub("", _FUNCTION.sub(lambda match: rf"\{match[1] or match[2]} ", text))
    while match := _FONT.search(text):
        before, inside = text[: match.start()], braced(text[match.end() :])
        if inside is None:
            return text
        is_argument = re.search(r"(?:[\^_}]|\\[A-Za-z]+)\s*$", before) is not None
        after = text[match.end() + len(inside) + 2 :]
        text = f"{before}{{{inside}}}{after}" if is_argument else f"{before}{inside}{after}"
    return text[1:-1].strip() if text[:1] == "{" and "," not in text and braced(text) == text[1:-1] else text


def _scripts(text: str) -> str:
    """Return an answer with raised and lowered characters of Unicode in LaTeX."""
    for mark, pattern in (("^", _RAISED), ("_", _LOWERED)):
        for run in sorted(set(pattern.findall(text)), key=len, reverse=True):
            inside = unicodedata.normalize("NFKC", run)
            text = text.replace(run, f"{mark}{inside}" if len(inside) == 1 else f"{mark}{{{inside}}}")
    return text


def _ascii(text: str) -> str:
    """Return an answer with LaTeX in place of common symbols of Unicode."""
    text = _ROOT.sub(lambda match: rf"\sqrt{{{next(filter(None, match.groups()), '')}}}", text)
    text = _VULGAR.sub(_vulgar, text)
    return _scripts(text).translate(_SYMBOLS)


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
