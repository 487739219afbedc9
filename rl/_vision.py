"""Prompts as the processor of a vision-language model reads them: texts and images."""

from typing import Any, NamedTuple

import torch

from rl._chat import applied, as_messages
from rl.media import prompt_media
from rl.prompts.images import ImageError, decoded, is_image
from rl.prompts.messages import Message, Prompt, media_kinds


class Rendered(NamedTuple):
    """A prompt for a processor.

    Attributes:
        text: The text of the prompt with one mark per image.
        images: The images, as Pillow's.
        add_special_tokens: Whether the tokenizer adds its special tokens to the text.
    """

    text: str
    images: list[Any]
    add_special_tokens: bool


def read_prompt(processor: Any, prompt: Prompt, row: int) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Return the tokens of a prompt, with as many tokens per image as the model reads, and its media.

    Raises:
        ValueError: The processor or its chat template refuses the prompt, or an image cannot be decoded. The message
            names the row.
    """
    text, images, special = rendered(processor, prompt, row)
    try:
        found = processor(
            text=[text], images=[images] if images else None, add_special_tokens=special, return_tensors="pt"
        )
    except (ValueError, StopIteration) as error:  # Transformers up to 5.19 counts no marks
        raise ValueError(
            f"prompts has {len(images)} images in row {row}, and the policy's processor refuses the prompt ({error}); "
            "remove marks of images from its texts, or leave the row out"
        ) from error
    return found["input_ids"][0].tolist(), prompt_media(found) if images else {}


def unread_prompt(processor: Any, prompt: Prompt, row: int) -> tuple[list[int], list[Any]]:
    """Return the tokens of a prompt with one token per image, and its images.

    Raises:
        ValueError: `rendered` refuses the prompt.
    """
    text, images, special = rendered(processor, prompt, row)
    return processor.tokenizer(text, add_special_tokens=special)["input_ids"], images


def rendered(processor: Any, prompt: Prompt, row: int) -> Rendered:
    """Return a prompt as the processor's chat template renders it, and its images.

    A prompt that is a text becomes one user message. If the last message has the role assistant, the policy continues
    it. Without a chat template, a text stays as it is.

    Raises:
        ValueError: The prompt has videos or sounds, an image cannot be decoded, the chat template refuses the messages,
            or there is none for chat messages. The message names the row.
    """
    odd = sorted(media_kinds(prompt) - {"image"})
    if odd:
        cure = "leave the row out"
        raise ValueError(
            f"prompts has {' and '.join(odd)} parts in row {row}, and this policy reads texts and images; {cure}"
        )
    template = processor.chat_template or processor.tokenizer.chat_template
    if not template and isinstance(prompt, str):
        return Rendered(prompt, [], True)
    if not template:
        raise ValueError(
            f"prompts has chat messages in row {row}, and the policy's processor has no chat template; "
            "give texts, or a policy whose processor has a chat template"
        )
    images: list[Any] = []
    messages = [_message(message, images, row) for message in as_messages(prompt)]
    text = applied(processor, messages, row, chat_template=template)
    begin = processor.tokenizer.bos_token
    return Rendered(text, images, begin is None or not text.startswith(begin))


def _message(message: Message, images: list[Any], row: int) -> Message:
    """Return a message with a list of parts, whose images are added to the list.

    The chat templates of many families ignore or spoil a content that is a text.
    """
    content = message.get("content")
    if content is None:
        return message
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": [_part(part, images, row) for part in parts]}


def _part(part: Message, images: list[Any], row: int) -> Message:
    if not is_image(part):
        return {"type": "text", "text": part["text"]}
    try:
        images.append(decoded(part))
    except ImageError as error:
        raise ValueError(f"prompts has an image that {error} in row {row}; mend it, or leave the row out") from None
    return {"type": "image"}
