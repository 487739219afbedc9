"""What no model can read as a prompt."""

from collections.abc import Sequence
from typing import Any


def check_text(texts: Sequence[Any], name: str) -> None:
    """Refuse prompts that are no text, empty, or not valid Unicode.

    Args:
        texts: the prompts.
        name: what the message calls them.

    Raises:
        ValueError: the first such prompt, by its row.
    """
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name} has {type(text).__name__} in row {row}; give text")
        if not text:
            raise ValueError(f"{name} has an empty text in row {row}; leave the row out")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name} has the lone surrogate {text[error.start]!r} in row {row}, which is no character; replace it, "
                "for example by text.encode('utf-8', 'replace').decode()"
            ) from None


def check_tokens(rows: Sequence[Sequence[int]]) -> None:
    """Refuse prompts without tokens.

    Raises:
        ValueError: the first such prompt, by its row.
    """
    for row, tokens in enumerate(rows):
        if not tokens:
            raise ValueError(f"prompts has no tokens in row {row}: the tokenizer drops its whole text; leave it out")


def check_lengths(lengths: Sequence[int], max_new_tokens: int, limit: int | None, cure: str) -> None:
    """Refuse prompts that leave too few tokens for a completion.

    Args:
        lengths: tokens per prompt.
        max_new_tokens: longest completion.
        limit: longest prompt and completion together; None: no limit.
        cure: what else helps, for the message.

    Raises:
        ValueError: the first prompt that is too long, by its row.
    """
    for row, length in enumerate(lengths):
        if limit is not None and length + max_new_tokens > limit:
            raise ValueError(
                f"prompts has one of {length} tokens in row {row}, which with max_new_tokens {max_new_tokens} is more "
                f"than the limit of {limit}; give shorter prompts, {cure}"
            )
