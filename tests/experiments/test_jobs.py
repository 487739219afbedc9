"""What a run records about its job, a sweep's dry run, and what squeue says. `make slurm` tests them on SLURM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.running.config import clear_errors, configured
from experiments.running.job import JOBS, record_job
from experiments.running.slurm import Jobs, _queue_watcher

ROOT = Path(__file__).parents[2]
SWEEP = ["-m", "experiments.train", "-m", "--dry-run", "seed=0,1", "train.steps=7"]


def test_a_job_adds_a_line_and_a_run_outside_of_a_job_adds_none(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    record_job(tmp_path, {"git": "abc"})
    assert not (tmp_path / JOBS).exists()
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    for restarts in ("0", "1"):
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        record_job(tmp_path, {"git": "abc"})
    lines = [json.loads(line) for line in (tmp_path / JOBS).read_text().splitlines()]
    assert [line["slurm"]["RESTART_COUNT"] for line in lines] == ["0", "1"]
    assert {(line["git"], line["slurm"]["JOB_ID"], line["slurm"]["JOB_NODELIST"]) for line in lines} == {
        ("abc", "7", "n[1-2]")
    }
    assert {"started", "host", "python"} <= lines[0].keys()


def test_squeue_says_which_jobs_have_ended():
    watcher = _queue_watcher()
    for job in ("20_0", "20_1", "20_2", "20_3", "21"):
        watcher._registered.add(job)
    watcher._info_dict.update(
        watcher.read_info(b"20_0|COMPLETED|n1\n20_1|COMPLETING|n1\n20_2|CANCELLED|\n20_3|PENDING|\n")
    )
    ended = {job: watcher.is_done(job, mode="cache") for job in ("20_0", "20_1", "20_2", "20_3", "21")}
    assert ended == {"20_0": True, "20_1": False, "20_2": True, "20_3": False, "21": True}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trains.steps": 5}, "trains: Key 'trains' not in 'RunConfig'"),
        ({"train.steps": "abc"}, "train.steps: Value 'abc' of type 'str' could not be converted to Integer"),
        ({"train.steps": -5}, "steps is -5; give an integer of at least 1"),
    ],
)
def test_a_mistaken_setting_ends_a_command_with_one_line(settings, said):
    with pytest.raises(SystemExit) as ended, clear_errors():
        configured(settings)
    assert ended.value.code == said


def test_a_dry_run_of_one_run_checks_its_settings():
    config = OmegaConf.create({"dry_run": True, "hydra": {"run": {"dir": "here"}}, "seed": -1})
    with pytest.raises(SystemExit, match="seed is -1"):
        Jobs().on_run_start(config)


@pytest.mark.slow
def test_a_mistake_in_one_run_of_a_sweep_is_found_before_the_first_run(tmp_path):
    sweep = [one for one in SWEEP if one != "--dry-run"]
    command = [sys.executable, *sweep, "method.name=mopps,mops", f"hydra.sweep.dir={tmp_path}/runs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("method.name is 'mops'; give one of uniform")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ([], 0, "  #0 seed=0: seed=0\n"),
        (["method.name=mopps,dps"], 0, "4 runs, in "),
        (["method.batch_size=0"], 1, "batch_size is 0; give an integer of at least 1"),
        (["method.name=mopps,mops"], 1, "method.name is 'mops'; give one of uniform"),
        (["hydra.sweeper._target_=other.Sweeper"], 1, "use hydra/sweeper=basic"),
    ],
)
def test_a_dry_run_names_the_runs_and_their_mistakes_and_starts_nothing(tmp_path, settings, code, said):
    command = [sys.executable, *SWEEP, f"hydra.sweep.dir={tmp_path}/runs", *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
