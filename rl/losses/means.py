"""Means over the tokens of a batch. With the divisors of the whole batch, the results of its parts add up."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float

from rl.loss_options import AGGREGATIONS


class Mean(NamedTuple):
    """A weighted sum over tokens, divided by a constant.

    Attributes:
        weight: The weight of each token, 0 outside the mask.
        total: The divisor.
    """

    weight: Bool[torch.Tensor, "r t"] | Float[torch.Tensor, "r t"]
    total: int

    def __call__(self, per_token: Float[torch.Tensor, "r t"] | Bool[torch.Tensor, "r t"]) -> Float[torch.Tensor, ""]:
        """Return the mean of a number per token."""
        return (per_token * self.weight).sum() / self.total


def means(
    mask: Bool[torch.Tensor, "r t"],
    aggregation: str,
    *,
    num_tokens: int | None = None,
    num_completions: int | None = None,
    max_new_tokens: int | None = None,
) -> tuple[Mean, Mean]:
    """Return two functions: the mean for the loss, and the mean for its metrics.

    * token_mean: The sum over tokens, divided by their number.
    * sequence_mean: The mean over the tokens of each completion, then the mean over completions.
    * constant_length: The sum over tokens, divided by the number of completions times `max_new_tokens` (Dr. GRPO, arXiv
      2503.20783). The metrics use the token mean, because they are shares of tokens and KL divergences per token.

    Args:
        mask: The tokens that count.
        aggregation: One of `AGGREGATIONS`.
        num_tokens: The number of tokens of the whole batch. None: the number of tokens in the mask.
        num_completions: The number of completions of the whole batch. None: the number of rows with a token in the
            mask.
        max_new_tokens: The longest completion that could be generated, for constant_length.

    Raises:
        ValueError: `aggregation` is unknown, or constant_length has no `max_new_tokens` of at least 1.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation is {aggregation!r}; give one of {', '.join(AGGREGATIONS)}")
    if aggregation == "constant_length" and not (max_new_tokens and max_new_tokens >= 1):
        raise ValueError(f"max_new_tokens is {max_new_tokens} with constant_length; give an integer of at least 1")
    length = mask.sum(1, keepdim=True)
    completions = max(int((length > 0).sum()) if num_completions is None else num_completions, 1)
    if aggregation == "sequence_mean":
        mean = Mean(mask / length.clamp_min(1), completions)
        return mean, mean
    over_tokens = Mean(mask, max(int(mask.sum()) if num_tokens is None else num_tokens, 1))
    if aggregation == "token_mean":
        return over_tokens, over_tokens
    return Mean(mask, completions * int(max_new_tokens or 1)), over_tokens
