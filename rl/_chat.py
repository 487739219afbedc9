"""Rendering of prompts (texts or chat messages) as the texts that a policy's tokenizer reads."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from rl.prompts.messages import Message, Prompt, joined_texts, media_kinds


def rendered(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[str]:
    """Return the prompts as texts for the tokenizer.

    If the tokenizer has a chat template, a prompt that is a text becomes one user message. If the last message has the
    role assistant, the policy continues that message. Otherwise the template opens a new assistant message.

    Without a chat template, a text stays as it is, and chat messages are refused.

    Raises:
        ValueError: A prompt has parts that are not text, or messages that the template refuses. Or: it has messages,
            and the tokenizer has no chat template. The error names the row of the prompt.
    """
    for row, prompt in enumerate(prompts):
        kinds = media_kinds(prompt)
        if kinds:
            raise ValueError(
                f"prompts has {' and '.join(sorted(kinds))} parts in row {row}, and this policy reads text alone; "
                "leave the row out, or give a vision-language model with its processor"
            )
        if not tokenizer.chat_template and not isinstance(prompt, str):
            raise ValueError(
                f"prompts has chat messages in row {row}, and the policy's tokenizer has no chat template; "
                "give texts, or a policy whose tokenizer has a chat template"
            )
    if not tokenizer.chat_template:
        return [str(prompt) for prompt in prompts]
    messages = ([joined_texts(message) for message in as_messages(prompt)] for prompt in prompts)
    return [applied(tokenizer, found, row, tokenize=False) for row, found in enumerate(messages)]


def as_messages(prompt: Prompt) -> list[Message]:
    """Return a prompt as chat messages: a text becomes one user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def applied(reader: Any, messages: list[Message], row: int, **options: Any) -> str:
    """Return messages as a text, by the chat template of a tokenizer or a processor.

    If the last message has the role assistant, the policy continues that message. Otherwise the template opens a new
    assistant message.

    Args:
        reader: The tokenizer or the processor.
        messages: The messages.
        row: The row of the prompt, for the error.
        **options: Further options of `apply_chat_template`.

    Raises:
        ValueError: The template refuses the messages. The error names the row.
    """
    goes_on = messages[-1]["role"] == "assistant"
    try:
        text = reader.apply_chat_template(
            messages, add_generation_prompt=not goes_on, continue_final_message=goes_on, **options
        )
    except (TemplateError, TypeError, ValueError) as error:
        name = "processor" if isinstance(reader, ProcessorMixin) else "tokenizer"
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"prompts has messages with the roles {roles} in row {row}, which the {name}'s chat template refuses "
            f"({error}); give other roles, or a policy with another chat template"
        ) from None
    return str(text)
