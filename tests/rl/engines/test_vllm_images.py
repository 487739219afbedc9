"""Prompts with images in the vLLM engine: with a stand-in for vLLM, and with vLLM itself in its own environment."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from rl.engines._vllm_server import Completion
from rl.engines.hf import HFEngine
from rl.engines.vllm import VLLMEngine
from rl.policy import load_policy
from rl.rollout import Sampling
from tests.rl.test_images import PROMPTS, scored
from tests.support.tiny_vision import tiny_vision

SAMPLING = Sampling(4)


@pytest.fixture(autouse=True)
def one_thread():
    """Override the fixture of `tests/rl/conftest.py`: vLLM sets torch's threads itself and refuses another number."""


class Recorder:
    """A server that keeps what it is given, and reads as many tokens per image as `counts` says."""

    counts: dict[bytes, int]

    def __init__(self, folder, options):
        config = json.loads(Path(folder, "config.json").read_text())
        self.options, self.architectures = options, config["architectures"]
        self.files = {path.name for path in Path(folder).iterdir()}

    def generate(self, requests, sampling, eos_token_ids, timeout):
        self.requests = list(requests)
        return [Completion([5], [-0.5], self._read(request)) for request in requests]

    def _read(self, request):
        counts = iter([self.counts[image.tobytes()] for image in request.images])
        mark = request.never[0]
        read = [t for token in request.prompt for t in ([token] * next(counts) if token == mark else [token])]
        return read if request.images else None

    def load(self, weights):
        self.names = {name for name, _ in weights}

    def close(self):
        pass


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr("rl.engines.vllm.Server", Recorder)
    engines = []

    def make_engine(policy):
        engines.append(VLLMEngine(policy, own_process=False))
        return engines[-1], engines[-1]._server._server

    yield make_engine
    for engine in engines:
        engine.close()


def counts_of(policy):
    """Return the number of tokens of each image, by its pixels."""
    from rl.prompts.images import decoded

    counts = {}
    for prompt in PROMPTS:
        for part in prompt[0]["content"] if isinstance(prompt, list) else []:
            if part["type"] == "image":
                message = [{"role": "user", "content": [part]}]
                counts[decoded(part).tobytes()] = int(
                    (policy.read([message]).tokens == policy.placeholder_ids[0]).sum()
                )
    return counts


def test_vllm_gets_one_token_per_image_and_the_image(make):
    """vLLM itself replaces this token by those of the image, and must arrive at the tokens that the policy reads."""
    policy: Any = tiny_vision("qwen2_5_vl")
    engine, server = make(policy)
    server.counts = counts_of(policy)
    out = engine.generate(PROMPTS, 2, SAMPLING, seed=0)
    mark = policy.placeholder_ids[0]
    assert [request.prompt.count(mark) for request in server.requests] == [1, 1, 0, 0, 2, 2, 1, 1]
    assert [[image.size for image in request.images] for request in server.requests[::2]] == [
        [(24, 16)],
        [],
        [(40, 16), (60, 60)],
        [(60, 60)],
    ]
    assert all(request.never == policy.placeholder_ids for request in server.requests)
    assert len({request.seed for request in server.requests}) == 8
    assert [bool(one) for one in out.media] == [True, False, True, True]
    expected = policy.read(PROMPTS)
    assert torch.equal(out.prompt_tokens, expected.tokens)
    with torch.no_grad():
        assert scored(policy, out).log_probs.isfinite().all()


def test_prompts_that_vllm_reads_otherwise_are_refused(make):
    policy: Any = tiny_vision("qwen2_5_vl")
    engine, server = make(policy)
    server.counts = {pixels: count + 1 for pixels, count in counts_of(policy).items()}
    with pytest.raises(RuntimeError, match="read 31 tokens in row 0 of the prompts, and the policy reads 30 or"):
        engine.generate(PROMPTS, 1, SAMPLING, seed=0)


def test_texts_alone_are_asked_for_as_before(make):
    policy: Any = tiny_vision("qwen2_5_vl")
    engine, server = make(policy)
    out = engine.generate(["12="], 2, SAMPLING, seed=0)
    assert out.media is None
    assert [request.images for request in server.requests] == [[], []]
    assert server.requests[0].prompt == policy.read(["12="]).tokens[0].tolist()


def test_vllm_finds_the_processor_the_class_and_the_names_of_the_files(make, tmp_path):
    """Transformers renames the weights of some families when it reads their files; vLLM knows the files' names."""
    tiny_vision("gemma3").save(tmp_path)
    _, server = make(load_policy(tmp_path))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert server.names >= set(file.keys())
    assert server.architectures == ["Gemma3ForConditionalGeneration"]
    assert {"processor_config.json", "chat_template.jinja", "tokenizer.json"} <= server.files
    assert server.options["mm_device_do_normalize"] is False


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM in this environment; see `make vllm`")
@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None,
    reason="vLLM's models of Qwen need torchvision, and pip has no build of it for torch without CUDA",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("kind", "own_process"), [("qwen2_5_vl", True), ("qwen3_vl", False)])
def test_both_engines_agree_before_and_after_an_update(kind, own_process):
    """The update changes the weights that read images, so that vectors of images in vLLM's cache would be stale."""
    policy, greedy = tiny_vision(kind), Sampling(8, temperature=0)
    generator = torch.Generator().manual_seed(0)
    with VLLMEngine(policy, own_process=own_process, max_model_len=512) as engine:
        for _ in range(2):
            ours, theirs = (one.generate(PROMPTS, 1, greedy, seed=0) for one in (engine, HFEngine(policy)))
            assert ours.texts == theirs.texts
            out = engine.generate(PROMPTS, 4, Sampling(8), seed=1)
            with torch.no_grad():
                gap = (scored(policy, out).log_probs - out.log_probs)[out.mask].abs().max()
                assert gap < 1e-4
                for weight in policy.model.parameters():
                    weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
            engine.update_weights(policy.model.state_dict())
