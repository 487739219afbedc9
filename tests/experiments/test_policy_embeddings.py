import json

import numpy as np
import pytest

from experiments import policy_embeddings
from experiments.policy_embeddings import correlation, success_rates
from experiments.running.tasks import make_task
from rl.policy import build_policy
from rl.prompts import Verdict

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
    assert success_rates(graded, policy, pool, 2).tolist() == [1, 0] * 4


@pytest.mark.slow
def test_the_command_line_measures_the_embeddings(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path / "cache"))
    arguments = ["--tasks", "string_ops", "--seeds", "0", "1", "--prompts", "40", "--rollouts", "2"]
    policy_embeddings.main([*arguments, "--warm-start-steps", "2", "--results", str(tmp_path)])
    found = json.loads((tmp_path / "policy_embeddings.json").read_text())["tasks"]["string_ops"]
    printed = capsys.readouterr().out
    for name in ("wordllama", "policy, layer 1", "policy, layer 2", "policy, last layer", "both"):
        assert len(found[name]["per_seed"]) == 2
        assert name in printed
    assert found["policy_seconds"]["mean"] > 0
