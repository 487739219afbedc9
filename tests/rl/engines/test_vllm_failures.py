"""The vLLM engine when vLLM fails, dies, hangs or is late. A fake server stands in for vLLM."""

import os

import numpy as np
import pytest
import torch
from torch import multiprocessing

import rl.engines._own_process as own_process
from rl.engines.vllm import VLLMEngine
from rl.groups import judge
from rl.preemption import SIGNALS, PreemptedError, Preemption
from rl.prompts import Verdict
from rl.rollout import Sampling
from tests.support.fake_server import FakeServer
from tests.support.warm_processes import SPAWNING

pytestmark = pytest.mark.slow
PROMPTS = ["12=", "3=", "456="]
SAMPLING = Sampling(4)


@pytest.fixture
def make(policy, monkeypatch):
    monkeypatch.setattr("rl.engines.vllm.Server", FakeServer)
    monkeypatch.setattr(own_process, "multiprocessing", SPAWNING)
    monkeypatch.setattr(own_process, "_GRACE", 1.0)
    engines: list[VLLMEngine] = []

    def make_engine(trouble="", times=0, own=True, timeout: float | None = 0.5):
        """Return an engine whose server has the trouble in its first `times` calls, and draws token 5."""
        engines.append(VLLMEngine(policy, own_process=own, timeout=timeout, trouble=trouble, times=times))
        engines[-1].update_weights(head_of(policy, 5))
        return engines[-1]

    yield make_engine
    for engine in engines:
        engine.close()


def process_of(engine: VLLMEngine):
    assert isinstance(engine._server, own_process.OwnProcess)
    return engine._server._process


def head_of(policy, token):
    """Return the policy's weights with a head of which every weight is `token`, which the fake server then draws."""
    weights = dict(policy.model.state_dict())
    return weights | {"lm_head.weight": torch.full_like(weights["lm_head.weight"], token)}


def test_completions_come_back_with_tokens_log_probabilities_and_texts(make, policy, monkeypatch):
    monkeypatch.setattr(own_process, "multiprocessing", multiprocessing)  # by spawn, as in a run
    out = make().generate(PROMPTS, 2, SAMPLING, seed=0)
    assert out.group_size == 2
    assert out.tokens.tolist() == [[5, policy.eos_token_id]] * 6
    assert out.mask.all()
    assert out.log_probs.tolist() == [[-0.5, -0.25]] * 6
    assert out.texts == policy.decode(out.tokens)
    greedy = make().generate(PROMPTS, 2, Sampling(4, temperature=0), seed=0)
    assert (greedy.log_probs == 0).all()


@pytest.mark.parametrize(
    ("device", "visible", "wanted"),
    [("cuda:2", "", "2"), ("cuda", "", "0"), ("cuda:1", "4, 6", "6"), ("cuda:0", "GPU-ab,GPU-cd", "GPU-ab")],
)
def test_the_server_sees_the_gpu_of_the_policy_alone(device, visible, wanted):
    """Otherwise the servers of several processes (ranks) on one node would all take the first GPU."""
    assert own_process.visible_gpu(torch.device(device), visible) == wanted


def test_every_end_of_sequence_is_passed_to_the_server(make, policy):
    policy.model.generation_config.eos_token_id = [1, 7]
    out = make(own=False).generate(PROMPTS, 1, SAMPLING, seed=0)
    assert policy.eos_token_ids == (1, 7)
    assert out.tokens[:, -1].tolist() == [7] * 3  # the fake server ends with the last end of sequence that it receives


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("trouble", ["raise", "slow"])
def test_failed_requests_are_drawn_again(make, trouble, own):
    engine = make(trouble, times=1, own=own)
    assert None not in engine.generate(PROMPTS, 2, SAMPLING, seed=0).texts


@pytest.mark.parametrize("own", [True, False])
def test_a_signal_ends_a_generation_that_may_be_interrupted(make, own, monkeypatch):
    """The completions are not drawn again, and the engine goes on."""
    engine = make(own=own)
    server, name = (engine._server, "_receive") if own else (engine._server._server, "generate")
    answered, calls = getattr(server, name), []

    def asked(*arguments):
        calls.append(arguments)
        os.kill(os.getpid(), SIGNALS[-1])
        return answered(*arguments)

    monkeypatch.setattr(server, name, asked)
    with Preemption() as preemption, pytest.raises(PreemptedError), preemption.interrupting():
        engine.generate(PROMPTS, 2, SAMPLING, seed=0)
    assert len(calls) == 1
    monkeypatch.undo()
    assert None not in engine.generate(PROMPTS, 2, SAMPLING, seed=0).texts


def test_a_signal_that_asks_the_trainer_to_stop_does_not_end_the_process(make):
    engine = make()
    process = process_of(engine)
    assert process.pid is not None
    for number in SIGNALS:
        os.kill(process.pid, number)
    assert None not in engine.generate(PROMPTS, 2, SAMPLING, seed=0).texts
    assert process_of(engine) is process


@pytest.mark.parametrize("trouble", ["die", "hang"])
def test_a_process_that_dies_or_hangs_is_started_again_with_the_current_weights(make, policy, trouble):
    engine = make(trouble, times=1)
    engine.update_weights(head_of(policy, 7))
    out = engine.generate(PROMPTS, 2, SAMPLING, seed=0)
    assert set(out.tokens[:, 0].tolist()) == {7}


def test_a_process_killed_between_calls_is_started_again(make):
    engine = make()
    process_of(engine).kill()
    assert None not in engine.generate(PROMPTS, 2, SAMPLING, seed=0).texts


def test_a_process_killed_before_an_update_is_started_again(make, policy):
    engine = make()
    process_of(engine).kill()
    engine.update_weights(head_of(policy, 7))
    assert engine.generate(PROMPTS, 2, SAMPLING, seed=0).tokens[0, 0] == 7


def test_a_new_process_has_the_weights_that_were_given_last(make, policy):
    """The new process starts with the last loaded weights, not with the trainer's current tensors."""
    engine = make()
    weights = head_of(policy, 7)
    engine.update_weights(weights)
    weights["lm_head.weight"].fill_(9)
    process_of(engine).kill()
    assert engine.generate(PROMPTS, 2, SAMPLING, seed=0).tokens[0, 0] == 7


def test_an_interrupted_call_leaves_no_answer_to_the_next_one(make, policy, monkeypatch):
    engine = make()
    assert isinstance(engine._server, own_process.OwnProcess)
    pipe = engine._server._pipe

    class Interrupted:
        send, recv = pipe.send, pipe.recv

        def poll(self, wait):
            raise KeyboardInterrupt

    monkeypatch.setattr(engine._server, "_pipe", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS[:1], 1, SAMPLING, seed=0)
    monkeypatch.setattr(engine._server, "_pipe", pipe)
    assert len(engine.generate(PROMPTS, 2, SAMPLING, seed=0).texts) == 6
    engine.update_weights(head_of(policy, 6))
    assert engine.generate(PROMPTS, 2, SAMPLING, seed=0).tokens[0, 0] == 6


@pytest.mark.parametrize("own", [True, False])
def test_a_closed_engine_stays_closed(make, policy, own):
    engine = make(own=own)
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="is closed; make a new one"):
        engine.generate(PROMPTS, 1, SAMPLING, seed=0)
    with pytest.raises(RuntimeError, match="is closed; make a new one"):
        engine.update_weights(policy.model.state_dict())


@pytest.mark.parametrize("trouble", ["raise", "die"])
def test_requests_that_fail_twice_are_missing(make, task, trouble):
    engine = make(trouble, times=2)
    out = engine.generate(PROMPTS, 2, SAMPLING, seed=0)
    assert out.texts == [None] * 6
    assert not out.mask.any()
    groups = judge(task._replace(verify=lambda *_: Verdict(True, 1.0)), task.pool(3, 0), np.arange(3), out)
    assert groups.group_size.tolist() == [0, 0, 0]
    assert groups.rewards.isnan().all()
    assert None not in engine.generate(PROMPTS, 2, SAMPLING, seed=0).texts  # and the engine still works


def test_only_late_completions_are_missing(make, task, policy):
    out = make("slow", times=2).generate(PROMPTS, 4, SAMPLING, seed=0)
    missing = [text is None for text in out.texts]
    # Every second of twelve requests is late. These six are drawn again, and every second of them is late again.
    assert missing == [i in (0, 4, 8) for i in range(12)]
    assert out.mask.any(1).tolist() == [not late for late in missing]
    groups = judge(task._replace(verify=lambda *_: Verdict(False, 0.0)), task.pool(3, 0), np.arange(3), out)
    assert groups.group_size.tolist() == [3, 3, 3]


def test_an_update_that_fails_halfway_stops_generation(make, policy):
    engine = make(own=False)
    with pytest.raises(ValueError, match="lm_head"):
        engine.update_weights(dict(policy.model.named_parameters()))
    assert None not in engine.generate(PROMPTS, 1, SAMPLING, seed=0).texts  # the update was refused and changed nothing
    broken = head_of(policy, 5)
    broken["lm_head.weight"] = torch.full_like(broken["lm_head.weight"], torch.nan)  # no token for the fake server
    with pytest.raises(ValueError, match="NaN"):
        engine.update_weights(broken)
    with pytest.raises(RuntimeError, match="failed halfway; update them"):
        engine.generate(PROMPTS, 1, SAMPLING, seed=0)
    engine.update_weights(head_of(policy, 6))
    assert engine.generate(PROMPTS, 1, SAMPLING, seed=0).tokens[0, 0] == 6


def test_weights_of_another_shape_are_refused(make, policy):
    weights = dict(policy.model.state_dict()) | {"model.norm.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"weights do not fit the policy's at model.norm.weight; give its whole"):
        make().update_weights(weights)


def test_the_process_ends_with_the_engine(make):
    engine = make()
    process = process_of(engine)
    engine.close()
    assert process.exitcode is not None


def test_a_server_that_does_not_start_gives_the_reason(make):
    with pytest.raises(RuntimeError, match="no such model"):
        make("no start")


@pytest.mark.parametrize(
    ("prompts", "group_size", "message"),
    [
        ([], 1, "prompts is empty"),
        (["1="], 0, "group_size is 0"),
        (["1" * 253], 1, "253 tokens in row 0.*max_model_len"),
    ],
)
def test_bad_requests_are_refused(make, prompts, group_size, message):
    with pytest.raises(ValueError, match=message):
        make(own=False).generate(prompts, group_size, SAMPLING, seed=0)


def test_a_temperature_that_vllm_would_change_is_refused(make):
    with pytest.raises(ValueError, match=r"temperature is 0\.005, which vLLM raises to 0\.01; give 0 or"):
        make(own=False).generate(PROMPTS, 1, Sampling(4, temperature=0.005), seed=0)


def test_several_gpus_per_engine_are_refused(policy):
    with pytest.raises(ValueError, match="tensor_parallel_size is 2; give 1"):
        VLLMEngine(policy, tensor_parallel_size=2)


def test_a_bad_timeout_is_refused(make):
    with pytest.raises(ValueError, match="timeout is 0; give seconds above 0"):
        make(timeout=0)
