"""The Hugging Face engine with all kinds of cache: attention, sliding windows, convolutions, recurrent states, none."""

from typing import Any

import pytest
import torch
from tokenizers import normalizers

from rl.engines.hf import HFEngine
from rl.rollout import Sampling
from tests.support.tiny_models import ARCHITECTURES, tiny_model

PROMPTS = ["123=", "4=", "9876543210=", "55="]
N = 3


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_sampled_log_probabilities_match_each_row_alone_and_scoring(kind):
    """Compare with a forward pass of each row alone, which has neither padding nor a cache."""
    policy = tiny_model(kind)
    out = HFEngine(policy).generate(PROMPTS, N, Sampling(6), seed=0)
    rows = torch.arange(len(PROMPTS)).repeat_interleave(N)
    arguments = (out.prompt_tokens[rows], out.prompt_mask[rows], out.tokens, out.mask)
    for share_prompts in (False, True):
        with torch.no_grad():
            scored = policy.score(*arguments, share_prompts=share_prompts).log_probs
        torch.testing.assert_close(scored[out.mask], out.log_probs[out.mask], atol=1e-5, rtol=0)
    for row, prompt in enumerate(rows):
        kept, read = out.tokens[row][out.mask[row]], out.prompt_tokens[prompt][out.prompt_mask[prompt].bool()]
        with torch.no_grad():
            logits = policy.model(torch.cat([read, kept])[None], use_cache=False).logits[0, len(read) - 1 : -1]
        alone = logits.log_softmax(-1).gather(1, kept[:, None])[:, 0]
        torch.testing.assert_close(alone, out.log_probs[row][out.mask[row]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["rwkv", "recurrent_gemma"])
def test_prompts_of_one_length_are_read_together_where_the_model_reads_padding(kind):
    """The engine and `policy.score` keep the order of the prompts, and gradients of the scores reach the weights."""
    policy = tiny_model(kind)
    assert not policy.masks_padding
    out = HFEngine(policy, max_prompts=1).generate(PROMPTS, N, Sampling(4, temperature=0), seed=0)
    for i, prompt in enumerate(PROMPTS):
        alone = HFEngine(policy).generate([prompt], 1, Sampling(4, temperature=0), seed=0)
        assert out.texts[N * i : N * (i + 1)] == alone.texts * N
    mask = out.prompt_mask.repeat_interleave(N, 0)
    scores = policy.score(out.prompt_tokens.repeat_interleave(N, 0), mask, out.tokens, out.mask)
    assert scores.hidden.shape[:2] == out.tokens.shape
    scores.log_probs[out.mask].sum().backward()
    assert all(p.grad is not None for p in policy._output_layer.parameters())


@pytest.mark.parametrize("kind", ["qwen2", "mamba2"])
def test_a_model_that_masks_padding_reads_all_prompts_at_once(kind):
    assert tiny_model(kind).masks_padding


def test_a_model_without_a_cache_gives_the_same_completions(monkeypatch):
    policy = tiny_model("qwen2")
    expected = HFEngine(policy).generate(PROMPTS, N, Sampling(5), seed=0)
    monkeypatch.setattr("rl.engines.hf.take_cache", lambda output: {})
    out = HFEngine(policy).generate(PROMPTS, N, Sampling(5), seed=0)
    assert out.texts == expected.texts
    torch.testing.assert_close(out.log_probs, expected.log_probs, atol=1e-5, rtol=0)


def test_every_end_of_the_generation_configuration_ends_a_completion():
    policy = tiny_model("llama")
    free = HFEngine(policy).generate(PROMPTS, 20, Sampling(12), seed=0)
    five = policy.encode(["5"])[0].item()
    assert five in free.tokens
    policy.model.generation_config.eos_token_id = [policy.eos_token_id, five]
    assert policy.eos_token_ids == (policy.eos_token_id, five)
    out = HFEngine(policy).generate(PROMPTS, 20, Sampling(12), seed=0)
    ended = 0
    for tokens, mask in zip(out.tokens, out.mask, strict=True):
        assert not torch.isin(tokens[mask][:-1], torch.tensor(policy.eos_token_ids)).any()
        ended += int(tokens[mask][-1] == five)
    assert ended > 0


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, (1,)), (1, (1,)), (4, (1, 4)), ([4, 0], (0, 1, 4)), (-1, (1,))]
)
def test_ends_of_sequence(configured, expected):
    policy = tiny_model("llama")
    policy.model.generation_config.eos_token_id = configured
    assert policy.eos_token_ids == expected


def test_padding_may_be_the_end_of_sequence():
    """A completion holds the end of sequence once. All later positions are padding, although their token is equal."""
    policy = tiny_model("llama")
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    out = HFEngine(policy).generate(PROMPTS, 20, Sampling(12), seed=0)
    assert policy.pad_token_id in policy.eos_token_ids
    assert (out.mask.sum(1) < out.tokens.shape[1]).any()
    for tokens, mask in zip(out.tokens, out.mask, strict=True):
        assert (tokens[mask][:-1] != policy.pad_token_id).all()
        assert (tokens[~mask] == policy.pad_token_id).all()
        assert tokens[mask][-1] == policy.pad_token_id or mask.all()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompts has an empty text in row 1; leave the row out"),
        ("1\ud800", r"prompts has the lone surrogate '\\ud800' in row 1"),
        (None, "prompts has a value of type NoneType in row 1; give text"),
        ("1" * 62, "prompts has 62 tokens in row 1, which with max_new_tokens=3 exceeds the limit of 64"),
    ],
)
def test_a_prompt_that_the_model_cannot_read_is_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        HFEngine(tiny_model("qwen2")).generate(["1=", prompt], 2, Sampling(3), seed=0)


def test_a_prompt_as_long_as_the_model_allows_is_completed():
    assert HFEngine(tiny_model("gpt2")).generate(["1" * 61], 2, Sampling(3), seed=0).mask.any()


def test_a_prompt_without_tokens_is_refused():
    policy = tiny_model("qwen2")
    tokenizer: Any = policy.tokenizer
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    with pytest.raises(ValueError, match="prompts has no tokens in row 1"):
        policy.encode(["1=", "xx"])


def test_a_model_without_a_limit_takes_long_prompts():
    policy = tiny_model("mamba")
    config: Any = policy.model.config
    del config.max_position_embeddings
    assert policy.max_length is None
    assert HFEngine(policy).generate(["1" * 80], 1, Sampling(2), seed=0).mask.any()
