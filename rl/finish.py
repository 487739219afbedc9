"""Why completions ended, and the penalty for completions that come close to the length limit."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Int8

from rl.rollout import Completions

REASONS = ("failed", "length", "end_of_sequence", "stop")
"""Why a completion ended; a reason's number is its position.

failed: its generation failed. length: the length limit truncated it. end_of_sequence: its last token ends a sequence.
stop: it holds a stop text.
"""
FAILED, LENGTH, END_OF_SEQUENCE, STOP = range(len(REASONS))


def finish_reasons(
    completions: Completions, eos_token_ids: Sequence[int], stop: Sequence[str] = ()
) -> Int8[np.ndarray, " r"]:
    """Return the number in `REASONS` of each completion's reason.

    Args:
        completions: The completions.
        eos_token_ids: The tokens that end a sequence.
        stop: The texts that end a completion.
    """
    last = (completions.mask.sum(1) - 1).clamp_min(0)
    final = completions.tokens.gather(1, last[:, None])[:, 0]
    ended = torch.isin(final, torch.tensor(list(eos_token_ids), dtype=final.dtype, device=final.device))
    ended = (ended & completions.mask.any(1)).cpu().tolist()

    def reason(text: str | None, has_ended: bool) -> int:
        if text is None:
            return FAILED
        if has_ended:
            return END_OF_SEQUENCE
        return STOP if any(end in text for end in stop) else LENGTH

    return np.array([reason(*pair) for pair in zip(completions.texts, ended, strict=True)], np.int8)


def overlong_penalty(
    lengths: Int[torch.Tensor, "..."], max_new_tokens: int, buffer: int, penalty: float
) -> Float[torch.Tensor, "..."]:
    r"""Return DAPO's soft overlong penalty, which is added to rewards (arXiv 2503.14476, equation 13).

    The result is $-c \max(0, (l - (L - B)) / B)$ for a completion of $l$ tokens, with the limit L, the buffer B and the
    penalty c. It is 0 up to L - B tokens, then falls linearly, and is -c at L tokens.

    Args:
        lengths: The lengths of completions, in tokens, end of sequence included.
        max_new_tokens: The longest completion that can be generated.
        buffer: The number of tokens below the limit in which the penalty rises. 0: no penalty.
        penalty: The penalty of a completion of `max_new_tokens` tokens.
    """
    if not buffer:
        return torch.zeros(lengths.shape, device=lengths.device)
    excess = (lengths - (max_new_tokens - buffer)).clamp_min(0).to(torch.float32)
    return -penalty * excess / buffer


def check_overlong(buffer: int, max_new_tokens: int) -> None:
    """Refuse a buffer for the overlong penalty that is longer than the longest completion.

    Raises:
        ValueError: `buffer` exceeds `max_new_tokens`.
    """
    if buffer > max_new_tokens:
        cure = f"give at most {max_new_tokens}, the longest completion of the task"
        raise ValueError(f"overlong_buffer is {buffer}; {cure}")
