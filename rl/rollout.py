"""What an engine that completes prompts promises."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch


class Completions(NamedTuple):
    """Completions of `b` prompts, `n` each; row `i * n + j` is completion `j` of prompt `i`.

    Attributes:
        prompt_tokens: int64 `[b, p]`, left-padded.
        prompt_mask: int64 `[b, p]`, 1 for a token and 0 for padding.
        tokens: int64 `[b * n, t]`, right-padded, the end of sequence included.
        mask: bool `[b * n, t]`, true up to and with the end of sequence.
        log_probs: float32 `[b * n, t]`, of each sampled token under the sampling distribution; 0 where masked.
        texts: the completions as text, `b * n` of them; None for a generation that failed.
    """

    prompt_tokens: torch.Tensor
    prompt_mask: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor
    texts: list[str | None]

    @property
    def group_size(self) -> int:
        """Completions a prompt, n."""
        return self.tokens.shape[0] // self.prompt_tokens.shape[0]

    def take(self, groups: torch.Tensor) -> "Completions":
        """The groups of the given prompts only, int64 `[k]`."""
        n = self.group_size
        rows = (groups[:, None] * n + torch.arange(n, device=groups.device)).flatten()
        return Completions(
            self.prompt_tokens[groups],
            self.prompt_mask[groups],
            self.tokens[rows],
            self.mask[rows],
            self.log_probs[rows],
            [self.texts[i] for i in rows.tolist()],
        )


class RolloutEngine(Protocol):
    """Completes prompts with the policy's current weights."""

    def generate(
        self, prompts: Sequence[str], group_size: int, *, max_new_tokens: int, temperature: float, seed: int
    ) -> Completions:
        """Samples `group_size` completions of every prompt; the same seed and weights give the same ones.

        A completion ends with the end of sequence or after `max_new_tokens`. `temperature` 0 is greedy.
        """
        ...
