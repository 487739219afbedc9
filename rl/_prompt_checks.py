"""Checks of prompts: each refuses prompts that the policy cannot complete."""

from collections.abc import Sequence


def check_tokens(rows: Sequence[Sequence[int]]) -> None:
    """Refuse prompts without tokens.

    Raises:
        ValueError: A prompt has no tokens; the message names the row of the first one.
    """
    for row, tokens in enumerate(rows):
        if not tokens:
            raise ValueError(f"prompts has no tokens in row {row}: the tokenizer drops all text; leave the row out")


def check_lengths(lengths: Sequence[int], max_new_tokens: int, limit: int | None, cure: str) -> None:
    """Refuse prompts that leave too few tokens for a completion.

    Args:
        lengths: Tokens per prompt.
        max_new_tokens: Length of the longest completion, in tokens.
        limit: The largest number of tokens in prompt and completion together. None: no limit.
        cure: What the user can do instead of shortening prompts, for the error message.

    Raises:
        ValueError: A prompt is too long; the message names the row of the first one.
    """
    for row, length in enumerate(lengths):
        if limit is not None and length + max_new_tokens > limit:
            raise ValueError(
                f"prompts has {length} tokens in row {row}, which with max_new_tokens={max_new_tokens} exceeds the "
                f"limit of {limit}; give shorter prompts, {cure}"
            )
