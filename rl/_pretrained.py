"""Loads the parts of a policy from a folder or from the Hugging Face hub, with errors that name it."""

import os
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from rl._processors import load_processor, reads_images
from rl._tokenizers import load_tokenizer

Parts = tuple[PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin | None]


def load_parts(path: str | Path, options: dict[str, Any]) -> Parts:
    """Return the model, its tokenizer, and the processor of a vision-language model.

    Args:
        path: A folder, or the name of a model on the hub.
        options: Options of the model's `from_pretrained`.

    Raises:
        ValueError: Transformers cannot load the model or its tokenizer, for example because there is no such folder.
    """
    path = os.path.expanduser(path)
    try:
        tokenizer = load_tokenizer(path)
        if not reads_images(path, **options):
            return AutoModelForCausalLM.from_pretrained(path, **options), tokenizer, None
        processor = load_processor(path, tokenizer)
        return AutoModelForImageTextToText.from_pretrained(path, **options), tokenizer, processor
    except (OSError, ValueError) as error:
        raise ValueError(
            f"policy {path} cannot be loaded; give a folder with the config.json, the weights and the tokenizer of a "
            f"model, or a name on the Hugging Face hub. Transformers says: {' '.join(str(error).split())}"
        ) from error
