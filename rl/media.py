"""The tensors that a vision-language model reads beside the tokens, such as the pixels of images.

The processor of the model makes them from one prompt at a time. Their names, shapes and meaning differ between families
of models, and nothing here depends on them, apart from two rules:

* Tensors named in `PER_TOKEN` have one number per token of the prompt.
* All others have one entry per image, per patch or per prompt along their first axis, along which the tensors of
  several prompts are joined. Zeros fill up the other axes, as in the processors' own results for unequal images.

The media of a batch are a list with one dictionary per prompt or completion, which is empty where there is no image; or
None if no prompt has an image. They stay on the CPU until a model reads them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

Media = list[dict[str, torch.Tensor]]
"""One dictionary of tensors per row."""


class ReadPrompts(NamedTuple):
    """Prompts as a model reads them.

    Attributes:
        tokens: Left-padded tokens, int64 `[b, p]`.
        mask: Their attention mask, int64 `[b, p]`.
        media: The images; None if no prompt has one.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    media: Media | None

    def at(self, index: torch.Tensor) -> "ReadPrompts":
        """Return the prompts at these positions, int64 `[k]`."""
        return ReadPrompts(self.tokens[index], self.mask[index], take(self.media, index))


PER_TOKEN = frozenset({"mm_token_type_ids", "token_type_ids"})
"""The names of tensors with one number per token."""
_KINDS = ("image", "video", "audio")
_UNSUPPORTED = frozenset({"cross_attention_mask"})


def prompt_media(found: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the media of one prompt from the output of its processor.

    Raises:
        ValueError: The model needs a tensor that cannot be joined by the rules of this module.
    """
    odd = sorted(_UNSUPPORTED & set(found))
    if odd:
        raise ValueError(f"the policy's processor makes {', '.join(odd)}, which is not supported; give another policy")
    return {
        name: torch.as_tensor(value) for name, value in found.items() if name not in ("input_ids", "attention_mask")
    }


def placeholders(model: Any) -> tuple[int, ...]:
    """Return the tokens that a model takes for parts of images, videos and sounds."""
    found = {getattr(model.config, f"{kind}_token_{end}", None) for kind in _KINDS for end in ("id", "index")}
    return tuple(sorted(token for token in found if isinstance(token, int)))


def take(media: Media | None, index: slice | torch.Tensor) -> Media | None:
    """Return the media of the rows at these positions."""
    if media is None:
        return None
    return media[index] if isinstance(index, slice) else [media[i] for i in index.tolist()]


def join(parts: Sequence[Media | None], lengths: Sequence[int]) -> Media | None:
    """Return the media of several batches of these lengths, in order."""
    if all(part is None for part in parts):
        return None
    found = zip(parts, lengths, strict=True)
    return [one for part, length in found for one in (part if part is not None else [{} for _ in range(length)])]


def model_inputs(media: Media | None, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors that a model reads for a batch, on the device of the mask; empty if no row has an image.

    Args:
        media: The media of the rows.
        mask: The attention mask, int64 `[r, t]`. The first unmasked positions of a row are the tokens of its prompt.
    """
    if media is None or not any(media):
        return {}
    names = dict.fromkeys(name for one in media for name in one)
    inputs = {
        name: _per_token(name, media, mask)
        if name in PER_TOKEN
        else _joined([one[name] for one in media if name in one])
        for name in names
    }
    return {name: tensor.to(mask.device) for name, tensor in inputs.items()}


def positions(model: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor, inputs: Mapping[str, Any]) -> Any:
    """Return the positions of the tokens in a batch with images: int64 `[r, t]`, or `[3, r, t]` for models of Qwen.

    Models of Qwen and their relatives give each patch of an image a position in time, height and width.
    """
    finder = next((module for module in model.modules() if hasattr(module, "get_rope_index")), None)
    if finder is None:
        return (mask.cumsum(1) - 1).clamp_min(0)
    grids = {name: value for name, value in inputs.items() if name in PER_TOKEN or name.endswith("_grid_thw")}
    found, _ = finder.get_rope_index(input_ids=tokens, attention_mask=mask, **grids)  # type: ignore[operator]
    return found


def position_shift(model: torch.nn.Module, prompts: ReadPrompts) -> torch.Tensor | None:
    """Return by how much the position of each prompt's next token exceeds its number of tokens, int64 `[b, 1]`.

    None stands for zeros, as of prompts without images.
    """
    tokens, mask, media = prompts
    inputs = model_inputs(media, mask)
    if not inputs:
        return None
    found = positions(model, tokens, mask, inputs)
    highest = found if found.ndim == 2 else found.amax(0)
    return highest.masked_fill(mask == 0, -1).amax(1, keepdim=True) + 1 - mask.sum(1, keepdim=True)


def _per_token(name: str, media: Media, mask: torch.Tensor) -> torch.Tensor:
    filled = torch.zeros_like(mask, device="cpu")
    starts = (mask > 0).to(torch.uint8).argmax(1).tolist()
    for row, (one, start) in enumerate(zip(media, starts, strict=True)):
        if name in one:
            values = one[name].flatten()
            filled[row, start : start + len(values)] = values
    return filled


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(tensors)
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [most - size for most, size in zip(largest, tensor.shape[1:], strict=True)]
        padded.append(torch.nn.functional.pad(tensor, [n for least in reversed(missing) for n in (0, least)]))
    return torch.cat(padded)
