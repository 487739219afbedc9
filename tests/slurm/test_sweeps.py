"""Sweeps by submitit_slurm: preempted, requeued and stopped early, to the numbers of undisturbed runs."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxsel.integrations.history import read_history
from tests.support.local_cluster import ROOT, TINY, environment, numbers, slurm, steps_done, wait_until

pytestmark = pytest.mark.slurm
together = pytest.mark.xdist_group("sweep")  # one worker makes the sweep for all of these tests
LAUNCHER = ["hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=2", "hydra.launcher.cpus_per_task=1"]


class Sweep:
    """A sweep that runs in the background, in a folder with one numbered folder per run."""

    def __init__(self, folder: Path, *settings: str, launcher: list[str] = LAUNCHER):
        self.folder, self._said = folder, folder / "said"
        folder.mkdir(parents=True)
        places = [f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=${hydra.job.num}/run"]
        command = [sys.executable, "-m", "experiments.train", "-m", *launcher, *places, *TINY, *settings]
        with self._said.open("w") as said:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=said, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self._said.read_text()

    def jobs(self) -> list[str]:
        """Return the jobs' names, in the order of the runs."""

        def submitted():
            return any((self.folder / ".submitit").glob("*/*_submitted.pkl"))

        wait_until(lambda: submitted() or self.process.poll() is not None, "no job was submitted")
        assert submitted(), self.said
        names = [path.name for path in (self.folder / ".submitit").iterdir()]
        runs = [name for name in names if re.fullmatch(r"\d+_\d+", name)]  # `12_0` of the array `12`
        runs = runs or [name for name in names if name.isdecimal()]
        return sorted(runs, key=lambda name: int(name.rpartition("_")[2]))

    def log(self, number: int) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f".submitit/*_{number}/*_log.*")))

    def end(self) -> int:
        return self.process.wait(timeout=240)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of three runs that differ only in a setting without effect. SLURM queues run 1 again while it trains, and
    run 2 gets a signal while Python starts."""
    settings = ("train.steps=150", "train.checkpoint_every=20,21,22", "warm_start.steps=5")
    with pytest.MonkeyPatch.context() as patch:  # no warm start that another worker's sweep has cached
        patch.setenv("JAXSEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        sweep = Sweep(tmp_path_factory.mktemp("sweep") / "sweep", *settings)
    jobs = sweep.jobs()
    wait_until(lambda: "JobState=RUNNING" in slurm("scontrol", "show", "job", jobs[2]), "run 2 does not start")
    wait_until(lambda: "Starting with" in sweep.log(2), "run 2 does not start Python")
    slurm("scancel", "--signal=USR2", jobs[2])
    wait_until(lambda: steps_done(sweep.folder / "1") >= 40, f"run 1 does not train: {sweep.log(1)}")
    slurm("scontrol", "requeue", jobs[1])
    assert sweep.end() == 0, sweep.said
    return sweep


@together
def test_requeued_runs_end_in_the_numbers_of_an_undisturbed_run(sweep):
    undisturbed = numbers(sweep.folder / "0/run")
    assert [record["step"] for record in undisturbed] == list(range(151))
    assert numbers(sweep.folder / "1/run") == undisturbed
    assert numbers(sweep.folder / "2/run") == undisturbed


@together
def test_a_signal_before_submitit_handles_signals_queues_the_job_again(sweep):
    assert "stopped before it started, as asked to (exit code 140); it is queued again" in sweep.log(2)


@together
def test_runs_that_start_together_share_one_warm_start(sweep):
    assert sum(sweep.log(number).count("warm start (string_ops): step 5 of 5") for number in range(3)) == 1


@together
def test_logs_are_readable(sweep):
    """No bars, no cursor movements, no network warnings, and an estimate of the time that is left."""
    for number in range(3):
        log = sweep.log(number)
        assert re.search(r"^step \d+ of 150, .* s per step, about 0:0\d:\d\d left$", log, re.MULTILINE), log
        assert not re.search(r"█|\r|\x1b|errno: 97|Warning", log), log
    assert not re.search("WARNING|Error|Bypassing", sweep.said), sweep.said


@together
def test_a_cluster_without_sacct_is_said_in_one_line(sweep):
    said = "sacct is off on this cluster (Slurm accounting storage is disabled); squeue says which jobs have ended"
    assert sweep.said.count("sacct") == 1
    assert said in sweep.said


@together
def test_every_start_of_a_run_is_recorded_with_its_job(sweep):
    starts = [
        [json.loads(line) for line in (sweep.folder / f"{number}/run/jobs.jsonl").read_text().splitlines()]
        for number in range(3)
    ]
    assert [len(of_run) for of_run in starts] == [1, 2, 1]
    assert [start["slurm"].get("RESTART_COUNT", "0") for of_run in starts for start in of_run] == ["0", "0", "1", "1"]
    for number, of_run in enumerate(starts):
        for start in of_run:
            assert start["slurm"]["ARRAY_TASK_ID"] == str(number)
            assert start["slurm"]["JOB_NODELIST"] in ("n1", "n2")
            assert {"python", "jax", "torch"} <= start["versions"].keys()


@together
def test_the_table_of_the_runs_and_their_histories(sweep, tmp_path):
    command = [sys.executable, "-m", "experiments.collect", sweep.folder, "--out", tmp_path]
    said = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert not said.returncode, said.stderr
    # the runs differ in a setting without effect, so two of them are copies of the first, and nothing else is wrong
    left_out = re.findall(r"does not count: \S+/(\d)/run: (.*) as ", said.stdout + said.stderr)
    assert left_out == [(number, "the same settings and seed") for number in "12"], said.stdout
    assert (tmp_path / "collected.json").exists()
    histories = [read_history(sweep.folder / f"{number}/run/history") for number in range(3)]
    assert len(histories[0].rollouts["step"]) == 150 * 4
    for history in histories[1:]:
        for name, column in histories[0].rollouts.items():
            np.testing.assert_array_equal(history.rollouts[name], column, err_msg=name)


def test_a_sweep_that_is_stopped_by_its_time_limit(tmp_path):
    """SLURM looks at time limits every 30 s: the signal arrives 20 to 50 s after a start. A run trains for 45 s."""
    pace = Sweep(tmp_path / "pace", "train.steps=60", "seed=0,1")
    assert pace.end() == 0, pace.said
    records = [json.loads(line) for line in (tmp_path / "pace/0/run/metrics.jsonl").read_text().splitlines()[10:50]]
    seconds = [sum(x for name, x in record.items() if name.startswith("seconds/")) for record in records]
    steps = f"train.steps={int(45 / min(seconds))}"
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10", "hydra.launcher.max_num_timeout=50"]
    limited = Sweep(tmp_path / "limited", steps, "train.checkpoint_every=0,1000", *limit)
    undisturbed = Sweep(tmp_path / "undisturbed", steps, "train.checkpoint_every=0")
    assert undisturbed.end() == 0, undisturbed.said
    assert limited.end() == 0, limited.said
    for number in range(2):
        assert "this job is timed-out" in limited.log(number)
        assert "as it was asked to" in limited.log(number)
        assert numbers(tmp_path / f"limited/{number}/run") == numbers(tmp_path / "undisturbed/0/run")


def test_a_dry_run_prints_the_jobs_and_submits_none(tmp_path):
    launcher = ["hydra.launcher.timeout_min=7", "hydra.launcher.name=dry"]
    sweep = Sweep(tmp_path / "sweep", "seed=0,1", *launcher, "--dry-run")
    assert sweep.end() == 0
    runs = "  #0 0/run: seed=0\n  #1 1/run: seed=1\n"
    assert sweep.said.startswith(f"2 runs, in {sweep.folder} (dry run: nothing was started)\n{runs}")
    assert "#SBATCH --time=7" in sweep.said
    assert slurm("squeue", "--noheader", "--states=all", "--name=dry") == ""
    assert [path.name for path in sweep.folder.iterdir()] == ["said"]
    mistaken = Sweep(tmp_path / "mistaken", "seed=0,-1", "--dry-run")
    assert mistaken.end() == 1
    assert "seed is -1; give an integer of at least 0" in mistaken.said


def test_a_cancelled_run_ends_the_wait(tmp_path):
    sweep = Sweep(tmp_path / "sweep", "train.steps=100000", "seed=0,1")
    jobs = sweep.jobs()
    wait_until(lambda: steps_done(tmp_path / "sweep/0") > 2, "run 0 does not train")
    slurm("scancel", *jobs)
    began = time.monotonic()
    assert sweep.end() == 1
    assert time.monotonic() - began < 60
    assert "has not produced any output (state: CANCELLED" in sweep.said
