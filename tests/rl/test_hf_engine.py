import math

import numpy as np
import pytest
import torch

from rl.engines.hf import HFEngine
from rl.policy import build_policy

OPTIONS = {"max_new_tokens": 3, "temperature": 1.0, "seed": 0}
PROMPTS = ["123=", "4=", "55=", "9876="]


@pytest.fixture
def engine(policy):
    return HFEngine(policy)


def test_shapes_and_texts(engine, policy):
    out = engine.generate(PROMPTS, 5, **OPTIONS)
    assert out.group_size == 5
    assert out.tokens.shape == out.mask.shape == out.log_probs.shape
    assert out.tokens.shape[0] == len(out.texts) == 20
    assert out.tokens.shape[1] <= 3
    for tokens, mask, text in zip(out.tokens, out.mask, out.texts, strict=True):
        kept = tokens[mask]
        assert policy.tokenizer.decode(kept, skip_special_tokens=True) == text
        assert (kept[:-1] != policy.eos_token_id).all()
        assert (tokens[~mask] == policy.pad_token_id).all()


def test_log_probabilities_are_those_of_the_policy(engine, policy):
    """The cached, grouped sampling loop against one plain forward pass."""
    for temperature in (1.0, 0.7):
        out = engine.generate(PROMPTS, 4, max_new_tokens=3, temperature=temperature, seed=1)
        rows = torch.arange(len(PROMPTS)).repeat_interleave(4)
        with torch.no_grad():
            expected = policy.token_log_probs(
                out.prompt_tokens[rows], out.prompt_mask[rows], out.tokens, out.mask, temperature=temperature
            )
        torch.testing.assert_close(out.log_probs[out.mask], expected[out.mask], atol=1e-5, rtol=1e-4)
        assert (out.log_probs[~out.mask] == 0).all()


def test_sampling_follows_the_policy(engine, policy):
    out = engine.generate(["12="], 4000, max_new_tokens=1, temperature=1.0, seed=0)
    with torch.no_grad():
        probabilities = policy.model(out.prompt_tokens).logits[0, -1].softmax(-1).numpy()
    counts = np.bincount(out.tokens[:, 0], minlength=len(probabilities))
    sigma = np.sqrt(4000 * probabilities * (1 - probabilities))
    assert (np.abs(counts - 4000 * probabilities) < 5 * sigma).all()


def test_greedy_equals_transformers_generate(engine, policy):
    out = engine.generate(PROMPTS, 1, max_new_tokens=3, temperature=0, seed=0)
    for i, prompt in enumerate(PROMPTS):
        tokens, mask = policy.encode([prompt])
        expected = policy.model.generate(tokens, attention_mask=mask, max_new_tokens=3, do_sample=False)
        kept = out.tokens[i][out.mask[i]]
        assert expected[0, tokens.shape[1] :][: len(kept)].tolist() == kept.tolist()


def test_the_seed_decides(engine):
    first, again, other = (engine.generate(PROMPTS, 4, **{**OPTIONS, "seed": seed}) for seed in (0, 0, 1))
    assert first.texts == again.texts
    assert torch.equal(first.log_probs, again.log_probs)
    assert first.texts != other.texts


def test_generation_sees_the_current_weights(engine, policy):
    before = engine.generate(PROMPTS, 2, max_new_tokens=3, temperature=0, seed=0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    after = engine.generate(PROMPTS, 2, max_new_tokens=3, temperature=0, seed=0)
    assert before.texts != after.texts


def test_chunks_cover_all_prompts(policy):
    out = HFEngine(policy, max_prompts=3).generate(PROMPTS * 2, 2, **OPTIONS)
    whole = HFEngine(policy).generate(PROMPTS * 2, 2, max_new_tokens=3, temperature=0, seed=0)
    assert len(out.texts) == len(whole.texts) == 16
    greedy = HFEngine(policy, max_prompts=3).generate(PROMPTS * 2, 2, max_new_tokens=3, temperature=0, seed=0)
    assert greedy.texts == whole.texts


@pytest.mark.parametrize(
    ("prompts", "group_size", "options", "message"),
    [
        ([], 1, {}, "prompts is empty"),
        (PROMPTS, 0, {}, "group_size 0"),
        (PROMPTS, 1, {"max_new_tokens": 0}, "max_new_tokens 0"),
        (PROMPTS, 1, {"temperature": -1.0}, "temperature -1.0"),
    ],
)
def test_bad_input(engine, prompts, group_size, options, message):
    with pytest.raises(ValueError, match=message):
        engine.generate(prompts, group_size, **(OPTIONS | options))


def test_bad_chunk_size(policy):
    with pytest.raises(ValueError, match="max_prompts is 0"):
        HFEngine(policy, max_prompts=0)


def test_take_keeps_whole_groups(engine):
    out = engine.generate(PROMPTS, 3, **OPTIONS)
    part = out.take(torch.tensor([2, 0]))
    assert part.texts == out.texts[6:9] + out.texts[0:3]
    assert torch.equal(part.prompt_tokens, out.prompt_tokens[[2, 0]])
    assert part.group_size == 3
    assert not math.isnan(part.log_probs.sum())


def test_a_larger_model_in_half_precision_runs():
    policy = build_policy("0123456789=", hidden_size=64)
    policy.model.bfloat16()
    out = HFEngine(policy).generate(PROMPTS, 2, **OPTIONS)
    assert out.log_probs.dtype == torch.float32
