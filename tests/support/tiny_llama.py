"""A model of another architecture than the built-in policy, with a chat template."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from rl.policy import Policy, character_tokenizer


def marked_policy() -> Policy:
    """Return a policy with special tokens that have text. Its second end of sequence, `b`, is not special."""
    tokenizer = character_tokenizer("0123456789=ab ,!")
    tokenizer.add_tokens(["<|im_end|>", "</think>"], special_tokens=True)
    tokenizer.clean_up_tokenization_spaces = True
    model = tiny_llama(tokenizer, hidden_size=64)  # vLLM needs heads of 32
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("b")]
    return Policy(model, tokenizer)


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
