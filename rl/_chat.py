"""Rendering of prompts (texts or chat messages) as the texts that a policy's tokenizer reads."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rl.prompts.messages import Prompt, joined_texts, media_kinds


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
    return [_rendered(tokenizer, prompt, row) for row, prompt in enumerate(prompts)]


def _rendered(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, row: int) -> str:
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    goes_on = messages[-1]["role"] == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            [joined_texts(message) for message in messages],
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"prompts has messages with the roles {roles} in row {row}, which the tokenizer's chat template refuses "
            f"({error}); give other roles, or a policy with another chat template"
        ) from None
    return str(text)
