"""The comparison with a pretrained model: its numbers and claims by hand, and a tiny run of it."""

import json
import math

import pytest

from experiments import pretrained
from experiments.pretrained import SETTINGS, check_claims, compared, main, numbers
from experiments.running import compare
from experiments.running.compare import run_config
from experiments.running.tasks import task_of
from rl.policy import build_policy
from tests.experiments.test_comparison import records
from tests.support import warm_processes

pytestmark = pytest.mark.slow


def with_times(run):
    """Return the run with 20 tokens per completion, and the policy's gap."""
    steps = [r | {"train/completion_length": 20.0, "policy/log_prob_gap_max": 1e-5 * r["step"]} for r in run[:-1]]
    return [*steps, run[-1]]


RUNS = {
    "uniform": [with_times(records(0.2, 0.4)), with_times(records(0.25, 0.5))],
    "mopps": [with_times(records(0.3, 0.5)), with_times(records(0.35, 0.48))],
    "adaptive": [with_times(records(0.2, 0.5)), with_times(records(0.25, 0.6))],
}


def test_numbers_by_hand():
    found = numbers(RUNS["uniform"][0])
    assert found["tokens_per_second"] == pytest.approx(800 * 20 / (8 * 0.25))
    assert found["seconds_per_step"] == pytest.approx(0.75)
    assert found["mixed_share_second_half"] == pytest.approx(0.2)
    assert found["log_prob_gap_max"] == pytest.approx(7e-5)


def test_claims_hold_and_are_missed():
    claims = {(one["method"], one["claim"]): one for one in compared(RUNS)["claims"]}
    assert {at: one["holds"] for at, one in claims.items()} == {
        ("mopps", "mixed_share_ratio"): True,
        ("mopps", "gain"): False,  # a single seed without a gain is enough
        ("adaptive", "mixed_share_ratio"): False,
        ("adaptive", "gain"): True,
    }
    assert claims["mopps", "mixed_share_ratio"]["per_seed"] == pytest.approx([1.5, 1.4])
    assert "missed" in claims["mopps", "gain"]["says"]


def test_a_baseline_without_mixed_groups_is_no_success():
    plain = {"mixed_share_second_half": 0.0, "held_out_accuracy": 0.0}
    claim, _ = check_claims({"uniform": [plain], "mopps": [plain | {"mixed_share_second_half": 0.5}]})
    assert math.isnan(claim["mean"])
    assert not claim["holds"]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Return arguments for a run of seconds, with a policy of single characters in the place of SmolLM2."""
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compare, "multiprocessing", warm_processes.SPAWNING)
    alphabet = "".join(map(chr, range(32, 127))) + "\n"
    policy = build_policy(alphabet, hidden_size=32, num_layers=1, feed_forward_size=32)
    policy.model.config.max_position_embeddings = 512
    policy.save(tmp_path / "policy")
    settings = {"policy": tmp_path / "policy", "pool_size": 16, "held_out_size": 4, "probe_size": 4}
    settings |= {"fine_tuning.steps": 2, "train.steps": 2, "train.group_size": 2, "method.batch_size": 2}
    settings |= {"data.max_new_tokens": 4, "train.probe_every": 1}
    said = [f"{name}={value}" for name, value in settings.items()]
    places = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    return ["--methods", "uniform", "mopps", "--seeds", "10", "11", *places, "--set", *said]


def test_the_runs_of_the_first_seed_come_first_and_are_kept(tiny, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"no seed of .* has finished runs of uniform, mopps"):
        main([*tiny, "--report"])
    main(tiny)
    result = json.loads((tmp_path / "results" / "pretrained.json").read_text())
    assert result["seed"] == [10, 11]
    assert result["config"]["fine_tuning"]["steps"] == 2
    assert (tmp_path / "results" / "pretrained.png").exists()
    assert "held-out" in capsys.readouterr().out
    folders = [f"seed-{s}/{m}" for s in (10, 11) for m in ("uniform", "mopps")]
    ended = [(tmp_path / "runs" / folder / "metrics.jsonl").stat().st_mtime for folder in folders]
    assert ended == sorted(ended)
    monkeypatch.setattr(pretrained, "run_many", lambda *_, **__: pytest.fail("ran again"))
    (tmp_path / "runs" / "seed-11" / "mopps" / "metrics.jsonl").unlink()
    main([*tiny, "--report"])
    assert json.loads((tmp_path / "results" / "pretrained.json").read_text())["seed"] == [10]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--methods", "mopps"], "compared with uniform; name it too"),
        (["--set", "seed=3"], "--set seed: the experiment"),
    ],
)
def test_arguments_that_contradict_the_experiment_are_refused(arguments, fault, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert fault in capsys.readouterr().err


def test_all_runs_start_from_the_same_weights():
    configs = [run_config(SETTINGS, method, seed) for method in ("uniform", "adaptive") for seed in (10, 11)]
    assert len({(config.policy, config.fine_tuning, config.precision) for config in configs}) == 1
    assert task_of(configs[0]).name == "word_problems"
