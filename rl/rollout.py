"""What an engine that completes prompts promises."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn and where they end.

    Attributes:
        max_new_tokens: longest completion, the end of sequence included.
        temperature: 0 is greedy.
        top_p: draw from the likeliest tokens that have this probability together; 1: from all.
        stop: a completion also ends with the token that brings one of these into its text, where it stays.

    Raises:
        ValueError: an attribute out of its range.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        if not _is_count(self.max_new_tokens):
            raise ValueError(f"max_new_tokens is {self.max_new_tokens!r}; give at least 1, an integer")
        if not (_is_number(self.temperature) and 0 <= self.temperature < math.inf):
            raise ValueError(f"temperature is {self.temperature!r}; give a number of at least 0, and finite")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p!r}; give a number above 0 and up to 1")
        if isinstance(self.stop, str) or not all(isinstance(end, str) and end for end in self.stop):
            raise ValueError(f"stop is {self.stop!r}; give a tuple of texts, none of them empty")


class Completions(NamedTuple):
    """Completions of `b` prompts, `n` each; row `i * n + j` is completion `j` of prompt `i`.

    Attributes:
        prompt_tokens: int64 `[b, p]`, left-padded.
        prompt_mask: int64 `[b, p]`, 1 for a token and 0 for padding.
        tokens: int64 `[b * n, t]`, right-padded, the end of sequence included.
        mask: bool `[b * n, t]`, true up to and with the end of sequence.
        log_probs: float32 `[b * n, t]`, of each sampled token under the sampling distribution, 0 for greedy tokens and
            where masked.
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
        """Completions per prompt, n."""
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
    """Completes prompts with the weights that it was given last; at first those of the policy it was made with."""

    def generate(self, prompts: Sequence[str], group_size: int, sampling: Sampling, *, seed: int) -> Completions:
        """Draws `group_size` completions of every prompt; the same seed and weights give the same ones.

        Raises:
            ValueError: no prompts, a prompt that is empty, too long for the model or no valid Unicode, or a group size
                that is no integer of at least 1.
        """
        ...

    def update_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Takes over the policy's weights, a state dict of its model; called after every update."""
        ...


def check_request(prompts: Sequence[str], group_size: int) -> None:
    """Refuse what no engine can complete.

    Raises:
        ValueError: no prompts, one text instead of several, or a group size that is no integer of at least 1.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts is the text {prompts!r}; give a list of texts")
    if not len(prompts):
        raise ValueError("prompts is empty; give at least one")
    if not _is_count(group_size):
        raise ValueError(f"group_size is {group_size!r}; give at least 1, an integer")


def _is_count(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def join_completions(parts: Sequence[Completions]) -> Completions:
    """Completions of several batches as one; prompts and completions are padded to the longest."""
    return Completions(
        _stack([part.prompt_tokens for part in parts], pad_left=True),
        _stack([part.prompt_mask for part in parts], pad_left=True),
        _stack([part.tokens for part in parts]),
        _stack([part.mask for part in parts]),
        _stack([part.log_probs for part in parts]),
        [text for part in parts for text in part.texts],
    )


def _stack(columns: list[torch.Tensor], *, pad_left: bool = False) -> torch.Tensor:
    """Padding is 0, which every mask hides."""
    width = max(column.shape[1] for column in columns)
    padded = []
    for column in columns:
        missing = width - column.shape[1]
        padded.append(torch.nn.functional.pad(column, (missing, 0) if pad_left else (0, missing)))
    return torch.cat(padded)
