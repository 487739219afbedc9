import json
import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxsel
from experiments.reporting.summaries import share_spent, spent_to_reach
from experiments.reproduce import __main__ as reproduce
from experiments.reproduce.claims import against, calibration, check_claims, method_numbers, numbers
from experiments.reproduce.presentation import tables
from experiments.running.compare import SETTINGS
from experiments.running.config import read_settings
from experiments.running.runs import run
from jaxsel.integrations.history import HistoryLog


def records(mixed, accuracies, rollouts_per_step=100, selecting=0.1):
    """Return a run with probes before every second step and after the last; a step takes a second."""
    steps = 2 * len(accuracies) - 2
    made = []
    for step in range(steps + 1):
        record = {"step": step, "rollouts": rollouts_per_step * min(step + 1, steps)}
        if step % 2 == 0:
            probe = {"held_out_accuracy": accuracies[step // 2], "spearman": 0.5, "mae": step / steps}
            record |= {f"probe/{name}": value for name, value in probe.items()}
        if step < steps:
            record |= {"train/mixed_share": mixed, "seconds/selecting": selecting}
            record |= {"seconds/generating": 0.5, "seconds/updating": 0.4 - selecting, "seconds/handing_over": 0.1}
        made.append(record)
    return made


RISE = [0.1 * at for at in range(9)]  # 16 steps; final accuracy, the mean of the last two probes: 0.75
RUNS = {
    "uniform": [records(0.2, RISE)] * 2,
    "dynamic_sampling": [records(0.2, RISE, rollouts_per_step=400)] * 2,
    "mopps": [records(0.5, [1.6 * value for value in RISE], selecting=0.001)] * 2,
    "dps": [records(0.25, [0.5 * value for value in RISE], selecting=0.2)] * 2,
}
SEEN = {method: [0.1, 0.3] for method in RUNS}


def test_steps_and_rollouts_to_an_accuracy():
    runs = RUNS["uniform"]
    assert spent_to_reach(runs, 0.25, "step") == pytest.approx(5)
    assert spent_to_reach(runs, 0.25) == pytest.approx(500)  # a probe comes before the rollouts of its step
    assert spent_to_reach(runs, 0.3, "step") == pytest.approx(6)
    assert spent_to_reach(runs, 0.0, "step") == 1  # midway between the first two probes
    assert spent_to_reach(runs, 0.76, "step") == math.inf


def test_shares_are_of_mean_curves_with_the_error_of_the_jackknife():
    uniform = RUNS["uniform"][0]
    assert share_spent([uniform], [uniform], "step")["mean"] == 1
    slow, fast = (records(0.5, [factor * value for value in RISE]) for factor in (0.9, 1.6))
    assert share_spent([slow], [uniform], "step")["mean"] == math.inf
    found = share_spent([slow, fast], [uniform, uniform], "step")
    assert found["mean"] == pytest.approx((0.75 / 1.25 * 20) / 15)  # their mean rises 1.25 times as fast as uniform
    assert np.isnan(found["standard_error"])
    faster = records(0.5, [2 * value for value in RISE])
    found = share_spent([fast, faster], [uniform, uniform], "step")
    assert found["mean"] == pytest.approx(15 / 1.8 / 15)
    assert found["standard_error"] == pytest.approx((1 / 1.6 - 1 / 2) / 2)


def test_numbers_of_a_run_alone():
    one = numbers(RUNS["uniform"][0], 0.25)
    assert one["rollouts"] == 1600
    assert one["held_out_accuracy"] == pytest.approx(0.75)
    assert one["mean_absolute_error"] == pytest.approx(np.mean([8, 10, 12, 14, 16]) / 16)
    assert one["calibration_error"] == 0.25
    assert one["ms_step"] == pytest.approx(1000)
    assert one["selecting"] == pytest.approx(0.1)


def test_numbers_of_a_run_against_uniform():
    found = against(RUNS["mopps"][0], RUNS["uniform"][0])
    assert found["gain"] == pytest.approx(0.6 * 0.75)
    assert found["mixed_share_ratio"] == pytest.approx(2.5)


def test_claims_are_checked_for_every_predictive_method_and_can_fail():
    result = method_numbers(RUNS, SEEN)
    assert result["mopps"]["calibration_error"] == {
        "per_seed": [0.1, 0.3],
        "mean": pytest.approx(0.2),
        "standard_error": pytest.approx(0.1),
    }
    assert result["mopps"]["share_of_steps"]["mean"] == pytest.approx(9.375 / 15)
    assert result["mopps"]["share_of_rollouts"] == {"mean": pytest.approx(937.5 / 6000), "standard_error": 0}
    held = check_claims(result)
    assert all(claim["holds"] == {"mopps": True, "dps": False} for claim in held.values())
    assert all(claim["says"].endswith("holds for mopps; missed by dps") for claim in held.values())
    assert held["share_of_rollouts"]["means"]["dps"] == math.inf
    del result["mopps"]
    assert all(claim["says"].endswith("holds for none; missed by dps") for claim in check_claims(result).values())


def test_tables_fit_a_terminal_and_say_never():
    console = Console(width=80, record=True)
    for table in tables("string_ops", method_numbers(RUNS, SEEN)):
        console.print(table)
    printed = console.export_text()
    assert "never" in printed  # dps never reaches the final accuracy of uniform
    assert "0.62 (0.00)" in printed
    assert "…" not in printed


def test_the_calibration_error_uses_only_the_second_half(tmp_path):
    log = HistoryLog(tmp_path, num_prompts=4, spec={})
    ids, n = np.arange(4), np.full(4, 8)
    log.probed(0, (ids, np.full(4, 8), n), jaxsel.Prediction(*6 * [jnp.full(4, 0.9)]))
    log.probed(2, (ids, np.array([0, 8, 4, 4]), n), jaxsel.Prediction(*6 * [jnp.full(4, 0.9)]))
    log.flush()
    assert calibration(tmp_path) == pytest.approx(0.4)


@pytest.mark.slow
def test_every_method_runs_and_a_second_call_runs_nothing_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path / "cache"))
    tiny = SETTINGS["string_ops"]
    short = {"warm_start": replace(tiny.warm_start, steps=3), "train": replace(tiny.train, steps=12)}
    tiny = replace(tiny, pool_size=64, held_out_size=8, **short)
    monkeypatch.setitem(SETTINGS, "string_ops", tiny)

    def here(configs, *, resume):  # runs in this process; the test of the demo covers runs in several processes
        return {folder: run(config, folder, resume=resume) for folder, config in configs.items()}

    monkeypatch.setattr(reproduce, "run_many", here)
    arguments = ["--tasks", "string_ops", "--seeds", "5", "--methods", "uniform", "dynamic_sampling", "mopps_mixed"]
    arguments += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    arguments += ["--set", "train.group_size=4", "--name", "reproduce_4"]
    reproduce.main(arguments)
    written = (tmp_path / "results" / "reproduce_4_string_ops.json").read_text()
    settings = [read_settings(path.parent) for path in tmp_path.glob("runs/train.group_size=4/**/metrics.jsonl")]
    assert [one["train.group_size"] for one in settings] == [4, 4, 4]
    assert set(json.loads(written)["methods"]) == {"uniform", "dynamic_sampling", "mopps_mixed"}
    assert (tmp_path / "results" / "reproduce_4_string_ops.png").stat().st_size > 20_000
    assert "of dynamic sampling's rollouts" in capsys.readouterr().out
    reproduce.main(arguments)  # a second run would write other seconds
    assert (tmp_path / "results" / "reproduce_4_string_ops.json").read_text() == written


def test_methods_to_compare_with_are_needed(capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["--methods", "mopps", "dps"])
    assert "name both" in capsys.readouterr().err


def test_settings_of_the_experiment_cannot_be_set(capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["--set", "pool_size=64", "--set", "task=countdown"])
    assert "--set task: the experiment itself sets this" in capsys.readouterr().err
