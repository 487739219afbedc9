"""Finds the prompts of a log among the rows of a pool, so that a selector can start from the log's results."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsel import _validate
from jaxsel.evaluation.replay import History, make_history
from jaxsel.runtime.prompt_selector import PromptSelector

# A text of the pool inside a longer text is another prompt where letters, digits or operators adjoin it. Templates of
# Llama 3 without special tokens put the next role there.
_GOES_ON_BEFORE = re.compile(r"(?:[^\W_]|[-+*/^=%\\]|\d[.,])\Z")
_GOES_ON_AFTER = re.compile(r"(?!assistant\b)(?:[^\W_]|[-+*/^=%\\]|[.,]\d)")
_SCANS = 32  # how many prompts of a log are looked for inside all texts of the pool, which is slow


class OnPool(NamedTuple):
    """A history whose prompt ids are rows of a pool.

    Attributes:
        history: The visits of the prompts that are in the pool. Its steps are those of the log.
        num_prompts: Number of prompts in the pool.
        unmatched: Prompts of the log that are not in the pool, or whose text or key belongs to several of its rows.
    """

    history: History
    num_prompts: int
    unmatched: list[str]


def on_pool(
    history: History, logged: Sequence[str], prompts: Sequence[Any], *, keys: Sequence[Any] | None = None
) -> OnPool:
    """Return a log's history with the rows of your pool as prompt ids.

    A prompt of the log belongs to the first of these rows that exists:

    * the row with the same key;
    * the row with the same text or messages;
    * the row with the same user message, where a conversation has one, and at most one other message;
    * the row whose text stands inside the log's prompt, for example between the words of a chat template.

    Args:
        history: The history of a log, such as `Imported.history`.
        logged: The prompts of the log, such as `Imported.prompts`.
        prompts: The prompts of the pool: texts or lists of messages.
        keys: The keys of the pool's rows, for logs that name prompts by key. None: no keys.

    Raises:
        ValueError: No prompt of the log is in the pool, `keys` and `prompts` differ in length, or `logged` is too short
            for the history.
    """
    if keys is not None and len(keys) != len(prompts):
        raise ValueError(f"keys has {len(keys)} entries for {len(prompts)} prompts; give one key per prompt")
    _validate.made(History, history=history)
    if history.prompt_ids.max(initial=-1) >= len(logged):
        raise ValueError(f"logged has {len(logged)} entries; give all prompts of the log, one per id of its history")
    pool = _Pool(prompts, keys)
    rows = [pool.find(name) for name in logged]
    if all(row is None for row in rows):
        shown = f"{logged[0]:.60}" if logged else ""
        raise ValueError(
            f"no prompt of the log, such as {shown!r}, is in the pool; give the prompts or keys of its pool"
        )
    found = np.array([-1 if row is None else row for row in rows])[history.prompt_ids]
    known = found >= 0
    kept = make_history(
        history.step[known],
        found[known],
        history.successes[known],
        history.group_size[known],
        num_prompts=len(prompts),
    )
    return OnPool(kept, len(prompts), [name for name, row in zip(logged, rows, strict=True) if row is None])


def warm_start(selector: PromptSelector, history: History) -> None:
    """Let a selector observe a history, one call per step. A step without visits is a call too: it ages older visits.

    Args:
        selector: The selector of the pool.
        history: The history on the same pool, such as `OnPool.history`.

    Raises:
        ValueError: A prompt id is not a row of the pool. The selector stays as it was.
    """
    _validate.made(History, history=history)
    _validate.integers("history.prompt_ids", history.prompt_ids, low=0, high=selector.num_prompts)
    for visits in history.batches():
        selector.observe(*visits)


class _Pool:
    """The rows of a pool by key and by text."""

    def __init__(self, prompts: Sequence[Any], keys: Sequence[Any] | None):
        self._by_key: dict[str, int | None] = {}
        self._by_text: dict[str, int | None] = {}
        for row, key in enumerate(() if keys is None else keys):
            _enter(self._by_key, str(key), row)
        for row, prompt in enumerate(prompts):
            for text in _texts(prompt):
                _enter(self._by_text, text, row)
        self._around: list[tuple[str, str]] = []
        self._scans = 0

    def find(self, name: str) -> int | None:
        """Return the row of a prompt of the log; None if no row or more than one has it."""
        if name in self._by_key:
            return self._by_key[name]
        for text in _texts(_decoded(name)):
            if text in self._by_text:
                return self._by_text[text]
        text = _texts(_decoded(name))[-1]
        for before, after in self._around:
            if len(text) >= len(before + after) and text.startswith(before) and text.endswith(after):
                inside = text[len(before) : len(text) - len(after)]
                if inside in self._by_text:
                    return self._by_text[inside]
        return self._inside(text)

    def _inside(self, text: str) -> int | None:
        """Return the row of the longest text of the pool inside a text, and remember the words around it."""
        if self._scans >= _SCANS:
            return None
        self._scans += 1
        for candidate in sorted((own for own in self._by_text if own and own in text), key=len, reverse=True):
            at = text.find(candidate)
            before, after = text[:at], text[at + len(candidate) :]
            if not (_GOES_ON_BEFORE.search(before) or _GOES_ON_AFTER.match(after)):
                self._around.append((before, after))
                return self._by_text[candidate]
        return None


def _enter(rows: dict[str, int | None], name: str, row: int) -> None:
    """Note the row of a name; None where several rows have this name."""
    rows[name] = row if rows.get(name, row) == row else None


def _decoded(name: str) -> Any:
    """Return the messages of a conversation, which a log's prompt holds as JSON; any other text is itself."""
    if not name.startswith("[{"):
        return name
    try:
        return json.loads(name)
    except ValueError:
        return name


def _texts(prompt: Any) -> list[str]:
    """Return the texts by which a prompt is known, the plainest last."""
    if isinstance(prompt, str):
        return list(dict.fromkeys([_whole([{"role": "user", "content": prompt}]), prompt, prompt.strip()]))
    messages = [dict(message) for message in prompt]
    users = [message.get("content") for message in messages if message.get("role") == "user"]
    last = users[-1] if len(users) == 1 and len(messages) <= 2 else None
    return [_whole(messages), *([last.strip()] if isinstance(last, str) else [])]


def _whole(messages: Sequence[dict[str, Any]]) -> str:
    return json.dumps([(message.get("role"), message.get("content")) for message in messages], ensure_ascii=False)
