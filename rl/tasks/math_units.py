r"""What stands after a number: units, counted things, and words that make another number of it.

Symbols of the SI keep their case, so that mA is not MA. A unit that is not in the tables, such as `\text{ kg m/s}`, is
known by its symbol alone. Letters after a number are a unit or counted things only if all of them can be words or
units: not in `5 or more`, `5 thirds`, `5 squared`, `5 is wrong` and `5 times x`, which are no 5.
"""

import re

_PREFIXES = {
    **{"kilo": "k", "mega": "M", "giga": "G", "tera": "T", "deci": "d", "centi": "c"},
    **{"milli": "m", "micro": "u", "nano": "n", "pico": "p"},
}
_SI = {
    **{"meter": "m", "metre": "m", "gram": "g", "liter": "l", "litre": "l", "second": "s", "mole": "mol"},
    **{"ampere": "A", "amp": "A", "kelvin": "K", "hertz": "Hz", "newton": "N", "pascal": "Pa", "joule": "J"},
    **{"watt": "W", "coulomb": "C", "volt": "V", "farad": "F", "henry": "H", "tesla": "T", "weber": "Wb"},
    **{"siemens": "S", "ohm": "\N{GREEK CAPITAL LETTER OMEGA}", "electronvolt": "eV", "calorie": "cal"},
    **{"byte": "B", "bit": "bit", "watt hour": "Wh", "watt-hour": "Wh"},
}
_NAMES = {
    **{prefix + name: short + symbol for prefix, short in _PREFIXES.items() for name, symbol in _SI.items()},
    **_SI,
    **dict.fromkeys(("inch", "inche"), "in"),
    **dict.fromkeys(("foot", "feet"), "ft"),
    **{"yard": "yd", "mile": "mi", "pound": "lb", "ounce": "oz", "gal": "gallon", "qt": "quart", "pt": "pint"},
    **{"sec": "s", "minute": "min", "hour": "h", "hr": "h", "wk": "week", "mo": "month", "yr": "year"},
    **{"dollar": "$", "usd": "$", "cent": "cent", "degree": "deg", "radian": "rad", "ton": "ton", "tonne": "t"},
    **{"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "cc": "cm^3"},
    **{"atm": "atm", "atmosphere": "atm", "bar": "bar", "psi": "psi", "rpm": "rpm", "hectare": "ha", "acre": "acre"},
}
_SYMBOLS = {short + symbol: short + symbol for short in ("", *_PREFIXES.values()) for symbol in _SI.values()}
_SYMBOLS |= {name.replace("l", "L"): name for name in _SYMBOLS if name in ("l", "dl", "cl", "ml", "ul", "kl")}
# Units whose short names count without \text{} and in any case, such as 5 CM.
_USUAL = {"cm", "mm", "km", "m", "in", "ft", "yd", "mi", "g", "kg", "mg", "lb", "oz", "l", "ml", "s", "min", "h"}
_USUAL |= {"$", "cent", "deg", "rad", "mi/h", "km/h", "day", "week", "month", "year", "am", "pm", "gallon", "quart"}
_USUAL |= {"euro", "\N{POUND SIGN}", "pint", "ton"}
_SHORT = {"hr", "sec", "mph", "kph", "kmh", "kmph"}
_OF_LOWER = {
    name.lower(): name for name in _SYMBOLS.values() if sum(o.lower() == name.lower() for o in _SYMBOLS.values()) == 1
}
_SHAPES = (("square ", "2"), ("cubic ", "3"), ("sq ", "2"), ("cu ", "3"))
_POWER_OF_NAME = re.compile(r"\^\{?(-?\d)\}?$")
_ORDINALS = ("st", "nd", "rd", "th")
_LONG = re.compile("(?=.*[aeiouAEIOU])[A-Za-z]{3,}")
_SMALL = {"a", "an", "as", "at", "by", "in", "of", "on", "per", "the", "to", "up"}
_MULTIPLES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MULTIPLE = re.compile(
    r"^(?P<front>[^=]*=\s*|(?:\\?\$|\N{EURO SIGN}|\N{POUND SIGN})\s*)?"
    r"(?P<number>-?(?:\d[\d,]*(?:\.\d+)?|\d*\\frac(?:\{\d+\}\{\d+\}|\d\d)))"
    rf"\s*(?P<text>\\(?:text|textrm|textbf|textit|mathrm|mbox)\s*\{{\s*)?"
    rf"(?P<names>(?:(?:{'|'.join(_MULTIPLES)})s?\b\s*)+)",
    re.I,
)
_OTHER_NUMBER = """
and or nor but is are was were not no never wrong false incorrect than least most below under over beyond
plus minus divided multiplied squared cubed factorial modulo mod power itself percent infinity
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety tens half halves quarter quarters
hundred thousand million billion trillion quadrillion dozen lakh crore bn mn
sin cos tan cot sec csc log exp max gcd lcm arcsin arccos arctan sinh cosh tanh sqrt
alpha beta gamma delta epsilon theta lambda sigma omega phi psi tau pi
"""
_OTHER_NUMBERS = frozenset(_OTHER_NUMBER.split())
_FRACTION = re.compile(
    r"(?:thir|four|fif|six|seven|eigh|ni[n]|ten|eleven|twelf|\w+teen|\w+tie|hundred|thousand|\w+illion)(?:d|th)s?"
)


def multiplied(text: str) -> str:
    """Return an answer with `1.5 million` and `5 dozen` as numbers in digits."""
    match = _MULTIPLE.match(text)
    if match is None:
        return text
    factor, rest = 1, text[match.end() :]
    for name in match["names"].lower().split():
        factor *= _MULTIPLES[name.removesuffix("s")]
    rest = rest.removeprefix("}") if match["text"] and rest.startswith("}") else (match["text"] or "") + rest
    number = match["number"].replace(",", "")
    whole, _, below = number.partition(".")
    if re.fullmatch(r"-?\d+", whole) and len(below) <= len(str(factor)):
        scaled = int(whole + below) * factor
        if scaled % 10 ** len(below) == 0:
            return f"{match['front'] or ''}{scaled // 10 ** len(below)} {rest}".strip()
    return rf"{match['front'] or ''}({number}) \cdot {factor} {rest}".strip()


def makes_another_number(words: str, money: str = "") -> bool:
    """Return whether words after a number deny it or calculate with it, such as `or more`, `thirds` and, of $5, `M`."""
    if words.strip() in (("k", "K", "M", "B") if money else ("k",)):
        return True
    runs = re.findall("[a-z]+", words.lower())
    return any(run in _OTHER_NUMBERS or _FRACTION.fullmatch(run) for run in runs) or "root" in runs[:-1]


def is_counted(space: str, name: str, of: str) -> bool:
    """Return whether letters after a number are a unit or what is counted, and not variables as in 2xy."""
    if name in _ORDINALS:
        return True
    if of:
        lower = name.lower()
        is_short = any(one in _USUAL | _SHORT for one in (lower, lower.removesuffix("s")))
        if len(name) > 1 and (len(name) > 3 or "/" in of or (is_short and of.partition("^")[0] in _USUAL)):
            return True
        is_symbol = name in ("Hz", "Pa", "L") or name in _USUAL or (len(name) > 2 and name in _SYMBOLS)
        return space != "" and (is_symbol or _LONG.fullmatch(name) is not None)
    if space == "" or makes_another_number(name):
        return False
    runs = re.findall("[A-Za-z]+", name)
    could_be = [_LONG.fullmatch(run) or run in _SMALL or _single(run) in _USUAL for run in runs]
    return all(could_be) and any(map(_LONG.fullmatch, runs)) and len(runs[-1]) > 1


def unit(text: str, power: str | None) -> str:
    """Return the short name of a unit; "" for words that are no known unit, such as "apples"."""
    name = " ".join(text.replace(".", " " if re.search(r"\.\s*[A-Za-z]{2}", text) else "").split())
    if match := _POWER_OF_NAME.search(name):
        name, power = name[: match.start()], match.group(1)
    above, per, below = re.sub(r"\s*/\s*", "/", name.replace(" per ", "/")).partition("/")
    if per:
        units = unit(above, None), unit(below, power)
        return "/".join(units) if all(units) else ""
    for word, exponent in _SHAPES:
        if name.lower().startswith(word):
            name, power = name[len(word) :], exponent
    name = _single(name)
    return f"{name}^{power}" if name and power and power != "1" else name


def symbol(text: str, power: str | None) -> str:
    """Return letters that look like the symbol of a unit without its spaces; "" for words such as "apples"."""
    runs = re.findall("[A-Za-z]+", text)
    if not runs or text.strip() in _ORDINALS or any(map(_LONG.fullmatch, runs)):
        return ""
    return re.sub(r"[\s.]+", "", text) + (f"^{power}" if power else "")


def _single(name: str) -> str:
    """Return the short name of a unit without a power; "" if it is not known."""
    name = re.sub("[\N{MICRO SIGN}\N{GREEK SMALL LETTER MU}]", "u", name).replace("\N{OHM SIGN}", _SI["ohm"])
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    lower = name.lower() if len(name) > 1 else name
    for one in (lower, lower.removesuffix("s")):
        found = _NAMES.get(one, one if one in _USUAL else _OF_LOWER.get(one, "") if len(one) > 1 else "")
        if found:
            return found
    return ""
