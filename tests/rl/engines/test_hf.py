import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rl.engines.hf import HFEngine
from rl.finish import END_OF_SEQUENCE, STOP, finish_reasons
from rl.policy import Policy, build_policy
from rl.rollout import Sampling
from tests.support.tiny_llama import marked_policy

SAMPLING, GREEDY = Sampling(3), Sampling(3, temperature=0)
PROMPTS = ["123=", "4=", "55=", "9876="]


@pytest.fixture
def engine(policy):
    return HFEngine(policy)


def test_shapes_and_texts(engine, policy):
    out = engine.generate(PROMPTS, 5, SAMPLING, seed=0)
    assert out.group_size == 5
    assert out.tokens.shape == out.mask.shape == out.log_probs.shape
    assert out.tokens.shape[0] == len(out.texts) == 20
    assert out.tokens.shape[1] <= 3
    for tokens, mask, text in zip(out.tokens, out.mask, out.texts, strict=True):
        kept = tokens[mask]
        assert policy.tokenizer.decode(kept, skip_special_tokens=True) == text
        assert (kept[:-1] != policy.eos_token_id).all()
        assert (tokens[~mask] == policy.pad_token_id).all()


def test_log_probabilities_match_the_policy(engine, policy):
    """Compare the cached, grouped sampling loop with one plain forward pass."""
    for temperature in (1.0, 0.7):
        out = engine.generate(PROMPTS, 4, Sampling(3, temperature), seed=1)
        rows = torch.arange(len(PROMPTS)).repeat_interleave(4)
        with torch.no_grad():
            expected = policy.score(
                out.prompt_tokens[rows], out.prompt_mask[rows], out.tokens, out.mask, temperature=temperature
            ).log_probs
        torch.testing.assert_close(out.log_probs[out.mask], expected[out.mask], atol=1e-5, rtol=1e-4)
        assert (out.log_probs[~out.mask] == 0).all()


def test_sampling_follows_the_policy(engine, policy):
    out = engine.generate(["12="], 4000, Sampling(1), seed=0)
    with torch.no_grad():
        probabilities = policy.model(out.prompt_tokens).logits[0, -1].softmax(-1).numpy()
    counts = np.bincount(out.tokens[:, 0], minlength=len(probabilities))
    sigma = np.sqrt(4000 * probabilities * (1 - probabilities))
    assert (np.abs(counts - 4000 * probabilities) < 5 * sigma).all()


def test_greedy_equals_transformers_generate(engine, policy):
    out = engine.generate(PROMPTS, 1, GREEDY, seed=0)
    for i, prompt in enumerate(PROMPTS):
        tokens, mask = policy.encode([prompt])
        expected = policy.model.generate(tokens, attention_mask=mask, max_new_tokens=3, do_sample=False)
        kept = out.tokens[i][out.mask[i]]
        assert expected[0, tokens.shape[1] :][: len(kept)].tolist() == kept.tolist()


def test_the_seed_decides(engine):
    first, again, other = (engine.generate(PROMPTS, 4, SAMPLING, seed=seed) for seed in (0, 0, 1))
    assert first.texts == again.texts
    assert torch.equal(first.log_probs, again.log_probs)
    assert first.texts != other.texts


def test_generation_sees_the_current_weights(engine, policy):
    before = engine.generate(PROMPTS, 2, GREEDY, seed=0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    after = engine.generate(PROMPTS, 2, GREEDY, seed=0)
    assert before.texts != after.texts


@pytest.mark.parametrize("fault", ["missing", "shape", "another"])
def test_weights_that_do_not_fit_change_nothing(policy, fault):
    engine = HFEngine(policy)
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    weights = {name: weight + 1 for name, weight in before.items()}
    last = list(weights)[-1]
    if fault == "missing":
        del weights[last]
    else:
        weights[last if fault == "shape" else "another"] = torch.zeros(1)
    wrong = "another" if fault == "another" else last
    with pytest.raises(ValueError, match=f"weights do not fit the policy's at {wrong}"):
        engine.update_weights(weights)
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_copy_of_the_policy_takes_over_weights(policy):
    engine = HFEngine(Policy(copy.deepcopy(policy.model), policy.tokenizer))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    wanted = HFEngine(policy).generate(PROMPTS, 2, GREEDY, seed=0)
    assert engine.generate(PROMPTS, 2, GREEDY, seed=0).texts != wanted.texts
    engine.update_weights(policy.model.state_dict())
    assert engine.generate(PROMPTS, 2, GREEDY, seed=0).texts == wanted.texts
    before = [(p.data_ptr(), p.clone()) for p in policy.model.parameters()]
    HFEngine(policy).update_weights(policy.model.state_dict())  # these are its own weights, so nothing changes
    for parameter, (pointer, value) in zip(policy.model.parameters(), before, strict=True):
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, value)


def test_top_p_leaves_the_likeliest_tokens(engine, policy):
    """Compare the drawn tokens and their reported probabilities with a plain computation."""
    out = engine.generate(["12="], 2000, Sampling(1, temperature=0.5, top_p=0.6), seed=0)
    with torch.no_grad():
        probs = (policy.model(out.prompt_tokens).logits[0, -1] / 0.5).softmax(-1)
    kept, total = [], 0.0
    for token in probs.argsort(descending=True).tolist():
        kept.append(token)
        total += float(probs[token])
        if total >= 0.6:
            break
    assert set(out.tokens[:, 0].tolist()) == set(kept)
    assert 1 < len(kept) < len(probs)
    for token, log_prob in zip(out.tokens[:, 0].tolist(), out.log_probs[:, 0].tolist(), strict=True):
        assert math.isclose(log_prob, math.log(float(probs[token]) / total), abs_tol=1e-5)


@pytest.mark.parametrize("extreme", [{"temperature": 1e-6}, {"temperature": 1e300}, {"top_p": 1e-300}])
def test_extreme_sampling_draws_tokens(engine, extreme):
    """A small temperature or `top_p` leaves the likeliest token, though float32 holds no such `top_p`."""
    out = engine.generate(["12="], 4, Sampling(1, **extreme), seed=0)
    assert out.log_probs.isfinite().all()
    if extreme != {"temperature": 1e300}:
        greedy = engine.generate(["12="], 4, Sampling(1, temperature=0), seed=0)
        assert out.tokens.tolist() == greedy.tokens.tolist()


def test_a_stop_string_ends_a_completion_and_stays(policy):
    free = HFEngine(policy).generate(PROMPTS, 200, Sampling(8), seed=0)
    out = HFEngine(policy).generate(PROMPTS, 200, Sampling(8, stop=("3", "12")), seed=0)
    assert any(text.endswith(("3", "12")) for text in policy.decode(out.tokens))
    for text, tokens, mask in zip(policy.decode(out.tokens), out.tokens, out.mask, strict=True):
        assert "3" not in text[:-1]
        assert "12" not in text[:-1]
        stopped = text.endswith(("3", "12")) or tokens[mask][-1] == policy.eos_token_id
        assert stopped or int(mask.sum()) == 8
    assert any("3" in text[:-1] for text in policy.decode(free.tokens))


def test_a_special_token_may_end_a_completion():
    policy, stop = marked_policy(), ("<|im_end|>",)
    out = HFEngine(policy).generate(PROMPTS, 50, Sampling(8, stop=stop), seed=0)
    reasons = finish_reasons(out, policy.eos_token_ids, stop)
    last = out.mask.sum(1) - 1
    mark: Any = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    final = out.tokens.gather(1, last[:, None])[:, 0].numpy()
    np.testing.assert_array_equal(reasons == STOP, final == mark)
    assert int(torch.eq(out.tokens, mark).sum()) == int(np.sum(reasons == STOP)) > 20
    assert (reasons == END_OF_SEQUENCE).any()
    assert any("</think>" in str(text) for text in out.texts)
    assert not any("b" in str(text) for text in out.texts)


def test_chunks_cover_all_prompts(policy):
    out = HFEngine(policy, max_prompts=3).generate(PROMPTS * 2, 2, SAMPLING, seed=0)
    whole = HFEngine(policy).generate(PROMPTS * 2, 2, GREEDY, seed=0)
    assert len(out.texts) == len(whole.texts) == 16
    greedy = HFEngine(policy, max_prompts=3).generate(PROMPTS * 2, 2, GREEDY, seed=0)
    assert greedy.texts == whole.texts


@pytest.mark.parametrize(
    ("prompts", "group_size", "message"),
    [([], 1, "prompts is empty"), (PROMPTS, 0, "group_size is 0")],
)
def test_bad_requests_are_refused(engine, prompts, group_size, message):
    with pytest.raises(ValueError, match=message):
        engine.generate(prompts, group_size, SAMPLING, seed=0)


@pytest.mark.parametrize("size", [0, 2.5, True])
@pytest.mark.usefixtures("unchecked_types")
def test_a_bad_chunk_size_is_refused(policy, size):
    with pytest.raises(ValueError, match=f"max_prompts is {size}; give an integer of at least 1"):
        HFEngine(policy, max_prompts=size)


def test_a_seed_may_be_a_number_of_numpy(policy):
    seeds: list[Any] = [3, np.int64(3)]
    first, second = (HFEngine(policy).generate(PROMPTS, 2, SAMPLING, seed=seed) for seed in seeds)
    assert torch.equal(first.tokens, second.tokens)


def test_take_keeps_whole_groups(engine):
    out = engine.generate(PROMPTS, 3, SAMPLING, seed=0)
    part = out.take(torch.tensor([2, 0]))
    assert part.texts == out.texts[6:9] + out.texts[0:3]
    assert torch.equal(part.prompt_tokens, out.prompt_tokens[[2, 0]])
    assert part.group_size == 3
    assert not math.isnan(part.log_probs.sum())


def test_a_larger_model_in_half_precision_runs():
    policy = build_policy("0123456789=", hidden_size=64)
    policy.model.bfloat16()
    out = HFEngine(policy).generate(PROMPTS, 2, SAMPLING, seed=0)
    assert out.log_probs.dtype == torch.float32


@pytest.mark.parametrize("more", [3, [3, 4], [1, 5]])
def test_every_end_of_sequence_of_the_generation_config_ends_a_completion(policy, more):
    policy.model.generation_config.eos_token_id = more
    ends = set(policy.eos_token_ids)
    assert ends == {policy.eos_token_id} | set(more if isinstance(more, list) else [more])
    out = HFEngine(policy).generate(PROMPTS, 50, Sampling(8), seed=0)
    ended = set()
    for tokens, mask in zip(out.tokens, out.mask, strict=True):
        *before, last = tokens[mask].tolist()
        assert not ends & set(before)
        assert last in ends or int(mask.sum()) == out.mask.shape[1]
        ended |= ends & {last}
    assert ended == ends


@pytest.mark.parametrize("group_size", [True, 2.5, -1, None])
def test_a_group_size_that_is_no_count_is_refused(engine, group_size):
    with pytest.raises(ValueError, match="group_size is "):
        engine.generate(PROMPTS, group_size, SAMPLING, seed=0)


@pytest.mark.parametrize(
    "options",
    [{"temperature": math.inf}, {"temperature": math.nan}, {"temperature": -1}, {"top_p": math.nan}, {"top_p": 0}]
    + [{"max_new_tokens": value} for value in (0, 2.5, True, None)],
)
def test_sampling_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; give"):
        Sampling(**{"max_new_tokens": 3} | options)


class _Rounded(TorchDispatchMode):
    """Records the shape of every tensor that is rounded to bfloat16."""

    def __init__(self):
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.shapes.append(args[0].shape)
        return func(*args, **(kwargs or {}))


def test_bfloat16_rounds_each_weight_once_for_all_tokens(policy):
    rounded = Policy(policy.model, policy.tokenizer, "bfloat16")
    weight = policy.model.model.layers[0].mlp.up_proj.weight
    with _Rounded() as seen:
        out = HFEngine(rounded).generate(PROMPTS, 2, SAMPLING, seed=0)
    assert out.tokens.shape[1] == 3
    assert seen.shapes.count(weight.shape) == sum(
        parameter.shape == weight.shape for parameter in policy.model.parameters()
    )


def test_rollouts_within_a_callers_autocast_leave_gradients(policy):
    rounded = Policy(copy.deepcopy(policy.model), policy.tokenizer, "bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        HFEngine(rounded).generate(PROMPTS, 2, SAMPLING, seed=0)
        tokens, mask = rounded.encode(PROMPTS)
        rounded.forward(tokens, attention_mask=mask).logits.sum().backward()
    assert rounded.model.model.layers[0].mlp.up_proj.weight.grad is not None
