"""Nodes that die, and jobs that another partition preempts: SLURM itself queues the job again."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.local_cluster import VARIABLE, Job, environment, held, numbers, slurm, train, wait_until

pytestmark = [pytest.mark.slurm(alone=True), pytest.mark.xdist_group("nodes")]
STEPS = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    job = train(folder, f"train.steps={STEPS}")
    assert job.end()["JobState"] == "COMPLETED", job.log
    return numbers(folder / "run")


def kill(node: str, job: Job | None = None) -> None:
    """Kill the daemon of a node; with a job also the job's processes there, as a power cut does."""
    os.kill(int(Path(os.environ[VARIABLE], f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
    rank = None if job is None else job.pids()[int(node == "n2")]
    if rank is not None:
        step = int(re.findall(r"^PPid:\s+(\d+)", Path(f"/proc/{rank}/status").read_text(), re.MULTILINE)[0])
        os.kill(step, signal.SIGKILL)
        os.kill(rank, signal.SIGKILL)


def revive(node: str) -> None:
    configuration = str(Path(os.environ[VARIABLE], "slurm.conf"))  # by this name local_cluster.sh knows its daemons
    subprocess.run(["slurmd", "-f", configuration, "-N", node], env=environment(), check=True)
    shown = ("sinfo", "--noheader", f"--nodes={node}", "--format=%T")
    wait_until(lambda: slurm(*shown).split()[0] in ("idle", "mixed", "allocated"), f"{node} does not come back")


def test_a_daemon_that_dies_and_comes_back_disturbs_no_job(tmp_path, whole):
    job = train(tmp_path, f"train.steps={STEPS}", "train.checkpoint_every=5")
    with held(job, tmp_path, steps=3):
        kill("n2")
        revive("n2")
    ended = job.end()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), job.log
    assert numbers(tmp_path / "run") == whole


@pytest.mark.parametrize("steps", [0, 7], ids=["starting", "training"])
def test_the_job_of_a_node_that_dies_is_queued_again(tmp_path, whole, steps):
    job = train(tmp_path, f"train.steps={STEPS}", "train.checkpoint_every=5")
    job.wait_until(lambda: len(job.pids()) == 2)
    with held(job, tmp_path, steps):
        time.sleep(1)  # within the first moment srun itself would end the job, with the code 137
        kill("n2", job)
    job.wait_until(lambda: job.show()["Restarts"] == "1")
    revive("n2")
    ended = job.end()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), job.log
    assert numbers(tmp_path / "run") == whole


def test_a_job_that_another_partition_preempts_writes_a_checkpoint_and_goes_on_later(tmp_path, whole):
    everything = ["--mem=6000"]
    job = train(tmp_path, f"train.steps={STEPS}", options=["--partition=low", *everything])
    with held(job, tmp_path, steps=3):
        slurm("sbatch", "--partition=high", "--nodes=2", *everything, f"--output={tmp_path}/high", "--wrap=sleep 1")
        job.wait_until(lambda: job.show()["PreemptTime"] != "None")
    ended = job.end()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), job.log
    assert "as it was asked to" in job.log
    assert numbers(tmp_path / "run") == whole
