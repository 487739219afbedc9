import json
import string

import numpy as np
import pytest

from experiments import policy_embeddings
from experiments.policy_embeddings import correlation, success_rates
from experiments.running.tasks import make_task
from rl.engines.hf import HFEngine
from rl.policy import build_policy
from rl.prompts import Verdict

TRAINED = [
    f"{states}{more}, trained" for states in ("states of the start", "new states") for more in ("", " and wordllama")
]
RNG = np.random.default_rng(0)


def test_informative_features_rank_the_prompts_and_noise_does_not():
    rates = RNG.uniform(size=300)
    noise = RNG.normal(size=(300, 5))
    told = np.concatenate([noise, 1000 + 5 * rates[:, None] + RNG.normal(scale=0.1, size=(300, 1))], 1)
    assert correlation(told, rates) > 0.95
    assert abs(correlation(noise, rates)) < 0.25  # 4 standard errors


def test_rates_are_the_shares_of_correct_completions_in_the_order_of_the_pool(monkeypatch):
    monkeypatch.setattr(policy_embeddings, "_AT_ONCE", 3)
    task = make_task("string_ops")
    pool = task.pool(8, 0)
    policy = build_policy(task.alphabet, hidden_size=32, num_layers=1)
    known = {answer: i for i, answer in enumerate(pool.answers)}
    graded = task._replace(verify=lambda _, answer: Verdict(known[answer] % 2 == 0, 0.0))
    assert len(known) == 8
    assert success_rates(graded, HFEngine(policy), pool, 2).tolist() == [1, 0] * 4


@pytest.mark.slow
def test_the_command_line_measures_the_embeddings(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path / "cache"))
    arguments = ["--tasks", "string_ops", "--seeds", "0", "1", "--prompts", "40", "--rollouts", "2"]
    arguments += ["--warm-start-steps", "2", "--results", str(tmp_path), "--train-steps", "1"]
    policy_embeddings.main([*arguments, "--set", "train.group_size=2", "held_out_size=4", "probe_size=4"])
    found = json.loads((tmp_path / "policy_embeddings.json").read_text())["tasks"]["string_ops"]
    printed = capsys.readouterr().out
    kernels = ("policy and kernel features", "both and kernel features")
    for name in ("wordllama", "policy, layer 1", "policy, layer 2", "policy, last layer", "both", *kernels, *TRAINED):
        assert len(found[name]["per_seed"]) == 2
        assert name in printed
    assert found["policy_seconds"]["mean"] > 0


@pytest.mark.slow
def test_a_policy_in_a_folder_and_difficulties_are_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path / "cache"))
    build_policy(string.printable, hidden_size=32, num_layers=1).save(tmp_path / "policy")
    arguments = ["--tasks", "word_problems", "--seeds", "0", "--prompts", "40", "--rollouts", "2", "--pretrained"]
    settings = [f"policy={tmp_path}/policy", "fine_tuning.steps=0", "data.max_new_tokens=4"]
    policy_embeddings.main([*arguments, "--results", str(tmp_path), "--name", "difficulty", "--set", *settings])
    found = json.loads((tmp_path / "difficulty.json").read_text())["tasks"]["word_problems"]
    assert {"difficulty", "wordllama", "policy, last layer", "both"} <= found.keys()
    assert "policy, layer 1" not in found
