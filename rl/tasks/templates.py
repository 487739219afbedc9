"""Templates around the prompts of a data set."""

from rl.prompts import Prompt
from rl.prompts.messages import Message

PLACEHOLDER = "{prompt}"


def check_template(template: str) -> None:
    """Refuse a template without a place for the prompt.

    Raises:
        ValueError: The template is not empty and has no placeholder.
    """
    if template and PLACEHOLDER not in template:
        raise ValueError(f"template is {template!r}; write {PLACEHOLDER} where the prompt belongs")


def filled(template: str, prompt: Prompt) -> Prompt:
    """Return the prompt inside the template; of chat messages, the last one of role user is put inside.

    If this message has parts, such as texts and images, the words of the template are put before and after them.

    Raises:
        ValueError: The last message of role user has no text and no parts, or there is none. Or: it has parts, and the
            template has several placeholders.
    """
    if not template:
        return prompt
    if isinstance(prompt, str):
        return template.replace(PLACEHOLDER, prompt)
    last = max((at for at, message in enumerate(prompt) if message["role"] == "user"), default=-1)
    if last < 0 or not isinstance(prompt[last]["content"], str | list):
        raise ValueError(
            f"template is {template!r}, and the last message of role user of a prompt is missing or has no text; "
            "give template=''"
        )
    content = prompt[last]["content"]
    content = _around(template, content) if isinstance(content, list) else template.replace(PLACEHOLDER, content)
    return [*prompt[:last], {**prompt[last], "content": content}, *prompt[last + 1 :]]


def _around(template: str, parts: list[Message]) -> list[Message]:
    before, *rest = template.split(PLACEHOLDER)
    if len(rest) != 1:
        raise ValueError(f"template is {template!r} for prompts with images; write {PLACEHOLDER} once")
    return _joined([{"type": "text", "text": before}, *parts, {"type": "text", "text": rest[0]}])


def _joined(parts: list[Message]) -> list[Message]:
    """Return the parts without the empty words at both ends; words next to a text become part of it."""
    before, *inside, after = parts
    if inside and inside[0].get("type") == "text":
        before, inside = {**inside[0], "text": before["text"] + inside[0]["text"]}, inside[1:]
    if not inside:
        return [{**before, "text": before["text"] + after["text"]}]
    if inside[-1].get("type") == "text":
        after, inside = {**inside[-1], "text": inside[-1]["text"] + after["text"]}, inside[:-1]
    return [part for part in (before, *inside, after) if part.get("text") != ""]
