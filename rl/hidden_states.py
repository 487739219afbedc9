"""Embeddings of prompts from a policy's own hidden states.

The vector of a prompt is the hidden state of its last token, from which the policy predicts the first token of its
completion. Each prompt takes one forward pass without a completion. The vectors describe the policy at the time of the
call: after more training, the same policy gives other vectors.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from rl import _checks
from rl._model_calls import same_length, without_padding
from rl._prompt_checks import check_lengths
from rl.media import Media, take
from rl.policy import Policy
from rl.prompts.messages import Prompt


def hidden_states(
    policy: Policy, *, layer: int = -1, batch_size: int = 64
) -> Callable[[Sequence[Prompt]], Float[np.ndarray, "b h"]]:
    """Return a function that embeds prompts, for `jaxsel.integrations.embeddings.embed`.

    `embed` never caches the results of this function, because they are valid only for the present weights of the
    policy. Prompts are rendered as in rollouts: if the tokenizer has a chat template, a text becomes one user message.
    A prompt's vector does not depend on the other prompts, up to the rounding of the model's arithmetic.

    Args:
        policy: The policy. `Policy(model, tokenizer)` makes one from any causal language model of Transformers. The
            model should be in evaluation mode, because dropout would make the vectors random.
        layer: The position among the hidden states that Transformers returns: 0 is the input of the first layer, and -1
            is the output of the last layer, after the final normalisation if the model has one.
        batch_size: The number of prompts per forward pass. The hidden states of all layers and tokens of a pass are in
            memory together.

    Returns:
        The function. It raises ValueError if a prompt is empty or too long for the model, or if the model has no such
        layer.

    Raises:
        ValueError: `batch_size` is less than 1, or `layer` is not an integer.
    """
    _checks.integers(1, batch_size=batch_size)
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise ValueError(f"layer is {layer!r}; give an integer, for example -1 for the last layer")

    @torch.inference_mode()
    def encode(texts: Sequence[Prompt]) -> np.ndarray:
        tokens, mask, media = policy.read(texts)
        check_lengths(mask.sum(1).tolist(), 0, policy.max_length, "or a model with more positions")
        batches = _batches(policy, mask, batch_size)
        parts = [_last_states(policy, tokens[rows], mask[rows], layer, take(media, rows)) for rows in batches]
        return torch.cat(parts)[torch.cat(batches).argsort()].cpu().numpy()

    return encode


def _batches(policy: Policy, mask: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Return the rows of each forward pass. Prompts of similar length share a pass, so there is little padding."""
    together = mask.all() or policy.masks_padding
    groups = [mask.sum(1).argsort(stable=True)] if together else same_length(mask)
    return [rows for group in groups for rows in group.split(batch_size)]


def _last_states(
    policy: Policy, tokens: torch.Tensor, mask: torch.Tensor, layer: int, media: Media | None
) -> torch.Tensor:
    """Return the hidden states of the last token of left-padded prompts, in float32."""
    tokens, mask = without_padding(tokens, mask)
    options: dict[str, Any] = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_min(0)}
    options |= {"use_cache": False, "logits_to_keep": 1}
    states = policy.forward(tokens, **options, media=media, output_hidden_states=True).hidden_states
    if not -len(states) <= layer < len(states):
        raise ValueError(f"layer is {layer}; give an integer from {-len(states)} to {len(states) - 1} for this model")
    return states[layer][:, -1].float()
