"""The tokenizer of single characters, the loading of a tokenizer from a folder, padding, and texts of tokens."""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

_GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per character, and with the special tokens `<pad>`, `<eos>` and `<unk>`.

    Raises:
        ValueError: The alphabet repeats a character.
    """
    if len(set(alphabet)) != len(alphabet):
        raise ValueError(f"alphabet {alphabet!r} repeats a character; give each character once")
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of tokens with padding on the left, and their mask, both int64 `[len(rows), longest]`."""
    width = max(len(row) for row in rows)
    tokens = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return tokens, mask


def single(token_id: Any) -> int:
    """Return a special token's number, whose type Transformers declares as int, list or str."""
    return int(token_id)


def texts_of(tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor, hidden: Set[int]) -> list[str]:
    """Return the text of each row of tokens, without the hidden ones.

    All other special tokens, such as `</think>`, keep their text. No space is removed: by its configuration, a
    tokenizer may turn `a != b` into `a!= b`.
    """
    rows = [[token for token in row if token not in hidden] for row in tokens.tolist()]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return all tokens that the tokenizer marks as special."""
    return {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or a hub name.

    If tokenizer_config.json names a class in `_GENERIC_TOKENIZERS`, the splitting rules are those of tokenizer.json.
    """
    # For a model of type qwen2, AutoTokenizer would use Qwen's splitting rules even then. The built-in policy has this
    # type and a character tokenizer, which would lose its spaces.
    generic = get_tokenizer_config(path).get("tokenizer_class") in _GENERIC_TOKENIZERS
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(path)
