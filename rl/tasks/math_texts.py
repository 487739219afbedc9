"""Answers that are texts, though they have digits: dates and numerals such as 0xFF. Nothing is calculated in them."""

import re

from rl.tasks.math_typography import TEXT, plain

_MONTH = (
    "(?:january|february|march|april|may|june|july|august|september|october|november|december"
    "|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec)"
)
_DAY = "[0-3]?[0-9](?:st|nd|rd|th)?"
_AS_TEXT = re.compile(
    r"\d{4}([-/.])[01]?\d\1[0-3]?\d|[0-3]?\d([-/.])[0-3]?\d\2\d{4}|0(?:x[0-9a-f]+|o[0-7]+|b[01]+)"
    rf"|{_DAY} (?:of )?{_MONTH}\b\.?,?(?: \d+)?|{_MONTH}\b\.? {_DAY}(?:,? \d+)?|{_MONTH}\b\.?,? \d{{4}}",
    re.I,
)


def as_texts(reference: str, said: str) -> bool | None:
    """Return whether two answers are the same text, apart from spaces and case; None if neither is a date or so."""
    texts = [re.sub(TEXT, r" \1 ", plain(one)) for one in (reference, said)]
    if not any(_AS_TEXT.fullmatch(" ".join(one.split())) for one in texts):
        return None
    left, right = ("".join(one.lower().split()) for one in texts)
    return left == right
