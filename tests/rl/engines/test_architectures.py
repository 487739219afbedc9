"""The Hugging Face engine with every kind of cache: attention, sliding windows, state spaces, convolutions, mixtures.

The log-probabilities that the engine sampled with are compared with one plain pass over the finished rows.
"""

import pytest
import torch
import transformers

from rl.engines.hf import HFEngine
from rl.policy import Policy, character_tokenizer
from rl.rollout import Sampling

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
MAMBA = {"mamba_d_state": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}
LINEAR = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
SHARED = {"num_key_value_heads": 2}
ARCHITECTURES = {
    "Llama": SIZES | {"num_key_value_heads": 1},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "GPTNeoX": SIZES,
    "Mistral": SIZES | {"num_key_value_heads": 1, "sliding_window": 6},
    "Gemma2": SIZES | {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6},
    "Gemma3Text": SIZES | {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6},
    "Qwen3Next": SIZES
    | SHARED
    | LINEAR
    | EXPERTS
    | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "Qwen3_5Text": SIZES | SHARED | LINEAR,
    "Lfm2": SIZES | SHARED | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "Jamba": SIZES
    | SHARED
    | EXPERTS
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    | {"mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "Mamba2": {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "state_size": 8}
    | {"n_groups": 1, "chunk_size": 16},
    "FalconH1": SIZES | SHARED | MAMBA | {"mamba_d_ssm": 32, "mamba_n_heads": 2},
    "Bamba": SIZES | SHARED | MAMBA | {"mamba_n_heads": 4, "attn_layer_indices": [1]},
    "GraniteMoeHybrid": SIZES
    | SHARED
    | MAMBA
    | {"mamba_n_heads": 4, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    # Its cache keeps more than the layers that can be repeated.
    "MiniMax": SIZES | SHARED | {"num_local_experts": 2, "num_experts_per_tok": 1},
    # Its cache is its own; it reads no attention mask, so that its prompts have to be of one length.
    "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2},
}
PROMPTS = ["12345=", "7=", "89="]


def make_policy(name: str) -> Policy:
    tokenizer = character_tokenizer("0123456789=")
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **special, **ARCHITECTURES[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Policy(transformers.AutoModelForCausalLM.from_config(config).eval(), tokenizer)


@pytest.mark.filterwarnings("default::UserWarning")  # Mamba's plain implementation says that it is slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sampled_log_probabilities_are_those_of_a_plain_pass(name):
    policy = make_policy(name)
    prompts = PROMPTS if name != "Rwkv" else ["123=", "456=", "789="]
    out = HFEngine(policy).generate(prompts, 3, Sampling(9), seed=0)
    assert out.mask.sum() > 40, "most rows go on for a while, past the sliding window"
    for i in range(len(PROMPTS)):  # each prompt without padding: a recurrent model must not see any
        rows, real = slice(3 * i, 3 * i + 3), out.prompt_mask[i].bool()
        prompt = out.prompt_tokens[i, real].repeat(3, 1)
        with torch.no_grad():
            scores = policy.score(prompt, torch.ones_like(prompt), out.tokens[rows], out.mask[rows])
        mask = out.mask[rows]
        torch.testing.assert_close(out.log_probs[rows][mask], scores.log_probs[mask], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("name", ["Qwen3_5Text", "Mamba", "FalconH1", "MiniMax"])
def test_the_learner_scores_padded_rows_as_the_engine_sampled_them(name):
    policy = make_policy(name)
    out = HFEngine(policy).generate(PROMPTS, 3, Sampling(9), seed=1)
    rows = torch.arange(len(PROMPTS)).repeat_interleave(3)
    with torch.no_grad():
        scores = policy.score(out.prompt_tokens[rows], out.prompt_mask[rows], out.tokens, out.mask)
    torch.testing.assert_close(out.log_probs[out.mask], scores.log_probs[out.mask], atol=1e-5, rtol=1e-4)
