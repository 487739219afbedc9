"""Log-probabilities of completions under a model.

`score_rows` reads each completion together with its prompt. `score_groups` reads each distinct prompt once, and then
all completions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from rl._model_calls import repeat_cache, same_length, take_cache, token_entropy, without_padding
from rl.media import Media, take

Forward = Callable[..., Any]
"""A function that runs a forward pass: tokens `[r, t]` and options of the model give an output with logits."""


class Scores(NamedTuple):
    """What the current weights compute for completions; values at masked positions have no meaning.

    Attributes:
        log_probs: Log-probability of each token, float32 `[r, t]`.
        hidden: The decoder's last hidden state before each token, `[r, t, h]`. The output layer turns it into logits.
        entropy: Entropy of the distribution that each token was drawn from, float32 `[r, t]`, without a gradient; None
            if it was not asked for.
    """

    log_probs: torch.Tensor
    hidden: torch.Tensor
    entropy: torch.Tensor | None = None


class Rows(NamedTuple):
    """Completions and their prompts, one row per completion.

    Attributes:
        prompt_tokens: Left-padded prompts, int64 `[r, p]`.
        prompt_mask: Mask of the prompts, int64 `[r, p]`.
        tokens: Right-padded completions, int64 `[r, t]`.
        mask: Mask of the completions, bool `[r, t]`.
        media: The images of the prompts; None if there are none.
    """

    prompt_tokens: torch.Tensor
    prompt_mask: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    media: Media | None = None

    def at(self, index: torch.Tensor) -> "Rows":
        """Return the rows at these positions."""
        tensors = (self.prompt_tokens[index], self.prompt_mask[index], self.tokens[index], self.mask[index])
        return Rows(*tensors, take(self.media, index))


def score_rows(
    forward: Forward, output_layer: torch.nn.Module, rows: Rows, temperature: float, entropy: bool = False
) -> Scores:
    """Return the scores from one pass over prompts and completions."""
    prompt_tokens, prompt_mask = without_padding(rows.prompt_tokens, rows.prompt_mask)
    attention, positions = _attention(prompt_mask, rows.mask)
    with _hidden_states(output_layer) as read:
        output = forward(
            torch.cat([prompt_tokens, rows.tokens], 1),
            attention_mask=attention,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=rows.tokens.shape[1] + 1,
            media=rows.media,
        )
    scored = slice(-rows.tokens.shape[1] - 1, -1)  # a model without the option logits_to_keep returns all positions
    return _scores(output.logits[:, scored], read[0][:, scored], rows.tokens, temperature, entropy)


def score_by_length(
    forward: Forward, output_layer: torch.nn.Module, rows: Rows, temperature: float, entropy: bool = False
) -> Scores:
    """Return the scores from one pass per length of prompts, for a model whose mask does not hide padding."""
    groups = same_length(rows.prompt_mask)
    parts = [score_rows(forward, output_layer, rows.at(group), temperature, entropy) for group in groups]
    order = torch.cat(groups).argsort()
    columns: list[Any] = list(zip(*parts, strict=True))
    sorted_columns: list[Any] = [None if c[0] is None else torch.cat(c)[order] for c in columns]
    return Scores(*sorted_columns)


def score_groups(
    forward: Forward, output_layer: torch.nn.Module, rows: Rows, temperature: float, entropy: bool = False
) -> Scores | None:
    """Return the scores from one pass over the distinct prompts, and one pass over the completions.

    The second pass continues the cache of the first one, so that gradients flow through both. With n completions per
    prompt, reading the prompts takes an n-th of the time. The result equals the result of `score_rows` up to rounding.

    Returns:
        The scores. None where the model has no cache whose rows can be repeated.
    """
    both = torch.cat([rows.prompt_tokens, rows.prompt_mask], 1)
    distinct, row_of = torch.unique(both, dim=0, return_inverse=True)
    prompt_tokens, prompt_mask = without_padding(*distinct.chunk(2, 1))
    with _hidden_states(output_layer) as read:
        _, positions = _attention(prompt_mask, prompt_mask[:, :0])
        output = forward(
            prompt_tokens, attention_mask=prompt_mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        cache = take_cache(output)
        if not repeat_cache(cache, row_of):
            return None
        logits, hidden = output.logits[row_of, -1:], read[0][row_of, -1:]
        if rows.tokens.shape[1] > 1:
            attention, positions = _attention(prompt_mask[row_of], rows.mask[:, :-1])
            positions = positions[:, prompt_mask.shape[1] :]
            output = forward(
                rows.tokens[:, :-1], attention_mask=attention, position_ids=positions, use_cache=True, **cache
            )
            logits, hidden = torch.cat([logits, output.logits], 1), torch.cat([hidden, read[1]], 1)
    return _scores(logits, hidden, rows.tokens, temperature, entropy)


def _attention(prompt_mask: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mask of prompts and completions together, and the position of every token."""
    attention = torch.cat([prompt_mask, mask.to(prompt_mask.dtype)], 1)
    return attention, (attention.cumsum(1) - 1).clamp_min(0)


@contextmanager
def _hidden_states(output_layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield a list that receives the last hidden states of every forward pass in the `with` block.

    A hook records the input of the output layer. Transformers' option `output_hidden_states` would take more memory,
    because it keeps the hidden states of every layer.
    """
    read: list[torch.Tensor] = []
    hook = output_layer.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    try:
        yield read
    finally:
        hook.remove()


def _scores(
    logits: torch.Tensor, hidden: torch.Tensor, tokens: torch.Tensor, temperature: float, entropy: bool
) -> Scores:
    log_probs = torch.log_softmax(logits.float() / temperature, -1)
    chosen = log_probs.gather(2, tokens[:, :, None])[:, :, 0]
    return Scores(chosen, hidden, token_entropy(log_probs) if entropy else None)
