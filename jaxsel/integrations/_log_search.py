"""Finds the texts of a pool inside longer texts, such as prompts between the words of a chat template.

The texts are sorted. The texts that begin at one place of a longer text are prefixes of it, so a binary search finds
the longest one. Every text knows the longest text that is a prefix of it. A search therefore takes the same time
whether it succeeds or fails, and memory grows with the number of texts alone.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# A text inside a longer text is another prompt where letters, digits or operators adjoin it. Templates of Llama 3
# without special tokens put the next role there.
_MAY_BEGIN = re.compile(r"(?<![^\W_])\S")
_GOES_ON_AFTER = re.compile(r"(?!assistant\b)(?:[^\W_]|[-+*/^=%\\]|[.,]\d)")
_GOES_ON_BEFORE = re.compile(r"(?:[^\W_]|[-+*/^=%\\]|\d[.,])\Z")
_NUMBER_AFTER = re.compile(r"[\d)] ?[-+*/^=%\\] ?[\d(]")  # an operator between spaces continues a term
_NUMBER_BEFORE = re.compile(r"[\d)] ?[-+*/^=%\\] [\d(]\Z")
_HEADS = (1, 4, 16)  # lengths of the beginnings that are compared first, because nearly all places fail there


class Place(NamedTuple):
    """A text of the pool inside a longer text, from `start` up to `end` without it."""

    start: int
    end: int


class TextSearch:
    """The texts that are looked for.

    Args:
        texts: The texts, without spaces at either end. Empty texts are ignored.
    """

    def __init__(self, texts: Iterable[str]):
        self._texts = sorted(set(texts) - {""})
        self._prefix = _longest_prefixes(self._texts)
        self._longest = max(map(len, self._texts), default=0)
        self._heads: dict[int, set[str]] = {}
        for text in self._texts:
            size = max(size for size in _HEADS if size <= len(text))
            self._heads.setdefault(size, set()).add(text[:size])

    def places(self, text: str) -> list[Place]:
        """Return where texts begin in a longer text: the longest at each place, if it is no part of a word or term."""
        starts = [match.start() for match in _MAY_BEGIN.finditer(text)]
        heads = self._heads.items()
        likely = sorted(start for size, known in heads for start in starts if text[start : start + size] in known)
        ends = [self._end(text, start) for start in likely]
        return [Place(start, end) for start, end in zip(likely, ends, strict=True) if end is not None]

    def _end(self, text: str, start: int) -> int | None:
        at = bisect_right(self._texts, text[start : start + self._longest]) - 1
        while at >= 0:
            end = start + len(self._texts[at])
            if text.startswith(self._texts[at], start) and is_whole(text, start, end):
                return end
            at = self._prefix[at]
        return None


def is_whole(text: str, start: int, end: int) -> bool:
    """Return whether `text[start:end]` is no part of a longer word or term of the text."""
    return not (
        _GOES_ON_AFTER.match(text, end)
        or _GOES_ON_BEFORE.search(text[max(start - 2, 0) : start])
        or _NUMBER_AFTER.match(text, end - 1)
        or _NUMBER_BEFORE.search(text[max(start - 4, 0) : start + 1])
    )


def find_in_order(text: str, pieces: Sequence[str]) -> Place | None:
    """Return the place from the first to the last of several texts that stand one after the other in a longer text."""
    begin, end = -1, 0
    for piece in pieces:
        start = text.find(piece, end)
        while start >= 0 and not is_whole(text, start, start + len(piece)):
            start = text.find(piece, start + 1)
        if start < 0:
            return None
        begin, end = (start if begin < 0 else begin), start + len(piece)
    return Place(begin, end)


def _longest_prefixes(texts: Sequence[str]) -> list[int]:
    """Return for every text of a sorted list the index of the longest other one that it begins with; -1 if none."""
    found: list[int] = []
    open_texts: list[int] = []
    for at, text in enumerate(texts):
        while open_texts and not text.startswith(texts[open_texts[-1]]):
            open_texts.pop()
        found.append(open_texts[-1] if open_texts else -1)
        open_texts.append(at)
    return found
