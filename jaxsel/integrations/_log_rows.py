"""Finds the rows of a pool that the prompts of a log name: by key, by text, or by a text inside the log's prompt.

A text that stands inside the log's prompt may be an example of the template, or the first part of a longer problem. The
words around it tell: those of the template surround many prompts, and those of a longer problem only one.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsel.integrations._log_counts import name_of
from jaxsel.integrations._log_search import TextSearch, find_in_order

_MESSAGES = 2  # a conversation of more messages is known by all of them, not by its user message alone
_TEMPLATES = 32  # the most frequent templates, which are tried on every prompt that has a template of its own
_SAME = 32  # conversations with the same most special text; more would be slow to tell apart


class _Inside(NamedTuple):
    """A row of the pool whose texts stand inside a prompt of the log; the row is None where several rows have them."""

    row: int | None
    start: int
    end: int


class PoolRows:
    """The rows of a pool by key and by text.

    Args:
        prompts: The prompts of the pool: texts or lists of messages.
        keys: The keys of the rows. None: no keys.
    """

    def __init__(self, prompts: Sequence[Any], keys: Sequence[Any] | None):
        self._by_key: dict[str, int | None] = {}
        self._by_text: dict[str, int | None] = {}
        self._single: dict[str, int | None] = {}
        for row, key in enumerate(() if keys is None else keys):
            _enter(self._by_key, str(key), row)
        several: list[tuple[int, list[str]]] = []
        for row, prompt in enumerate(prompts):
            for name in _names(prompt):
                _enter(self._by_text, name, row)
            pieces = _pieces(prompt)
            if len(pieces) == 1:
                _enter(self._single, pieces[0], row)
            elif pieces:
                several.append((row, pieces))
        self._several = _by_most_special(several)
        self._search = TextSearch([*self._single, *self._several])

    def find(self, logged: Sequence[str]) -> list[int | None]:
        """Return the row of every prompt of a log; None if no row has it, or more than one."""
        rows: list[int | None] = [None] * len(logged)
        open_prompts: list[tuple[int, str, list[_Inside]]] = []
        templates = _Templates()
        for at, name in enumerate(logged):
            key = name if name in self._by_key else _integer(name)
            if key in self._by_key:
                rows[at] = self._by_key[key]
                continue
            prompt = _decoded(name)
            known = next((one for one in (name, *_names(prompt)) if one in self._by_text), None)
            if known is not None:
                rows[at] = self._by_text[known]
                templates.add("", 0, 0)
                continue
            text = _searched(prompt)
            found = self._inside(text)
            for one in found:
                templates.add(text, one.start, one.end)
            open_prompts.append((at, text, found))
        frequent = templates.frequent()
        for at, text, found in open_prompts:
            rows[at] = self._chosen(text, found, templates, frequent)
        return rows

    def _inside(self, text: str) -> list[_Inside]:
        """Return the rows whose texts stand inside a text, without those inside the text of another row."""
        found = []
        for start, end in self._search.places(text):
            piece = text[start:end]
            if piece in self._single:
                found.append(_Inside(self._single[piece], start, end))
            for row, pieces in self._several.get(piece, ()):
                place = find_in_order(text, pieces)
                if place is not None:
                    found.append(_Inside(row, *place))
        kept: list[_Inside] = []
        for one in sorted(set(found), key=lambda one: (one.start, -one.end)):
            inside = kept and one.end <= kept[-1].end and one[1:] != kept[-1][1:]
            if not inside:
                kept.append(one)
        return kept

    def _chosen(
        self, text: str, found: list[_Inside], templates: "_Templates", frequent: list[tuple[str, str]]
    ) -> int | None:
        """Return the row whose template occurs most; None where the text is a part of another template's prompt."""
        counts = [templates.count(text, one.start, one.end) for one in found]
        most = max(counts, default=0)
        if most < 2:
            whole = [
                text[len(before) : len(text) - len(after)].strip()
                for before, after in frequent
                if len(text) >= len(before + after) and text.startswith(before) and text.endswith(after)
            ]
            if whole:
                return next((self._by_text[one] for one in whole if one in self._by_text), None)
        rows = {one.row for one, count in zip(found, counts, strict=True) if count == most}
        return rows.pop() if len(rows) == 1 else None


class _Templates:
    """Counts how many prompts the same words surround. Memory holds a number per template, not its words."""

    def __init__(self):
        self._counts: Counter[int] = Counter()
        self._first: dict[int, tuple[str, int, int]] = {}

    def add(self, text: str, start: int, end: int) -> None:
        key = hash((text[:start], text[end:]))
        self._counts[key] += 1
        self._first.setdefault(key, (text, start, end))

    def count(self, text: str, start: int, end: int) -> int:
        return self._counts[hash((text[:start], text[end:]))]

    def frequent(self) -> list[tuple[str, str]]:
        """Return the words before and after the prompts of the templates that occur twice or more, longest first."""
        often = [self._first[key] for key, count in self._counts.most_common(_TEMPLATES) if count > 1]
        templates = [(text[:start], text[end:]) for text, start, end in often]
        return sorted(templates, key=lambda template: -len("".join(template)))


def _enter(rows: dict[str, int | None], name: str, row: int) -> None:
    """Note the row of a name; None where several rows have this name."""
    rows[name] = row if rows.get(name, row) == row else None


def _decoded(name: str) -> Any:
    """Return the messages of a conversation, which a log's prompt holds as JSON; any other text is itself."""
    if not name.startswith("[{"):
        return name
    try:
        found = json.loads(name)
    except (ValueError, RecursionError):
        return name
    return found if all(isinstance(message, dict) for message in found) else name


def _names(prompt: Any) -> list[str]:
    """Return the texts by which a prompt is known as a whole, the plainest last."""
    if isinstance(prompt, str):
        return list(dict.fromkeys([_whole([{"role": "user", "content": prompt}]), prompt, prompt.strip()]))
    messages = [dict(message) for message in prompt]
    users = _users(messages)
    plain = "".join(_texts(users[0])).strip() if len(users) == 1 and len(messages) <= _MESSAGES else ""
    return [name_of(messages) or "", _whole(messages), *([plain] if plain else [])]


def _pieces(prompt: Any) -> list[str]:
    """Return the texts of a prompt that must stand inside a prompt of the log, one after the other."""
    if isinstance(prompt, str):
        texts = [prompt]
    else:
        messages = [dict(message) for message in prompt]
        users = _users(messages)
        known = users if len(users) == 1 and len(messages) <= _MESSAGES else messages
        texts = [text for message in known for text in _texts(message)]
    return [text.strip() for text in texts if text.strip()]


def _searched(prompt: Any) -> str:
    """Return the text of a log's prompt that may hold the text of a row: of a conversation, its only user message."""
    if isinstance(prompt, str):
        return prompt
    users = _users(prompt)
    return "\n".join(_texts(users[0])) if len(users) == 1 else ""


def _users(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message.get("role") == "user"]


def _texts(message: dict[str, Any]) -> list[str]:
    """Return the texts of a message, whose content is a text or a list of parts."""
    content = message.get("content")
    parts = content if isinstance(content, list | tuple | np.ndarray) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]


def _whole(messages: Sequence[dict[str, Any]]) -> str:
    """Return all texts with their roles, whether a content is a text or a list of parts."""
    return json.dumps([(message.get("role"), *_texts(message)) for message in messages], ensure_ascii=False)


def _by_most_special(several: list[tuple[int, list[str]]]) -> dict[str, list[tuple[int, list[str]]]]:
    """Return rows of several texts by the text that fewest rows have, the longest of these."""
    counts = Counter(piece for _, pieces in several for piece in set(pieces))
    found: dict[str, list[tuple[int, list[str]]]] = {}
    for row, pieces in several:
        special = min(pieces, key=lambda piece: (counts[piece], -len(piece)))
        found.setdefault(special, []).append((row, pieces))
    return {special: rows for special, rows in found.items() if len(rows) <= _SAME}


def _integer(name: str) -> str:
    """Return the name without ".0": a column of integers that lacks one is a column of floats in pandas."""
    return name[:-2] if re.fullmatch(r"-?\d+\.0", name) else name
