"""Images, videos and sounds in columns beside the prompt: each becomes a part of one of the prompt's messages."""

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from rl.prompts.messages import Fault, Message, Prompt

COLUMNS = {"image": ("image", "images"), "video": ("video", "videos"), "audio": ("audio", "audios")}
"""The columns of each type of part. A cell holds one item, a list of items, or null."""

_MARK = re.compile("<(image|video|audio)>")


class MediaError(ValueError):
    """A row's items do not fit its prompt; `fault` says why."""

    def __init__(self, fault: Fault):
        super().__init__(fault.what)
        self.fault = fault


def row_media(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the items of a row by type, such as `{"image": [item]}`, without types that have none."""
    found = {kind: [item for name in names for item in _items(row.get(name))] for kind, names in COLUMNS.items()}
    return {kind: items for kind, items in found.items() if items}


def with_media(prompt: Prompt, media: Mapping[str, list[Any]]) -> list[Message]:
    """Return messages that hold the items, each as a part such as `{"type": "image", "image": item}`.

    If the prompt has empty parts such as `{"type": "image"}`, as in TRL, they take the items in order. Otherwise the
    items replace the marks `<image>`, `<video>` and `<audio>` in the texts, as in verl. If there are no marks either,
    the items go in front of the first user message.

    Raises:
        MediaError: The prompt has another number of places than items.
    """
    messages: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    waiting = {kind: iter(items) for kind, items in media.items()}
    if not any(_is_empty(part, media) for part in _all_parts(messages)):
        marked = any(_marks(text, media) for message in messages for text in _texts(message.get("content")))
        messages = _split_at_marks(messages, media) if marked else _with_places_in_front(messages, media)
    messages = [_with_places_filled(message, waiting) for message in messages]
    for kind, rest in waiting.items():
        if list(rest):
            raise _mismatch(kind)
    return messages


def _items(cell: Any) -> list[Any]:
    return [item for item in (cell if isinstance(cell, list) else [cell]) if item is not None]


def _all_parts(messages: list[Message]) -> Iterator[Any]:
    for message in messages:
        if isinstance(message.get("content"), list):
            yield from message["content"]


def _is_empty(part: Any, kinds: Container[str]) -> bool:
    return isinstance(part, dict) and set(part) == {"type"} and part["type"] in kinds


def _marks(text: str, media: Mapping[str, list[Any]]) -> list[str]:
    return [kind for kind in _MARK.findall(text) if kind in media]


def _texts(content: Any) -> list[str]:
    """Return a content that is a text, or the texts of its parts."""
    parts = content if isinstance(content, list) else [{"text": content}]
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _split_at_marks(messages: list[Message], media: Mapping[str, list[Any]]) -> list[Message]:
    return [
        {**message, "content": _split_content(message["content"], media)}
        if any(_marks(text, media) for text in _texts(message.get("content")))
        else message
        for message in messages
    ]


def _split_content(content: Any, media: Mapping[str, list[Any]]) -> list[Any]:
    """Return the content's parts, with a place for an item where a text has a mark."""
    split = []
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        if any(_marks(text, media) for text in _texts([part])):
            pieces = _parts_of(part["text"], media)
            split += [piece if "text" not in piece else {**part, "text": piece["text"]} for piece in pieces]
        else:
            split.append(part)
    return split


def _parts_of(text: str, media: Mapping[str, list[Any]]) -> list[Message]:
    parts = []
    for piece in re.split(f"(<(?:{'|'.join(media)})>)", text):
        kind = piece[1:-1]
        if kind in media and piece == f"<{kind}>":
            parts.append({"type": kind})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _with_places_in_front(messages: list[Message], media: Mapping[str, list[Any]]) -> list[Message]:
    places = [{"type": kind} for kind, items in media.items() for _ in items]
    for i, message in enumerate(messages):
        if message.get("role") == "user":
            content = message.get("content")
            own = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
            return [*messages[:i], {**message, "content": places + own}, *messages[i + 1 :]]
    raise MediaError(Fault(f"has no user message for the row's {' and '.join(media)} items", "add a user message"))


def _with_places_filled(message: Message, waiting: Mapping[str, Iterator[Any]]) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_filled(part, waiting) if _is_empty(part, waiting) else part for part in content]}


def _filled(part: dict[str, Any], waiting: Mapping[str, Iterator[Any]]) -> dict[str, Any]:
    kind = part["type"]
    for item in waiting[kind]:
        return {"type": kind, kind: item}
    raise _mismatch(kind)


def _mismatch(kind: str) -> MediaError:
    what = f"has another number of places for {kind} parts than the row has in {' and '.join(COLUMNS[kind])}"
    return MediaError(Fault(what, f"give one part of type {kind}, or one mark <{kind}>, per item"))
