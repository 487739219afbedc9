r"""Answers that name a choice by its letter: `B`, `(B)`, `Option B`, and with what it says, `(B) 12` and `B. 12`."""

import re
from collections.abc import Callable

from rl.tasks.math_typography import TEXT, plain

_WORD = r"(?:(?:[Oo]ption|[Cc]hoice)\s+)?"
_LETTER = re.compile(rf"{_WORD}(?:\(([A-H])\)|([A-H])[).]?)")
# An operator after the letter makes an expression of it, such as (A) + 5.
_LETTERED = re.compile(
    rf"{_WORD}(?:\(([A-H])\)|([A-H])[).])\s+"
    r"(?![+*/^_=,<>]|-\s|\\(?:cdot|times|div|cup|cap|in|leq?|geq?|neq?|to|pm|mp)(?![A-Za-z]))(.+)"
)
_TEXT = re.compile(TEXT)
_OTHERS = re.compile(r"\s*(?:and|or)(?![A-Za-z])|.*(?:\([A-H]\)|(?<![A-Za-z])[A-H][).](?:\s|$))", re.DOTALL)


def same_choice(reference: str, said: str, same: Callable[[str, str], bool]) -> bool | None:
    """Return whether two answers agree, of which one names a choice; None if none does, or if one is a bare letter.

    Letters are compared where both have one, and what the choices say where both say something.
    """
    (gold, meant), (own, told) = _choice(reference), _choice(said)
    if gold and own:
        return gold == own and (not meant or not told or same(meant, told))
    if gold and meant:
        return same(meant, said)
    return same(reference, told) if own and told else None


def _choice(text: str) -> tuple[str, str]:
    """Return the letter of a choice and what it says; both may be empty, as they are where several are named."""
    bare = plain(text)
    bare = whole[1].strip() if (whole := _TEXT.fullmatch(bare)) else _TEXT.sub(_unwrapped, bare).strip()
    if match := _LETTER.fullmatch(bare):
        return match[1] or match[2], ""
    match = _LETTERED.fullmatch(bare)
    if match is None or _LETTER.fullmatch(match[3].strip()) or _OTHERS.match(_TEXT.sub(r" \1 ", match[3])):
        return "", ""
    return match[1] or match[2], match[3].strip()


def _unwrapped(match: re.Match[str]) -> str:
    is_letter = re.fullmatch(rf"\s*{_WORD}\(?[A-H][).]*\s*", match[1])
    return f"{match[1]} " if is_letter and match.start() == 0 else match[0]
