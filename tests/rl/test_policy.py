import pytest
import torch

from rl.policy import build_policy, character_tokenizer, load_policy

ALPHABET = "0123456789=abc "


def test_every_character_is_one_token_and_comes_back():
    tokenizer = character_tokenizer(ALPHABET)
    tokens = tokenizer("a 12=c")["input_ids"]
    assert len(tokens) == 6
    assert tokenizer.decode(tokens) == "a 12=c"
    assert tokenizer("é")["input_ids"] == [tokenizer.unk_token_id]


def test_an_alphabet_that_repeats_is_refused():
    with pytest.raises(ValueError, match="alphabet 'aba' repeats"):
        character_tokenizer("aba")


def test_prompts_are_padded_on_the_left():
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32)
    tokens, mask = policy.encode(["12=", "1="])
    assert mask.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert tokens[1, 0] == policy.pad_token_id
    assert policy.decode(tokens) == ["12=", "1="]


@pytest.mark.parametrize("hidden_size", [0, 16, 40])
def test_a_width_that_is_no_multiple_of_the_heads_is_refused(hidden_size):
    with pytest.raises(ValueError, match=f"hidden_size is {hidden_size}"):
        build_policy(ALPHABET, hidden_size=hidden_size)


def test_the_default_size_is_what_the_docstring_says():
    weights = sum(p.numel() for p in build_policy(ALPHABET).model.parameters())
    assert 0.3e6 < weights < 0.4e6


def test_the_seed_gives_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (build_policy(ALPHABET, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [p.model.state_dict()["model.embed_tokens.weight"] for p in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_token_log_probs_do_not_depend_on_padding():
    policy = build_policy(ALPHABET, seed=3)
    completion = torch.tensor([[5, 6, 1, 0]])
    mask = completion != 0
    alone = policy.token_log_probs(*policy.encode(["1="]), completion, mask)
    tokens, prompt_mask = policy.encode(["1=", "12345="])
    padded = policy.token_log_probs(tokens, prompt_mask, completion.repeat(2, 1), mask.repeat(2, 1))
    torch.testing.assert_close(padded[0][mask[0]], alone[0][mask[0]], atol=1e-5, rtol=1e-4)


def test_any_causal_lm_by_path(tmp_path):
    """Another architecture, saved on the spot, with a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = character_tokenizer(ALPHABET + "<>")
    tokenizer.chat_template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = load_policy(tmp_path)
    tokens, _ = policy.encode(["12="])
    assert policy.decode(tokens) == ["<12=>"]
    assert policy.model.config.model_type == "llama"


def test_a_tokenizer_without_end_is_refused(tmp_path):
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32)
    policy.tokenizer.eos_token = None
    policy.save(tmp_path)
    with pytest.raises(ValueError, match="has no eos_token"):
        load_policy(tmp_path)


def test_a_saved_policy_reads_every_character_as_before(tmp_path):
    """AutoTokenizer alone would split like Qwen and lose the spaces."""
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    texts = ["1 2  3=", " a", "abc 0"]
    tokens, mask = loaded.encode(texts)
    assert torch.equal(tokens, policy.encode(texts)[0])
    assert loaded.decode(tokens) == texts
    assert mask.sum(1).tolist() == [len(text) for text in texts]
