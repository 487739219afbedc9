from dataclasses import replace

import pytest
import torch

from rl import warm_start as module
from rl.warm_start import WarmStartConfig, warm_start

CONFIG = WarmStartConfig(hidden_size=32, num_layers=1, feed_forward_size=32, steps=150, batch_size=32, seed=1)


def weights(policy):
    return policy.model.state_dict()["model.embed_tokens.weight"]


def test_warm_start_imitates_and_reads_the_cache_the_second_time(task, tmp_path, monkeypatch):
    first = warm_start(task, CONFIG, cache=tmp_path, progress=False)
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("trained again"))
    second = warm_start(task, CONFIG, cache=tmp_path, progress=False)
    assert torch.equal(weights(first), weights(second))
    tokens, mask = first.encode(["77="])
    with torch.no_grad():
        likely = first.model(tokens, attention_mask=mask).logits[0, -1].argmax()
    assert first.decode(likely[None, None])[0] in list("0123456789")


def test_another_configuration_is_another_policy(task, tmp_path):
    short = replace(CONFIG, steps=3)
    one = warm_start(task, short, cache=tmp_path, progress=False)
    other = warm_start(task, replace(short, seed=2), cache=tmp_path, progress=False)
    assert not torch.equal(weights(one), weights(other))
    renamed = task._replace(demonstrations=lambda seed: task.demonstrations(seed + 5))
    warm_start(renamed, short, cache=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 3


def test_training_is_deterministic(task, tmp_path):
    short = replace(CONFIG, steps=10)
    one = warm_start(task, short, cache=tmp_path / "one", progress=False)
    same = warm_start(task, short, cache=tmp_path / "same", progress=False)
    assert torch.equal(weights(one), weights(same))


def test_an_interrupted_write_leaves_no_file(task, tmp_path, monkeypatch):
    short = replace(CONFIG, steps=2)
    monkeypatch.setattr(module.Policy, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        warm_start(task, short, cache=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    warm_start(task, short, cache=tmp_path, progress=False)


def test_a_last_step_that_leaves_infinite_weights_is_not_cached(task, tmp_path):
    with pytest.raises(ValueError, match=r"embed_tokens.weight is NaN or infinite in places, so .* is not written"):
        warm_start(task, replace(CONFIG, steps=1, learning_rate=1e41), cache=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path))
    assert module.cache_root() == tmp_path


def test_a_learning_rate_that_is_too_large_is_named_and_nothing_is_cached(task, tmp_path):
    config = WarmStartConfig(32, 1, 32, steps=80, batch_size=4, learning_rate=1e4)
    with pytest.raises(ValueError, match=r"norm of warm-start step \d+ is nan; lower warm_start.learning_rate"):
        warm_start(task, config, cache=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
