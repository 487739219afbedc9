import math
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from experiments import demo, selection_pays
from experiments.reporting.figures import draw_comparison, draw_seeds
from experiments.reporting.provenance import provenance, write_result
from experiments.reporting.summaries import column, per_step, probes, smoothed, spent_to_reach, summary, summary_table
from experiments.reproduce import presentation
from experiments.running import compare, runs
from experiments.running.compare import SETTINGS, commits, described, finished, run_config
from experiments.running.method_config import MethodConfig
from experiments.running.runs import run
from experiments.selection_pays import check_claims
from rl.preemption import PreemptedError
from rl.train_config import TrainConfig
from tests.support import warm_processes

pytestmark = pytest.mark.slow


def records(mixed, accuracy, rollouts_per_step=100, steps=8):
    """Return a run whose held-out accuracy rises linearly from 0 to `accuracy`, probed at every other step."""
    made = []
    for step in range(steps):
        record = {"step": step, "rollouts": rollouts_per_step * (step + 1), "train/mixed_share": mixed}
        record |= dict.fromkeys(("seconds/selecting", "seconds/generating", "seconds/updating"), 0.25)
        if step % 2 == 0:
            record |= {"probe/held_out_accuracy": accuracy * step / steps, "probe/spearman": 0.5}
        made.append(record)
    end = {"step": steps, "rollouts": rollouts_per_step * steps}
    return [*made, end | {"probe/held_out_accuracy": accuracy, "probe/spearman": None}]


RUNS = {
    "uniform": records(0.2, 0.4),
    "dynamic_sampling": records(0.2, 0.5, rollouts_per_step=400),
    "mopps": records(0.5, 0.6),
    "dps": records(0.25, 0.3),
}


def test_columns_and_probes_skip_missing_values():
    assert column(RUNS["mopps"], "train/mixed_share").tolist() == [0.5] * 8
    rollouts, values = probes(RUNS["mopps"], "held_out_accuracy")
    assert rollouts.tolist() == [0, 200, 400, 600, 800]
    np.testing.assert_allclose(values, [0, 0.15, 0.3, 0.45, 0.6])
    assert len(probes(RUNS["mopps"], "spearman")[1]) == 4


def test_summary_by_hand():
    s = summary(RUNS["mopps"])
    assert s["steps"] == 8
    assert s["rollouts"] == 800
    assert s["mixed_share_first_half"] == 0.5
    assert s["held_out_accuracy"] == pytest.approx((0.45 + 0.6) / 2)
    assert s["seconds_updating"] == 2
    assert s["median_ms_step"] == 750


@pytest.mark.parametrize(("accuracy", "expected"), [(0.0, 100), (0.225, 300), (0.3, 400), (0.45, 600), (0.6, math.inf)])
def test_rollouts_to_reach(accuracy, expected):
    assert spent_to_reach([RUNS["mopps"]], accuracy) == pytest.approx(expected)


def test_claims_hold_and_fail():
    runs = {name: [r, r] for name, r in RUNS.items()}
    good, bad = check_claims(runs, "mopps"), check_claims(runs, "dps")
    assert good["mixed_share_ratio"]["mean"] == pytest.approx(2.5)
    assert all(claim["holds"] for claim in good.values())
    # of dynamic sampling's rollouts, interpolated between two probes
    share = (500 + 200 * (0.4375 - 0.375) / 0.15) / 2800
    assert good["share_of_dynamic_sampling_rollouts"]["mean"] == pytest.approx(share)
    assert not any(claim["holds"] for claim in bad.values())
    # dps never reaches dynamic sampling's final accuracy, so its share is infinite
    assert math.isnan(bad["share_of_dynamic_sampling_rollouts"]["standard_error"])


def test_figures_and_table_are_drawn(tmp_path):
    path = draw_comparison(RUNS, tmp_path / "a" / "figure.png", title="x")
    assert path.stat().st_size > 10_000
    draw_seeds({name: [r, r] for name, r in RUNS.items()}, tmp_path / "seeds.png", title="x")
    assert summary_table(RUNS).row_count == 4


def test_a_step_without_a_judged_group_has_no_value_in_figures(tmp_path):
    missing = records(0.5, 0.6, steps=50)
    for step in (0, 3):
        missing[step]["train/mixed_share"] = missing[step]["train/reward"] = None
    seeds = [records(0.5, 0.6, steps=50), missing]
    values = per_step(seeds, "train/mixed_share")
    assert np.argwhere(np.isnan(values)).tolist() == [[1, 0], [1, 3]]
    np.testing.assert_allclose(smoothed(values)[:, 1:], 0.5)
    assert np.isnan(smoothed(values)[1, 0])
    ramp = np.where(np.arange(50) == 3, np.nan, np.arange(50.0))
    np.testing.assert_allclose(smoothed(ramp), [np.nanmean(ramp[max(end - 20, 0) : end]) for end in range(1, 51)])
    assert draw_seeds({"dps": seeds}, tmp_path / "seeds.png", title="x").stat().st_size > 10_000
    assert presentation.draw({"countdown": {"dps": seeds}}, tmp_path / "tasks.png").stat().st_size > 10_000


def test_provenance_and_results(tmp_path):
    head = provenance({"a": 1}, [0, 1])
    assert head["config"] == {"a": 1}
    assert head["versions"]["jax"]
    write_result(tmp_path / "new" / "x.json", head)
    with pytest.raises(TypeError):
        write_result(tmp_path / "new" / "x.json", {"not": object()})
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.json"]


def test_a_result_leaves_files_of_similar_names_alone(tmp_path):
    (tmp_path / "x.partial").write_text("mine")
    write_result(tmp_path / "x.json", {"a": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.partial"]
    assert (tmp_path / "x.partial").read_text() == "mine"


def test_a_process_that_is_asked_to_stop_ends_and_begins_no_other_run(tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise PreemptedError(3)

    codes = []
    monkeypatch.setattr(runs, "run", stopped)
    monkeypatch.setattr(os, "_exit", codes.append)
    compare._run(run_config(SETTINGS["string_ops"], "mopps", 0), tmp_path, True)
    assert codes == [os.EX_TEMPFAIL]
    assert "stopped after step 3" in capsys.readouterr().err


def test_processes_end_when_the_command_is_killed():
    script = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from experiments.running.compare import _end_with_parent
executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
executor.submit(os.getpid).result()
executor.submit(time.sleep, 600)
os.kill(os.getpid(), 9)
"""
    # The output ends when the last process that holds it ends.
    subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60)


@pytest.mark.slow
def test_the_demo_and_the_experiment_run(tmp_path, monkeypatch, capsys):
    """The demo starts a process per run. The experiment runs in this process, to save the time of imports."""
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path / "cache"))
    tiny = SETTINGS["string_ops"]
    small = {"hidden_size": 32, "num_layers": 1, "feed_forward_size": 32, "batch_size": 8}
    short = {"warm_start": replace(tiny.warm_start, steps=2, **small), "train": replace(tiny.train, steps=2)}
    tiny = replace(tiny, pool_size=64, held_out_size=8, probe_size=8, **short)
    monkeypatch.setitem(SETTINGS, "string_ops", tiny)
    monkeypatch.setattr(compare, "multiprocessing", warm_processes.SPAWNING)
    demo.main(["--out", str(tmp_path / "demo"), "--method", "dps"])
    printed = capsys.readouterr().out
    assert "dynamic_sampling" in printed
    assert (tmp_path / "demo" / "string_ops" / "demo.png").exists()

    def here(configs):
        return {folder: run(config, folder) for folder, config in configs.items()}

    monkeypatch.setattr(compare, "run_many", here)
    selection_pays.main(["--seeds", "5", "6", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")])
    assert (tmp_path / "results" / "selection_pays_string_ops.json").exists()


def test_dynamic_sampling_takes_half_the_steps_of_other_methods():
    shared = replace(SETTINGS["countdown"], pool_size=64)
    config, dynamic = (run_config(shared, method, 3, history=True) for method in ("gps", "dynamic_sampling"))
    assert config == replace(shared, seed=3, method=MethodConfig("gps"), train=TrainConfig(steps=200, history=True))
    train = replace(config.train, steps=100, probe_every=12)
    assert dynamic == replace(config, method=MethodConfig("dynamic_sampling"), train=train)
    without_probes = replace(shared, train=replace(shared.train, probe_every=0))
    assert run_config(without_probes, "dynamic_sampling", 3).train.probe_every == 0
    assert described(shared)["dynamic_sampling_steps"] == 100


def test_a_run_is_finished_if_it_ended_with_these_settings(tmp_path):
    config = run_config(SETTINGS["string_ops"], "dps", 3)
    assert finished(tmp_path, config) == []
    write_result(tmp_path / "config.json", {"config": asdict(config), "git": "abc"})
    (tmp_path / "metrics.jsonl").write_text('{"step": 199, "rollouts": 8}\n')
    assert finished(tmp_path, config) == []  # the run is not at its end, or it crashed
    (tmp_path / "metrics.jsonl").write_text('{"step": 200, "rollouts": 8}\n')
    assert finished(tmp_path, config) == [{"step": 200, "rollouts": 8}]
    assert finished(tmp_path, replace(config, seed=4)) == []
    assert commits([tmp_path, tmp_path]) == ["abc"]
