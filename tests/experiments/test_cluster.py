"""The SLURM scripts, run by fake SLURM commands as two processes on this machine, and sweeps by submitit."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.large_pool.runs import Config, run
from rl.run_log import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "experiments/cluster").glob("*.sbatch"))
STEPS = 30
TINY = [
    *("pool_size=40", "held_out_size=4", "method.name=uniform", "method.batch_size=4"),
    *("warm_start.hidden_size=32", "warm_start.num_layers=1", "warm_start.feed_forward_size=32"),
    *("warm_start.steps=2", "warm_start.batch_size=8", "threads=1"),
    *(f"train.steps={STEPS}", "train.group_size=2", "train.probe_every=0"),
]


@pytest.fixture
def submit(tmp_path):
    """Return a function that starts a script as SLURM does, where the command `python` runs the given bash lines."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (tmp_path / "scontrol").touch()
    started = []

    def start(script: Path, *arguments: str, tasks: int = 2, python: str = f'exec {sys.executable} "$@"'):
        (binaries / "python").write_text(f"#!/bin/bash\n{python}\n")
        (binaries / "python").chmod(0o755)
        job = random.SystemRandom().randrange(10**6)  # the scripts derive their ports from this number
        own = {"FAKE": tmp_path, "SLURM_JOB_ID": job, "SLURM_NTASKS": tasks, "SLURM_JOB_NODELIST": "n[1-2]"}
        own |= {"PATH": f"{binaries}:{ROOT / 'tests/support/slurm'}:{os.environ['PATH']}", "PYTHONPATH": ROOT}
        own |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        environment = os.environ | {name: str(value) for name, value in own.items()}
        started.append(
            subprocess.Popen(["bash", script, *arguments], cwd=ROOT, env=environment, start_new_session=True)
        )
        return job, started[-1]

    yield start
    for process in started:  # a test that failed may leave processes
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def logs(folder: Path) -> str:
    return "\n".join(log.read_text() for log in sorted(folder.glob("*.log")))


def wait_until(true: Callable[[], bool], process: subprocess.Popen, folder: Path) -> None:
    while not true():
        assert process.poll() is None, logs(folder)
        time.sleep(0.02)


def without_times(records):
    return [{k: v for k, v in record.items() if not k.startswith("seconds/")} for record in records]


def test_both_scripts_are_there():
    assert [script.stem for script in SCRIPTS] == ["one_node", "several_nodes"]


@pytest.mark.parametrize("code", [0, 1, 75, 137, 138, 140, 143])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_processes_are_numbered_and_only_a_preempted_job_is_queued_again(submit, tmp_path, script, code):
    said = f'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $*"; exit $((SLURM_PROCID * {code}))'
    job, process = submit(script, "experiments.train", "a=b c", python=said)
    assert process.wait() == code
    module = "experiments.train resume=true " if script.stem == "one_node" else ""
    for rank in range(2):
        expected = f"{rank} {rank} 2 127.0.0.1 -m {module}experiments.train a=b c\n"
        assert (tmp_path / f"{rank}.log").read_text() == expected
    again = [f"requeue {job}"] if code in (75, 138, 140, 143) else []
    assert (tmp_path / "scontrol").read_text().splitlines() == ["show hostnames n[1-2]", *again]


@pytest.mark.parametrize(
    ("variables", "requeued", "reason"),
    [
        ({}, "JOB", "it is queued again"),
        ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "7_2", "it is queued again"),
        ({"STATE": "COMPLETING"}, None, "SLURM has already cancelled it or queued it again"),
        ({"SLURM_RESTART_COUNT": "99"}, "JOB", "it is queued again"),
        ({"SLURM_RESTART_COUNT": "100"}, None, "not queued again after 100 restarts (MAX_RESTARTS)"),
        ({"SLURM_RESTART_COUNT": "3", "MAX_RESTARTS": "3"}, None, "not queued again after 3 restarts (MAX_RESTARTS)"),
    ],
)
def test_a_job_is_queued_again_only_while_it_runs_and_not_forever(
    submit, tmp_path, monkeypatch, capfd, variables, requeued, reason
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    job, process = submit(SCRIPTS[1], "experiments.train", python="exit 75")
    assert process.wait() == 75
    expected = [f"requeue {requeued}".replace("JOB", str(job))] if requeued else []
    assert (tmp_path / "scontrol").read_text().splitlines()[1:] == expected
    assert f"exit code 75: stopped as asked to; {reason}" in capfd.readouterr().out


@pytest.mark.slow
def test_a_job_that_is_asked_to_stop_writes_a_checkpoint_and_is_queued_again(submit, tmp_path):
    """The job trains one policy in two processes."""
    metrics = tmp_path / "run/metrics.jsonl"
    job, process = submit(SCRIPTS[0], *TINY, f"hydra.run.dir={tmp_path}/run")
    wait_until(lambda: len(read_metrics(metrics)) >= 2, process, tmp_path)
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    assert process.wait() == os.EX_TEMPFAIL, logs(tmp_path)
    assert f"requeue {job}" in (tmp_path / "scontrol").read_text()
    assert 2 <= len(read_metrics(metrics)) < STEPS
    assert (tmp_path / "run/checkpoint.pt").exists()
    assert "as it was asked to" in (tmp_path / "0.log").read_text()
    assert "as it was asked to" not in (tmp_path / "1.log").read_text()


@pytest.mark.slow
def test_a_job_that_is_asked_to_stop_before_it_trains_is_queued_again(submit, tmp_path):
    """One process warms up the policy, and the other waits."""
    job, process = submit(SCRIPTS[0], *TINY, "warm_start.steps=1000000", f"hydra.run.dir={tmp_path}/run")
    wait_until((tmp_path / "run/config.json").exists, process, tmp_path)
    time.sleep(1)  # one of the two processes may not have started yet
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    assert process.wait(timeout=120) == os.EX_TEMPFAIL, logs(tmp_path)
    assert f"requeue {job}" in (tmp_path / "scontrol").read_text()
    assert "before it trained" in (tmp_path / "0.log").read_text()
    assert "Error" not in logs(tmp_path)
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.slow
def test_two_processes_share_a_pool_and_get_the_numbers_of_one_process(submit, tmp_path, no_shared_programs):
    arguments = ["--sizes", "2000", "--steps", "5", "--batch-size", "16", "--methods", "dps", "--among", "pool"]
    arguments += ["--seeds", "0", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    _, process = submit(SCRIPTS[1], "experiments.large_pool", *arguments, tasks=2)
    assert process.wait() == 0, logs(tmp_path)
    assert "figure" in (tmp_path / "0.log").read_text()
    assert "figure" not in (tmp_path / "1.log").read_text()
    (summary,) = json.loads((tmp_path / "large_pool.json").read_text())["summary"].values()
    alone = run(Config(steps=5, batch_size=16), "dps", 2000, 0, "pool")
    for metric in alone.keys() - {"seconds_a_step", "mixed_shares"}:
        assert summary["dps"][metric]["mean"] == pytest.approx(alone[metric], rel=1e-5), metric


@pytest.mark.slow
def test_a_sweep_by_submitit_survives_preemption(tmp_path):
    """One of two runs is asked to stop, and is queued again. They differ only in a setting without effect here."""
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.stderr_to_stdout=true", "resume=true"]
    folder = [f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=${hydra.job.num}"]
    sweep = [sys.executable, "-m", "experiments.train", "-m", *launcher, *folder, "train.checkpoint_every=500,1000"]
    process = subprocess.Popen([*sweep, *TINY], cwd=ROOT)
    wait_until(lambda: len(read_metrics(tmp_path / "0/metrics.jsonl")) >= 2, process, tmp_path)
    job = min(int(path.name) for path in (tmp_path / ".submitit").iterdir() if path.name.isdigit())
    os.kill(job, signal.SIGTERM)  # the job passes the signal on to its run
    assert process.wait() == 0
    log = (tmp_path / f".submitit/{job}/{job}_0_log.out").read_text()
    assert "as it was asked to" in log
    assert f"Requeued job {job}" in log
    disturbed, undisturbed = (without_times(read_metrics(tmp_path / f"{number}/metrics.jsonl")) for number in range(2))
    assert [record["step"] for record in disturbed] == list(range(STEPS + 1))
    assert disturbed == undisturbed
