"""How a Transformers model is called: the options and the cache that it knows, and what it does with padding."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache

# Transformers 5.24 has one name; older releases and code from the hub have another per family of models.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")
_OPTIONAL = ("position_ids", "logits_to_keep")
_ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_PROBE_PADDING, _PROBE_LENGTH = 6, 3


def accepted(model: torch.nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """The options without `position_ids` and `logits_to_keep` where the model's `forward` does not name them."""
    names = inspect.signature(model.forward).parameters
    wrapped = not any(name in names for name in ("input_ids", "attention_mask"))  # a wrapper passes everything on
    return {name: value for name, value in options.items() if wrapped or name in names or name not in _OPTIONAL}


def take_cache(output: Any) -> dict[str, Any]:
    """The cache of a forward pass, as the option that hands it to the next pass; empty where the model has none."""
    known = set(output.keys())  # asking for an old name itself is deprecated
    return {name: output[name] for name in _CACHE_NAMES if name in known}


def repeat_cache(cache: dict[str, Any], rows: torch.Tensor) -> bool:
    """Make the given rows of the cache, int64 `[r]`, its rows; return whether the class of the cache can do that.

    Every layer of Transformers implements `reorder_cache`, for beam search. `batch_repeat_interleave` is missing for
    recurrent layers and repeats only the attention of hybrid layers.
    """
    if not cache or not all(_reorders_everything(type(part)) for part in cache.values()):
        return False
    for part in cache.values():
        part.reorder_cache(rows)
    return True


def _reorders_everything(kind: type) -> bool:
    """Whether `reorder_cache` is written for this class; a subclass may hold states that the inherited one misses."""
    return kind.__module__ == Cache.__module__ or "reorder_cache" in vars(kind)


def reads_mask(cache: dict[str, Any]) -> bool:
    """Whether a pass that continues the cache needs the mask; purely recurrent models have no use for it.

    Mamba multiplies the new token by the whole mask, which gives a wrong result.
    """
    layers = [layer for part in cache.values() for layer in getattr(part, "layers", [])]
    return not layers or any(hasattr(layer, "keys") for layer in layers)


def without_padding(tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded rows without the columns that are padding in all of them."""
    first = int(mask.any(0).to(torch.uint8).argmax())
    return tokens[:, first:], mask[:, first:]


def same_length(mask: torch.Tensor) -> list[torch.Tensor]:
    """Indices of the rows of a mask `[r, p]` in groups of equal length, the shortest rows first."""
    lengths = mask.sum(1)
    return [(lengths == length).nonzero()[:, 0] for length in lengths.unique().tolist()]


def only_attention(model: torch.nn.Module) -> bool:
    """Whether this is a model of Transformers all of whose layers are attention, which the mask is made for."""
    kinds = getattr(getattr(model, "config", None), "layer_types", None) or []
    known = type(model).__module__.startswith("transformers.models.")
    return known and not getattr(model, "_is_stateful", True) and _ATTENTION.issuperset(kinds)


@torch.no_grad()
def masks_padding(forward: Callable[..., Any], vocabulary: int, device: torch.device) -> bool:
    """Whether the mask hides left padding from the model, found by comparing a row with and without padding.

    Some recurrent models read padded positions whatever the mask says.

    Args:
        forward: called with tokens `[2, p]`, `attention_mask` and `position_ids`; returns an output with logits.
        vocabulary: number of tokens.
        device: of the model.
    """
    tokens = torch.arange(2 * (_PROBE_PADDING + _PROBE_LENGTH), device=device).reshape(2, -1) % vocabulary
    mask = torch.ones_like(tokens)
    mask[:, :_PROBE_PADDING] = 0
    alone = _last_logits(forward, *without_padding(tokens, mask))
    padded = _last_logits(forward, tokens, mask)
    exact = alone.dtype in (torch.float32, torch.float64)
    tolerance = (16 if exact else 4) * torch.finfo(alone.dtype).eps * alone.abs().max()
    return bool((padded - alone).abs().max() <= tolerance)


def _last_logits(forward: Callable[..., Any], tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return forward(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1]
