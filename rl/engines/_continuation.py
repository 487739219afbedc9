"""Logits of the next token for a group of completions per prompt, whatever cache the model has."""

from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicCache

from rl.policy import Policy

# Transformers calls the cache by the first name from 5.24 on; before, attention had the second and Mamba the third.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")


class Continuation:
    """Prefills each prompt once, repeats the cache `group_size` times, and takes one token per row after that.

    A model whose cache cannot be repeated by index reads the whole row again for each token: slow, and right.

    Args:
        policy: the model that continues.
        prompt_tokens: int64 `[b, p]`, left-padded.
        prompt_mask: int64 `[b, p]`.
        group_size: completions per prompt.

    Attributes:
        logits: `[b * group_size, v]`, of the first token.
    """

    def __init__(self, policy: Policy, prompt_tokens: torch.Tensor, prompt_mask: torch.Tensor, group_size: int):
        self._policy = policy
        copies = torch.arange(len(prompt_tokens), device=prompt_tokens.device).repeat_interleave(group_size)
        output = self._forward(prompt_tokens, prompt_mask, _positions(prompt_mask), use_cache=True, logits_to_keep=1)
        self._name = next((name for name in _CACHE_NAMES if name in output.__dataclass_fields__), None)
        cache = None if self._name is None else getattr(output, self._name)
        self._cache = cache if _repeatable(cache) else None
        if self._cache is not None:
            self._cache.reorder_cache(copies)
        self._tokens, self._mask = prompt_tokens[copies], prompt_mask[copies]
        self.logits = output.logits[:, -1][copies]

    def extend(self, tokens: torch.Tensor) -> torch.Tensor:
        """Appends one token per row, int64 `[r]`, and returns the logits of the next one, `[r, v]`."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
        if self._cache is None:
            self._tokens = torch.cat([self._tokens, tokens[:, None]], 1)
            output = self._forward(self._tokens, self._mask, _positions(self._mask), use_cache=False, logits_to_keep=1)
        else:
            # Mamba multiplies the new token with the mask of the whole row, so a model without attention gets none.
            attends = any(isinstance(layer, CacheLayerMixin) for layer in self._cache.layers)
            position = self._mask.sum(1, keepdim=True) - 1
            cache = {str(self._name): self._cache}
            output = self._forward(tokens[:, None], self._mask if attends else None, position, use_cache=True, **cache)
        return output.logits[:, -1]

    def _forward(self, tokens: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, **options: Any) -> Any:
        return self._policy.forward(tokens, attention_mask=mask, position_ids=positions, **options)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp_min(0)


def _repeatable(cache: Any) -> bool:
    """Subclasses of DynamicCache keep more than its layers, which `reorder_cache` then leaves as it was."""
    return type(cache) is DynamicCache and all(hasattr(layer, "reorder_cache") for layer in cache.layers)
