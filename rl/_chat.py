"""Prompts as the text that a tokenizer reads: a chat template gets the messages with their roles."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rl.prompts.messages import Prompt, joined_texts, media_kinds


def rendered(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[str]:
    """Return the prompts as texts for the tokenizer.

    A chat template gets every text as one user message. After a last message of role assistant, the policy continues
    this message; otherwise the template opens the policy's own message. A tokenizer without a chat template reads texts
    alone.

    Raises:
        ValueError: A prompt has parts that are not text, or messages that the template refuses. Or: it has messages,
            and the tokenizer has no chat template. The message names the row.
    """
    for row, prompt in enumerate(prompts):
        kinds = media_kinds(prompt)
        if kinds:
            raise ValueError(
                f"prompts has {' and '.join(sorted(kinds))} parts in row {row}, and this policy reads text alone; "
                "leave the row out"
            )
        if not tokenizer.chat_template and not isinstance(prompt, str):
            raise ValueError(
                f"prompts has chat messages in row {row}, and the policy's tokenizer has no chat template, as the "
                "tokenizer of single characters has none; give texts, or a policy whose tokenizer has a chat template"
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
