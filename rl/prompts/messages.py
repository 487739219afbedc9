"""Prompts as text or as chat messages: their checks, their one form, and their rendering as plain text."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Message = dict[str, Any]
Prompt = str | list[Message]
"""A text, or chat messages with `role` and `content`. The content is a text, or a list of parts such as
`{"type": "text", "text": "..."}` and `{"type": "image", "image": ...}`."""


class Fault(NamedTuple):
    """What is wrong with a prompt, and the cure, as the middle and the end of an error message."""

    what: str
    cure: str


def fault(prompt: Any) -> Fault | None:
    """Return what makes a prompt unreadable for every model, or None."""
    if isinstance(prompt, str):
        return fault_of_text(prompt) if prompt.strip() else Fault("has an empty text", "leave the row out")
    if not isinstance(prompt, list):
        return Fault(f"has a value of type {type(prompt).__name__}", "give text or chat messages")
    if not prompt:
        return Fault("has no messages", "leave the row out")
    found = next((odd for odd in map(_fault_of_message, prompt) if odd), None)
    if found is None and not any(text.strip() for text in _texts(prompt)) and not media_kinds(prompt):
        return Fault("has an empty text", "leave the row out")
    return found


def fault_of_text(text: str) -> Fault | None:
    """Return the fault of a text that UTF-8 cannot hold, or None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        cure = "it is no character: replace it, for example by text.encode('utf-8', 'replace').decode()"
        return Fault(f"has the lone surrogate {text[error.start]!r}", cure)
    return None


def fault_of_texts_in(value: Any) -> Fault | None:
    """Return the first fault of a text in a value of lists and records, names of fields included; None without one."""
    if isinstance(value, str):
        return fault_of_text(value)
    inside = (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((odd for odd in map(fault_of_texts_in, inside) if odd), None)


def check_prompts(prompts: Sequence[Any], name: str) -> None:
    """Refuse prompts that are neither text nor chat messages, that are empty, or that are not valid Unicode.

    Args:
        prompts: The prompts.
        name: Name of the prompts in the error message.

    Raises:
        ValueError: A prompt is refused; the message names the row of the first one.
    """
    check_each(prompts, fault, name)


def check_each(values: Sequence[Any], fault_of: Callable[[Any], Fault | None], name: str) -> None:
    """Raise a ValueError about the first value with a fault, which names its row."""
    for row, value in enumerate(values):
        odd = fault_of(value)
        if odd is not None:
            raise ValueError(f"{name} {odd.what} in row {row}; {odd.cure}")


def normalised(value: Any) -> Any:
    """Return a prompt in the one form that a pool holds; its roles, texts and parts stay as they are.

    A null field of a message, of a part or inside of a tool call is left out: Arrow writes null where another row has
    the field, and chat templates take a present field for a used one. A JSON text of messages becomes these messages.
    One user message with nothing but a text, or with one part that is a text, becomes that text, because a chat
    template gets every text as one user message.
    """
    value = _messages_in(value) if isinstance(value, str) else value
    if not isinstance(value, list):
        return value
    messages = [_without_nulls(message) for message in value]
    if len(messages) == 1 and isinstance(messages[0], dict):
        only = messages[0]
        if set(only) == {"role", "content"} and only["role"] == "user":
            text = _text_of(only["content"])
            return messages if text is None else text
    return messages


def _messages_in(text: str) -> Any:
    """Return the messages that a JSON text holds, as a CSV file has them; any other text is itself a prompt."""
    if not text.lstrip().startswith("[{"):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    are_messages = all(isinstance(one, dict) and isinstance(one.get("role"), str) and "content" in one for one in found)
    return found if are_messages else text


def _text_of(content: Any) -> str | None:
    """Return a text, or the text of a list of one part that holds nothing else; None for all other contents."""
    if isinstance(content, list) and len(content) == 1:
        (part,) = content
        is_text = isinstance(part, dict) and set(part) == {"type", "text"} and part["type"] in ("text", "input_text")
        content = part["text"] if is_text else None
    return content if isinstance(content, str) else None


def plain_text(prompt: Prompt) -> str:
    """Return a prompt as one text for embeddings and logs: a text unchanged, messages with their roles in front."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(map(_message_as_text, prompt))


def media_kinds(prompt: Prompt) -> set[str]:
    """Return the types of the parts that are not text, such as `{"image"}`."""
    if isinstance(prompt, str):
        return set()
    kinds = map(_kind, _parts(prompt))
    return {kind for kind in kinds if kind is not None and kind != "text"}


def joined_texts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message whose list of text parts is one text, with a newline between two parts."""
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    return {**message, "content": "\n".join(part["text"] for part in content)}


def _fault_of_message(message: Any) -> Fault | None:
    if not isinstance(message, dict):
        return Fault(f"has a message that is {type(message).__name__}", "give a record with role and content")
    if not isinstance(message.get("role"), str) or not message["role"]:
        return Fault(f"has a message without role, but with {sorted(message)}", "name its fields role and content")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return fault_of_texts_in(message)
    if not isinstance(content, str | list):
        return Fault(f"has a message of role {message['role']} whose content is not text", "give text, or parts")
    if isinstance(content, list):
        odd = next((part for part in content if _kind(part) is None), None)
        if odd is not None:
            return Fault(f"has the content part {odd!r:.60}", "give a record with its type, and a text for type text")
    return fault_of_texts_in(message)


def _kind(part: Any) -> str | None:
    """Return the type of a part, or None if it is no part; "image_url" and "input_image" are images."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return None
    if part["type"] in ("text", "input_text"):
        return "text" if isinstance(part.get("text"), str) else None
    return part["type"].removeprefix("input_").removesuffix("_url")


def _parts(messages: Sequence[Message]) -> Iterator[Any]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from content


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (part["text"] for part in content if _kind(part) == "text")


def _message_as_text(message: Message) -> str:
    others = {name: value for name, value in message.items() if name not in ("role", "content")}
    calls = f" {json.dumps(others, default=repr)}" if others else ""
    return f"{message['role']}: {_content_as_text(message.get('content'))}{calls}"


def _content_as_text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] if _kind(part) == "text" else f"[{_kind(part)}]" for part in content)
    return content or ""


def _without_nulls(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    kept = _without_null_fields(message)
    if "tool_calls" in kept:
        kept["tool_calls"] = _without_nested_nulls(kept["tool_calls"])
    if "content" in message and "content" not in kept and "tool_calls" in kept:
        kept["content"] = None
    content = kept.get("content")
    return kept | {"content": [_without_null_fields(part) for part in content]} if isinstance(content, list) else kept


def _without_nested_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nested_nulls(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_nested_nulls(one) for name, one in value.items() if one is not None}


def _without_null_fields(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if value is not None}
