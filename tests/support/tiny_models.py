"""Small random models of many architectures, built from their configuration classes alone."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rl.policy import Policy, character_tokenizer

_LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 1,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
_MAMBA = {"mamba_d_head": 16, "mamba_d_state": 4, "mamba_chunk_size": 4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "llama": {},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 4, "query_pre_attn_scalar": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "bloom": {"n_head": 2, "n_layer": 2},
    "mamba": {"state_size": 4, "conv_kernel": 4, "expand": 2, "time_step_rank": 4},
    "mamba2": {"state_size": 4, "num_heads": 2, "head_dim": 32, "expand": 2, "n_groups": 1, "chunk_size": 4},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 2, **_MAMBA},
    "bamba": {"mamba_n_heads": 4, "attn_layer_indices": [1], **_MAMBA},
    "jamba": {"mamba_d_state": 4, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "qwen3_next": {"shared_expert_intermediate_size": 16, **_EXPERTS, **_LINEAR},
    "qwen3_5_text": _LINEAR,
    "minimax": {"num_local_experts": 2, "block_size": 4, "layer_types": ["linear_attention", "full_attention"]},
    "rwkv": {"attention_hidden_size": 32},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3},
}


def tiny_model(kind: str) -> Policy:
    """Return a policy over digits. Its predictions are far from uniform, so that a wrong cache changes the output."""
    tokenizer = character_tokenizer("0123456789=")
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(sizes | ARCHITECTURES[kind]))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    return Policy(model, tokenizer)
