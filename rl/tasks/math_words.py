"""Answers in words: short words such as `no` and `on`, which a parser of mathematics reads as products of variables.

Letters are a word if they are four or more, or three with a capital, such as Mon. Of the other answers of two or three
letters only those in a list are words: `cat` is, `ab` and `xyz` are products. Words of two letters without an o, such
as `at`, `is` and `ma`, are no words here, except pi, because they are products of usual variables. So is `cab`.
"""

import re

_WORDS = """
do go no of on or pi so to
act add age ago aid aim air all and ant any ape apt arc are arm art ash ask ate bag ban bar bat bay bet bib bid big
bin bit boa bog bow box boy bud bug bun bus but buy can cap car cat cob cod cop cot cow cry cub cup cut day den dew
did die dig dim din dip dog don dot dry due dug ear eat egg ego elf elk elm emu end era eve ewe eye fan far
fat few fig fin fir fit fix fly fog for fox fun fur gap gas gel gem get gin god got gum gun gut guy had ham has hat
hay hen her hey hid him hip his hit hog hop hot how hub hug hut ice ill ink inn ion its ivy jam jar jaw jet job jog
joy jug key kid kin kit lab lag lap law lay led leg let lid lie lip lit lot low mad man map mat may men met mid mix
mob mom mop mud mug nap net new nil nod nor not now nun nut oak oar oat odd off oil old one opt orb ore our out owe
owl own pad pal pan par pat paw pay pea pen pet pie pig pin pit ply pod pop pot pro pub pun pup put ram ran rat raw
ray red rib rid rim rip rob rod rot row rub rug run rut sad sap sat saw say sea see set sew she shy sir sit six ski
sky sly sob son sow soy spa spy sub sum sun tab tag tap tar tax tea ten the tie tin tip toe ton too top tow toy try
tub tug two use van vat vet via vow war was wax way web wed wet who why wig win wit woe won yak yam yes yet you zip
zoo mon tue thu fri jan feb mar apr jun jul aug sep oct nov dec
"""
_NAMES = "sin cos tan cot sec csc log exp max min lim gcd lcm mod arcsin arccos arctan sinh cosh tanh sqrt"
_SHORT, _FUNCTIONS = frozenset(_WORDS.split()), frozenset(_NAMES.split())
_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mbox)\s*\{([A-Za-z ]+)\}")
_ITEM = re.compile(rf"[A-Za-z]+(?: [A-Za-z]+)*|-?\d+(?:\.\d+)?|{_TEXT.pattern}")
_BETWEEN = r"\s*,\s*(?:and |or )?|\s+(?:and|or)\s+|\s*=\s*"
_BRACKETS = re.compile(r"(\(|\[|\\\{)?\s*(.*?)\s*(\)|\]|\\\})?")


def with_words(*answers: str) -> tuple[str, ...]:
    r"""Return answers with their words inside `\text{...}`, where a parser keeps the order of letters.

    Only answers that all consist of letters and plain numbers are changed: words, and lists and equations of words.
    """
    found = tuple(map(_marked, answers))
    return answers if None in found else tuple(one for one in found if one is not None)


def _marked(answer: str) -> str | None:
    """Return an answer with its words marked; None if it has more than letters and plain numbers."""
    match = _BRACKETS.fullmatch(" ".join(answer.split()))
    if match is None:
        return None
    opening, inside, closing = match[1] or "", match[2], match[3] or ""
    items = re.split(f"({_BETWEEN})", inside)
    if not all(_ITEM.fullmatch(item) for item in items[::2]):
        return None
    if not any(map(_is_phrase, items[::2])):
        return answer
    items[::2] = [_symbol(item) if _is_phrase(item) else item for item in items[::2]]
    items[1::2] = ["=" if "=" in item else ", " for item in items[1::2]]
    return opening + "".join(items) + closing


def _symbol(item: str) -> str:
    letters = _TEXT.sub(r"\1", item).lower().replace(" ", "")
    return rf"\text{{{letters}}}"


def _is_phrase(item: str) -> bool:
    """Return whether an item is a word, or letters among which there is a word but no name of a function."""
    if _TEXT.fullmatch(item):
        return True
    alone = " " not in item
    runs = item.split()
    return any(map(_is_word, runs)) and (alone or not any(run.lower() in _FUNCTIONS for run in runs))


def _is_word(letters: str) -> bool:
    is_long = re.fullmatch("[A-Za-z]{4,}|[A-Za-z]*[A-Z][A-Za-z]{2,}", letters) is not None
    return is_long or letters.lower() in _SHORT | _FUNCTIONS
