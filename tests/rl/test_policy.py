from dataclasses import replace
from typing import Any

import pytest
import torch

from rl.policy import build_policy, character_tokenizer, load_policy
from tests.support.tiny_llama import marked_policy, tiny_llama

ALPHABET = "0123456789=abc "


def test_every_character_is_one_token_and_comes_back():
    tokenizer = character_tokenizer(ALPHABET)
    tokens = tokenizer("a 12=c")["input_ids"]
    assert len(tokens) == 6
    assert tokenizer.decode(tokens) == "a 12=c"
    assert tokenizer("é")["input_ids"] == [tokenizer.unk_token_id]


def test_only_padding_ends_and_unknown_characters_have_no_text():
    policy = marked_policy()
    special: Any = policy.tokenizer.convert_tokens_to_ids(["<pad>", "<eos>", "<unk>", "b"])
    assert policy.hidden_ids == set(special)
    text = "1 != a , 2</think>7"
    tokens = policy.tokenizer(text + "b", add_special_tokens=False, return_tensors="pt")["input_ids"]
    tokens = torch.cat([tokens, torch.tensor([special])], 1)
    assert policy.decode(tokens) == [text]
    assert policy.decode(torch.full((2, 1), policy.pad_token_id)) == ["", ""]


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


def test_log_probs_do_not_depend_on_padding():
    policy = build_policy(ALPHABET, seed=3)
    completion = torch.tensor([[5, 6, 1, 0]])
    mask = completion != 0
    alone = policy.score(*policy.encode(["1="]), completion, mask).log_probs
    tokens, prompt_mask = policy.encode(["1=", "12345="])
    padded = policy.score(tokens, prompt_mask, completion.repeat(2, 1), mask.repeat(2, 1)).log_probs
    torch.testing.assert_close(padded[0][mask[0]], alone[0][mask[0]], atol=1e-5, rtol=1e-4)


def test_hidden_states_are_taken_before_each_token():
    policy = build_policy(ALPHABET, seed=3)
    tokens, prompt_mask = policy.encode(["12="])
    completion = torch.tensor([[5, 6, 1]])
    scores = policy.score(tokens, prompt_mask, completion, completion > 0)
    whole = policy.model(torch.cat([tokens, completion], 1), output_hidden_states=True)
    torch.testing.assert_close(scores.hidden, whole.hidden_states[-1][:, 2:5])
    assert scores.hidden.shape[-1] == policy.hidden_size == 96
    torch.testing.assert_close(policy.model.lm_head(scores.hidden), whole.logits[:, 2:5])


def test_sharing_prompts_changes_no_score():
    policy = build_policy(ALPHABET, seed=3)
    tokens, prompt_mask = policy.encode(["1=", "12345=", "1=", "22=", "12345="])
    completions = torch.tensor([[5, 6, 1, 0], [5, 1, 0, 0], [7, 7, 7, 1], [1, 0, 0, 0], [9, 8, 7, 6]])
    for width in (4, 1):
        arguments = (tokens, prompt_mask, completions[:, :width], completions[:, :width] > 0)
        apart = policy.score(*arguments, temperature=0.7, entropy=True)
        shared = policy.score(*arguments, temperature=0.7, entropy=True, share_prompts=True)
        for one, other in zip(shared, apart, strict=True):
            assert one is not None
            assert other is not None
            kept = arguments[3]
            torch.testing.assert_close(one[kept], other[kept], atol=1e-5, rtol=1e-4)


def test_an_unknown_precision_is_refused():
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32)
    with pytest.raises(ValueError, match="precision is 'fp16'; give one of float32, bfloat16"):
        replace(policy, precision="fp16")


def test_bfloat16_rounds_the_matrix_products_and_nothing_else():
    policy = build_policy(ALPHABET, seed=3)
    rounded = replace(policy, precision="bfloat16")
    tokens, prompt_mask = policy.encode(["12="])
    completion = torch.tensor([[5, 6, 1]])
    assert rounded.forward(tokens).logits.dtype == torch.bfloat16
    one, other = (p.score(tokens, prompt_mask, completion, completion > 0).log_probs for p in (policy, rounded))
    assert other.dtype == torch.float32
    assert 0 < (one - other).abs().max() < 0.05
    other.sum().backward()
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in policy.model.parameters() if p.grad is not None} == {torch.float32}


def test_weights_are_float32_whatever_they_are_stored_in(tmp_path):
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32)
    policy.model.bfloat16()
    policy.save(tmp_path)
    assert load_policy(tmp_path).model.dtype == torch.float32
    assert load_policy(tmp_path, dtype="auto").model.dtype == torch.bfloat16


def test_gradient_checkpointing_recomputes_activations_and_ends_with_its_block():
    """Scoring leaves attention dropout off, although the training mode of the model would turn it on."""
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=2, feed_forward_size=32)
    for layer in policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    tokens, prompt_mask = policy.encode(["12=", "1="])
    completion = torch.tensor([[5, 6, 1], [7, 8, 9]])
    calls = []
    policy.model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradient():
        policy.model.zero_grad()
        policy.score(tokens, prompt_mask, completion, completion > 0).log_probs.sum().backward()
        counted = len(calls)
        calls.clear()
        return [p.grad.clone() for p in policy.model.parameters() if p.grad is not None], counted

    plain, once = gradient()
    with policy.gradient_checkpointing():
        recomputed, twice = gradient()
    again, once_more = gradient()
    assert (once, twice, once_more) == (1, 2, 1)
    for one, other, last in zip(plain, recomputed, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        assert torch.equal(one, last)
    with pytest.raises(KeyError), policy.gradient_checkpointing():
        raise KeyError
    assert not any("forward" in vars(module) or module.training for module in policy.model.modules())


def test_gradient_checkpointing_keeps_a_hook_of_the_layer():
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32)
    (layer,) = policy.model.model.layers
    hooked = layer.forward = layer.forward
    with policy.gradient_checkpointing():
        assert vars(layer)["forward"] is not hooked
    assert vars(layer)["forward"] is hooked


def test_a_model_without_layers_to_checkpoint_is_refused():
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32)
    policy.model.model.layers = torch.nn.ModuleList()
    with (
        pytest.raises(ValueError, match="gradient_checkpointing is True, but Qwen2ForCausalLM has no layers"),
        policy.gradient_checkpointing(),
    ):
        pass


def test_any_causal_lm_by_path(tmp_path):
    """A Llama with a chat template, which this test saves, is loaded from its folder."""
    tokenizer = character_tokenizer(ALPHABET + "<>")
    tokenizer.chat_template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    tiny_llama(tokenizer).save_pretrained(tmp_path)
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


@pytest.mark.parametrize("kind", ["missing", "empty", "without weights"])
def test_a_policy_that_cannot_be_loaded_is_named_with_the_cure(tmp_path, kind):
    folder = tmp_path / "model"
    if kind != "missing":
        folder.mkdir()
    if kind == "without weights":
        build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32).save(folder)
        (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=f"policy {folder} cannot be loaded; give a folder"):
        load_policy(folder)


def test_a_saved_policy_reads_every_character_as_before(tmp_path):
    """Spaces survive a save; AutoTokenizer alone would split the texts as Qwen's tokenizer does, and lose spaces."""
    policy = build_policy(ALPHABET, hidden_size=32, num_layers=1, feed_forward_size=32)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    texts = ["1 2  3=", " a", "abc 0"]
    tokens, mask = loaded.encode(texts)
    assert torch.equal(tokens, policy.encode(texts)[0])
    assert loaded.decode(tokens) == texts
    assert mask.sum(1).tolist() == [len(text) for text in texts]


def test_a_tilde_is_the_home_folder_and_an_address_is_refused(policy, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    policy.save("~/saved")
    assert load_policy("~/saved").tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    with pytest.raises(ValueError, match="path is s3://bucket/saved, which is not on this machine"):
        policy.save("s3://bucket/saved")
