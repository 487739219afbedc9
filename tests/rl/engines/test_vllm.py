"""Tests of the real vLLM with a tiny random model; `make vllm` runs them in a separate environment."""

import random

import numpy as np
import pytest
import torch

from rl.engines._own_process import OwnProcess
from rl.engines.hf import HFEngine
from rl.engines.vllm import VLLMEngine
from rl.policy import Policy, build_policy, character_tokenizer
from rl.rollout import Sampling
from tests.support import vllm_lane
from tests.support.tiny_llama import marked_policy, tiny_llama
from tests.support.vllm_lane import disturbed, log_probs_of_policy

pytestmark = vllm_lane.MARKS

ALPHABET = "0123456789=+ "
LONG = "".join(str(i * i % 10) for i in range(200)) + "="  # longer than a block of the prefix cache, 128 tokens
PROMPTS = [LONG, *(f"{i}+{i * i}=" for i in range(31))]
GREEDY = Sampling(24, temperature=0)


@pytest.fixture(autouse=True)
def one_thread():
    """Override the fixture of `tests/rl/conftest.py`: vLLM sets torch's threads itself and refuses another number."""


def fresh_policy(seed: int = 0) -> Policy:
    policy = build_policy(ALPHABET, hidden_size=64, num_layers=2, feed_forward_size=128, seed=seed)
    disturbed(policy, 100, 0.1)  # the first weights are so small that all logits are almost equal
    return policy


def assert_parity(engine, policy):
    vllm_lane.assert_parity(engine, policy, PROMPTS)


def random_states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.fixture(scope="module", params=[True, False], ids=["own process", "in process"])
def pair(request):
    policy = fresh_policy()
    before = random_states()
    with VLLMEngine(policy, own_process=request.param) as engine:
        assert random_states() == before, "vLLM has seeded the trainer's generators"
        yield engine, policy


def test_parity_before_and_after_20_updates(pair):
    engine, policy = pair
    assert_parity(engine, policy)
    for seed in range(20):
        disturbed(policy, seed)
        engine.update_weights(policy.model.state_dict())
    assert_parity(engine, policy)


def test_the_engine_generates_with_the_weights_of_its_last_update(pair):
    """The updates change the output; otherwise parity after an update would prove nothing."""
    engine, policy = pair
    old = engine.generate(PROMPTS, 1, GREEDY, seed=0)
    disturbed(policy, 50)
    assert engine.generate(PROMPTS, 1, GREEDY, seed=0).texts == old.texts
    engine.update_weights(policy.model.state_dict())
    assert engine.generate(PROMPTS, 1, GREEDY, seed=0).texts != old.texts
    assert_parity(engine, policy)


def test_the_seed_decides(pair):
    engine, _ = pair
    state = torch.get_rng_state()
    first, again, other = (engine.generate(PROMPTS[:4], 8, Sampling(8), seed=seed) for seed in (0, 0, 1))
    assert first.texts == again.texts
    assert torch.equal(first.log_probs, again.log_probs)
    assert first.texts != other.texts
    assert len(set(first.texts[:8])) > 1  # completions of one prompt are different draws
    assert torch.equal(torch.get_rng_state(), state)


def test_a_completion_ends_with_the_end_of_sequence_or_a_stop_string(pair):
    engine, policy = pair
    out = engine.generate(PROMPTS, 8, Sampling(24, stop=("7", "12")), seed=0)
    ended, stopped = 0, 0
    for text, tokens, mask in zip(policy.decode(out.tokens), out.tokens, out.mask, strict=True):
        assert "7" not in text[:-1]
        assert "12" not in text[:-1]
        kept = tokens[mask]
        assert (kept[:-1] != policy.eos_token_id).all()
        assert (tokens[~mask] == policy.pad_token_id).all()
        ended += bool(kept[-1] == policy.eos_token_id)
        stopped += text.endswith(("7", "12"))
    assert ended > 0
    assert stopped > 0
    greedy = Sampling(24, temperature=0, stop=("7", "12"))
    theirs = HFEngine(policy).generate(PROMPTS, 1, greedy, seed=0)
    assert engine.generate(PROMPTS, 1, greedy, seed=0).texts == theirs.texts


def test_a_special_token_may_end_a_completion():
    policy, stop = marked_policy(), ("<|im_end|>", "=</think>")
    with VLLMEngine(policy) as engine:
        out = engine.generate(PROMPTS, 32, Sampling(24, stop=stop), seed=0)
        stopped = 0
        for text, tokens, mask in zip(policy.decode(out.tokens), out.tokens, out.mask, strict=True):
            kept = tokens[mask].tolist()
            if set(kept[:-1]) & policy.hidden_ids:
                continue  # vLLM shows such a token, so that no stop text reaches across it
            assert not [end for end in stop if end in text[:-1]]
            stopped += text.endswith(stop)
        assert stopped > 20
        greedy = Sampling(24, temperature=0, stop=stop)
        theirs = HFEngine(policy).generate(PROMPTS, 1, greedy, seed=0)
        assert engine.generate(PROMPTS, 1, greedy, seed=0).texts == theirs.texts


def test_truncated_sampling_reports_renormalised_probabilities(pair):
    """Probabilities of top-p sampling are renormalised over the likeliest tokens, so they exceed the policy's."""
    engine, policy = pair
    out = engine.generate(PROMPTS, 8, Sampling(1, top_p=0.5), seed=0)
    rows = torch.arange(len(PROMPTS)).repeat_interleave(8)
    with torch.no_grad():
        positions = (out.prompt_mask.cumsum(1) - 1).clamp_min(0)
        model = policy.model(out.prompt_tokens, attention_mask=out.prompt_mask, position_ids=positions)
    probs = model.logits[:, -1].softmax(-1)[rows]
    ordered, order = probs.sort(-1, descending=True)
    kept = ordered.cumsum(-1) - ordered < 0.5
    rank = order.argsort(-1).gather(1, out.tokens[:, :1])
    assert kept.gather(1, rank).all()
    expected = (probs.gather(1, out.tokens[:, :1]) / (ordered * kept).sum(-1, keepdim=True)).log()
    torch.testing.assert_close(out.log_probs[:, :1], expected, atol=1e-3, rtol=0)
    assert (out.log_probs > log_probs_of_policy(policy, out) + 1e-2).any()


def test_completions_that_time_out_are_missing(pair):
    engine, policy = pair
    engine._timeout = 1e-6
    try:
        assert engine.generate(PROMPTS, 2, GREEDY, seed=0).texts == [None] * 64
    finally:
        engine._timeout = None
    assert_parity(engine, policy)  # the aborted requests left nothing behind


def test_a_killed_process_comes_back_with_the_current_weights():
    policy = fresh_policy()
    with VLLMEngine(policy) as engine:
        disturbed(policy, 3)
        engine.update_weights(policy.model.state_dict())
        assert isinstance(engine._server, OwnProcess)
        engine._server._process.kill()
        assert_parity(engine, policy)


# Tests that each precaution of the engine is still needed: without it, vLLM gives a wrong result.


def test_vllm_silently_keeps_an_old_head(pair):
    """`named_parameters` names tied embeddings once, and vLLM's head keeps the old weights."""
    engine, policy = pair
    disturbed(policy, 60)
    with pytest.raises(ValueError, match=r"lm_head.weight; give its whole state_dict"):
        engine.update_weights(dict(policy.model.named_parameters()))
    # without the check of the engine
    engine._server.load({name: weight.detach() for name, weight in policy.model.named_parameters()})
    out = engine.generate(PROMPTS, 1, Sampling(24), seed=0)
    assert (out.log_probs - log_probs_of_policy(policy, out))[out.mask].abs().max() > 1e-2
    engine.update_weights(policy.model.state_dict())
    assert_parity(engine, policy)


@pytest.mark.parametrize("pair", [False], indirect=True, ids=["in process"])  # only here it can be patched
def test_a_prefix_cache_that_is_not_reset_is_stale(pair, monkeypatch):
    engine, policy = pair
    llm = engine._server._server._llm
    engine.generate([LONG], 1, GREEDY, seed=0)
    disturbed(policy, 70)
    with monkeypatch.context() as patch:
        patch.setattr(llm, "reset_prefix_cache", lambda: None)
        engine.update_weights(policy.model.state_dict())
    out = engine.generate([LONG], 1, Sampling(24), seed=0)
    assert (out.log_probs - log_probs_of_policy(policy, out))[out.mask].abs().max() > 1e-2
    engine.update_weights(policy.model.state_dict())
    assert_parity(engine, policy)


def test_an_update_that_fails_halfway_stops_generation(pair):
    engine, policy = pair
    disturbed(policy, 80)
    good = policy.model.state_dict()
    last = list(good)[-2]
    engine._shapes = engine._shapes | {last: torch.Size([3, 3])}  # bypasses the check; vLLM itself fails at this tensor
    with pytest.raises(Exception):  # noqa: B017, PT011 - vLLM may raise any error
        engine.update_weights(good | {last: torch.zeros(3, 3)})
    with pytest.raises(RuntimeError, match="failed halfway; update them"):
        engine.generate(PROMPTS, 1, GREEDY, seed=0)
    engine._shapes = {name: weight.shape for name, weight in good.items()}
    engine.update_weights(good)
    assert_parity(engine, policy)


def test_a_model_with_a_chat_template_in_half_precision():
    tokenizer = character_tokenizer(ALPHABET + "<|usr>\n")
    tokenizer.chat_template = "{% for m in messages %}<|u>{{ m['content'] }}\n{% endfor %}"
    model = tiny_llama(tokenizer, hidden_size=64, intermediate_size=64, max_position_embeddings=256).bfloat16().eval()
    policy = Policy(model, tokenizer)
    assert (policy.eos_token_id, policy.pad_token_id) == (1, 0)
    with VLLMEngine(policy) as engine:
        out = engine.generate(PROMPTS[1:5], 2, Sampling(6), seed=0)
        gap = (out.log_probs - log_probs_of_policy(policy, out))[out.mask].abs()
    assert tokenizer.decode(out.prompt_tokens[0][out.prompt_mask[0].bool()]) == "<|u>0+0=\n"
    assert gap.max() < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_weights_go_to_another_process_by_cuda_ipc():
    policy = fresh_policy()
    torch.nn.Module.cuda(policy.model)
    with VLLMEngine(policy, gpu_memory_utilization=0.3) as engine:
        assert_parity(engine, policy)
        for seed in range(20):
            disturbed(policy, seed)
            engine.update_weights(policy.model.state_dict())
        assert_parity(engine, policy)
