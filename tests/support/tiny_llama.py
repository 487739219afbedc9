"""A model of another architecture than the built-in policy, with a chat template."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase


def tiny_llama(tokenizer: PreTrainedTokenizerBase, **options: Any) -> LlamaForCausalLM:
    """Return a model with fixed random weights and the tokenizer's special tokens."""
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(**(sizes | options))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)
