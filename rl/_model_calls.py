"""Calls of Transformers models: options, caches, padding, length limits and gradient checkpointing."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

# Fields of a model's output that may hold its cache. The name differs between releases of Transformers and models.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")
_OPTIONAL = ("position_ids", "logits_to_keep", "mm_token_type_ids", "token_type_ids")
_ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_PROBE_PADDING, _PROBE_LENGTH = 6, 3


def accepted(model: torch.nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without those of `_OPTIONAL` that the model's `forward` does not name."""
    names = inspect.signature(model.forward).parameters
    wrapped = not any(name in names for name in ("input_ids", "attention_mask"))  # a wrapper's forward takes **options
    return {name: value for name, value in options.items() if wrapped or name in names or name not in _OPTIONAL}


def take_cache(output: Any) -> dict[str, Any]:
    """Return the cache of a forward pass as an option for the next pass; empty where the model has no cache."""
    known = set(output.keys())  # reading a deprecated name would raise a warning
    return {name: output[name] for name in _CACHE_NAMES if name in known}


def repeat_cache(cache: dict[str, Any], rows: torch.Tensor) -> bool:
    """Replace the cache by its rows `rows`, int64 `[r]`; return False, without a change, if that is not possible.

    This calls `reorder_cache`, which every cache layer of Transformers implements for beam search. The method
    `batch_repeat_interleave` would not do: recurrent layers lack it, and hybrid layers repeat only their attention.
    """
    if not cache or not all(_reorders_everything(type(part)) for part in cache.values()):
        return False
    for part in cache.values():
        part.reorder_cache(rows)
    return True


def _reorders_everything(kind: type) -> bool:
    """Return whether a cache class is Transformers' own, or defines `reorder_cache` itself.

    An inherited `reorder_cache` may leave out states that the class adds.
    """
    return kind.__module__ == Cache.__module__ or "reorder_cache" in vars(kind)


def reads_mask(cache: dict[str, Any]) -> bool:
    """Return whether a forward pass that continues the cache needs the attention mask.

    A purely recurrent model does not need it. Mamba must not get it: it would multiply the new token by the mask of all
    positions, and give a wrong result.
    """
    layers = [layer for part in cache.values() for layer in getattr(part, "layers", [])]
    return not layers or any(hasattr(layer, "keys") for layer in layers)


def without_padding(tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return left-padded rows without the columns that are padding in every row."""
    first = int(mask.any(0).to(torch.uint8).argmax())
    return tokens[:, first:], mask[:, first:]


def same_length(mask: torch.Tensor) -> list[torch.Tensor]:
    """Return the row indices of a mask `[r, p]` in groups of equal length, shortest rows first."""
    lengths = mask.sum(1)
    return [(lengths == length).nonzero()[:, 0] for length in lengths.unique().tolist()]


def only_attention(model: torch.nn.Module) -> bool:
    """Return whether the code of the model is Transformers' own and all its layers are attention.

    Such layers ignore the positions that the mask excludes.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config  # one part of some models
    kinds = getattr(text, "layer_types", None) or []
    known = type(model).__module__.startswith("transformers.models.")
    return known and not getattr(model, "_is_stateful", True) and _ATTENTION.issuperset(kinds)


@torch.no_grad()
def masks_padding(forward: Callable[..., Any], vocabulary: int, device: torch.device) -> bool:
    """Return whether the mask hides left padding from the model, by comparing results with and without padding.

    Some recurrent models read padded positions although the mask excludes them.

    Args:
        forward: Function of tokens `[2, p]`, `attention_mask` and `position_ids` that returns an output with logits.
        vocabulary: Number of tokens in the vocabulary.
        device: Device of the model.
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


@torch.no_grad()
def token_entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each distribution of log-probabilities `[r, t, v]`, one row at a time to save memory."""
    return torch.stack([torch.special.entr(row.exp()).sum(-1) for row in log_probs.detach()])


def configured_ends(model: PreTrainedModel) -> list[int]:
    """Return the end-of-sequence tokens of the model's generation configuration, where -1 means none."""
    configured: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return [int(token) for token in listed if token is not None and token >= 0]


def longest_sequence(model: PreTrainedModel) -> int | None:
    """Return the largest number of tokens in a sequence, or None where the model's configuration has no limit."""
    config = model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "n_positions"))
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), None)


@contextmanager
def checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Recompute activations in the backward pass inside the `with` block; see `Policy.gradient_checkpointing`."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        name = type(model).__name__
        raise ValueError(f"gradient_checkpointing is True, but {name} has no layers that support it; set it to False")
    forwards = [vars(layer).get("forward") for layer in layers]  # a library's hook on the layer, or None
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, forwards, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
