"""The interface of rollout engines, which complete prompts."""

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from rl import _checks
from rl.media import Media, join, take
from rl.prompts.messages import Prompt


@dataclass(frozen=True)
class Sampling:
    """Settings that say how completions are drawn and where they end.

    Attributes:
        max_new_tokens: Longest completion in tokens, end of sequence included.
        temperature: Temperature of the sampling distribution, at least 1e-6; 0 is greedy decoding.
        top_p: Total probability of the likeliest tokens to draw from; 1 draws from all tokens.
        stop: Texts that end a completion. The token that completes such a text is the completion's last token. Special
            tokens such as `<|im_end|>` have text too, except padding, ends of sequence and the unknown token.

    Raises:
        ValueError: An attribute is out of range.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        if not _is_count(self.max_new_tokens):
            raise ValueError(f"max_new_tokens is {self.max_new_tokens!r}; give an integer of at least 1")
        _checks.temperatures(temperature=self.temperature)
        if not (_checks.is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p!r}; give a number above 0 and at most 1")
        if isinstance(self.stop, str) or not all(isinstance(end, str) and end for end in self.stop):
            raise ValueError(f"stop is {self.stop!r}; give a tuple of texts that are not empty")


class Completions(NamedTuple):
    """Completions of `b` prompts, `n` each; row `i * n + j` is completion `j` of prompt `i`.

    Attributes:
        prompt_tokens: Left-padded prompts, int64 `[b, p]`.
        prompt_mask: Mask of the prompts, int64 `[b, p]`: 1 for a token and 0 for padding.
        tokens: Right-padded completions, int64 `[b * n, t]`, end of sequence included.
        mask: Mask of the completions, bool `[b * n, t]`: true for tokens, end of sequence included, and false for
            padding.
        log_probs: Log-probability of each sampled token under the sampling distribution, float32 `[b * n, t]`. It is 0
            for greedy tokens and for padding.
        texts: The `b * n` completions as text, without padding and ends of sequence; None for a generation that failed.
        media: The images of the `b` prompts, as the policy's model reads them; None if no prompt has one.
    """

    prompt_tokens: torch.Tensor
    prompt_mask: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor
    texts: list[str | None]
    media: Media | None = None

    @property
    def group_size(self) -> int:
        """Return n, the number of completions per prompt."""
        return self.tokens.shape[0] // self.prompt_tokens.shape[0]

    @property
    def mean_length(self) -> float:
        """Return the mean number of tokens of the completions whose generation did not fail; 0 if all failed."""
        made = [text is not None for text in self.texts]
        return float(self.mask.sum(1).float().cpu()[made].mean()) if any(made) else 0.0

    def to(self, device: torch.device) -> "Completions":
        """Return the completions with their tensors on a device; images stay on the CPU."""
        names = ("prompt_tokens", "prompt_mask", "tokens", "mask", "log_probs")
        return self._replace(**{name: getattr(self, name).to(device) for name in names})

    def take(self, groups: torch.Tensor) -> "Completions":
        """Return the completions of the prompts at the given positions, int64 `[k]`."""
        n = self.group_size
        rows = (groups[:, None] * n + torch.arange(n, device=groups.device)).flatten()
        return Completions(
            self.prompt_tokens[groups],
            self.prompt_mask[groups],
            self.tokens[rows],
            self.mask[rows],
            self.log_probs[rows],
            [self.texts[i] for i in rows.tolist()],
            take(self.media, groups),
        )


class RolloutEngine(Protocol):
    """Completes prompts with the weights of the last update; before any update, with the policy's first weights."""

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, seed: int) -> Completions:
        """Draw `group_size` completions per prompt; the same seed and weights give the same completions.

        Raises:
            ValueError: There are no prompts, or a prompt is empty, too long for the model or not valid Unicode. Or:
                the policy has no chat template for chat messages, or a message holds images, which the policy cannot
                read. Or: `group_size` is not an integer of at least 1.
        """
        ...

    def update_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load the policy's weights, given as its model's state dict; the trainer calls this after every update."""
        ...


def check_request(prompts: Sequence[Prompt], group_size: int) -> None:
    """Refuse arguments that every engine refuses.

    Raises:
        ValueError: There are no prompts, `prompts` is a single text, or `group_size` is not an integer of at least 1.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts is the text {prompts!r}; give a list of texts")
    if not len(prompts):
        raise ValueError("prompts is empty; give at least one")
    if not _is_count(group_size):
        raise ValueError(f"group_size is {group_size!r}; give an integer of at least 1")


def _is_count(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def join_completions(parts: Sequence[Completions]) -> Completions:
    """Concatenate the completions of several batches; prompts and completions are padded to the longest.

    The tensors lie on the device of the last batch: those of a checkpoint are on the CPU.
    """
    parts = [part.to(parts[-1].tokens.device) for part in parts]
    return Completions(
        _stack([part.prompt_tokens for part in parts], pad_left=True),
        _stack([part.prompt_mask for part in parts], pad_left=True),
        _stack([part.tokens for part in parts]),
        _stack([part.mask for part in parts]),
        _stack([part.log_probs for part in parts]),
        [text for part in parts for text in part.texts],
        join([part.media for part in parts], [len(part.prompt_tokens) for part in parts]),
    )


def _stack(columns: list[torch.Tensor], *, pad_left: bool = False) -> torch.Tensor:
    """Concatenate columns of different width, padded with 0; every mask hides the padding."""
    width = max(column.shape[1] for column in columns)
    padded = []
    for column in columns:
        missing = width - column.shape[1]
        padded.append(torch.nn.functional.pad(column, (missing, 0) if pad_left else (0, missing)))
    return torch.cat(padded)
