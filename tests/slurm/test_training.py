"""Training over two nodes, stopped by signals, kills and dead nodes, ends in the numbers of an undisturbed run."""

import os
import random
import signal
import time

import pytest

from tests.support.local_cluster import ONE_NODE, held, numbers, slurm, steps_done, train

pytestmark = pytest.mark.slurm
STEPS = 30
SIGNALS = [signal.SIGUSR1, signal.SIGTERM]
INTERRUPTIONS = int(os.environ.get("INTERRUPTIONS", "3"))
"""The number of signals at random moments: `make slurm INTERRUPTIONS=20`."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function that returns numbers and seconds of an undisturbed run; DDP and FSDP round differently."""
    found = {}

    def run(parallel):
        if parallel not in found:
            folder = tmp_path_factory.mktemp(parallel)
            job = train(folder, f"parallel={parallel}", f"train.steps={STEPS}")
            job.start()
            began = time.monotonic()
            assert job.end()["JobState"] == "COMPLETED", job.log
            found[parallel] = numbers(folder / "run"), time.monotonic() - began
            assert len(found[parallel][0]) == STEPS + 1
        return found[parallel]

    return run


def start(folder, parallel="ddp", **options):
    return train(folder, f"parallel={parallel}", f"train.steps={STEPS}", "train.checkpoint_every=5", **options)


def assert_ends_like(whole, job, folder, restarts=1):
    """Check that the job was queued again `restarts` times, and that its numbers are those of an undisturbed run."""
    ended = job.end()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", str(restarts)), job.log
    assert job.log.count("stopped as asked to; it is queued again") == restarts
    assert numbers(folder / "run") == whole[0]


@pytest.mark.parametrize(("parallel", "number"), [("ddp", signal.SIGUSR1), ("fsdp", signal.SIGTERM)])
def test_a_signal_in_training_writes_a_checkpoint_and_the_job_is_queued_again(tmp_path, whole, parallel, number):
    job = start(tmp_path, parallel)
    with held(job, tmp_path, steps=3):
        job.signal(number)
    job.wait_until(lambda: "exit code 75" in job.log)
    assert 3 <= steps_done(tmp_path) < STEPS
    assert_ends_like(whole(parallel), job, tmp_path)
    assert job.log.count("stopped after step") == 1, job.log  # rank 0 alone prints it


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_before_the_first_line_of_python_queues_the_job_again(tmp_path, whole, number):
    """The signal arrives as soon as SLURM knows the step: the ranks are still in bash, or Python is starting."""
    job = start(tmp_path)
    job.start()
    job.wait_until(lambda: job.pids())
    job.signal(number)
    job.wait_until(lambda: "queued again" in job.log)
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert_ends_like(whole("ddp"), job, tmp_path)


def test_a_signal_while_ranks_join_queues_the_job_again(tmp_path, whole):
    """Rank 0 waits for rank 1, whose process is stopped. Both get the signal; rank 1 gets it when it goes on."""
    job = start(tmp_path)
    job.wait_until(lambda: len(job.pids()) == 2)
    late = job.pids()[1]
    os.kill(late, signal.SIGSTOP)
    time.sleep(8)
    assert not (tmp_path / "run/config.json").exists()
    job.signal(signal.SIGUSR1)
    os.kill(late, signal.SIGCONT)
    job.wait_until(lambda: "queued again" in job.log)
    assert_ends_like(whole("ddp"), job, tmp_path)


@pytest.mark.parametrize("seed", range(INTERRUPTIONS))
def test_a_signal_at_a_random_moment(tmp_path, whole, seed):
    """The moment is between the start of the job and its end, as the undisturbed run suggests."""
    rng = random.Random(seed)
    parallel, number = rng.choice(["ddp", "fsdp"]), rng.choice(SIGNALS)
    moment = rng.uniform(0, whole(parallel)[1])
    job = start(tmp_path, parallel)
    job.start()
    job.wait_until(lambda: job.pids())
    time.sleep(moment)
    done = steps_done(tmp_path)
    if job.state == "RUNNING":
        job.signal(number)
    job.end()
    restarts = int("queued again" in job.log)
    print(f"{parallel}, {number.name} after {moment:.1f} s and {done} steps: {restarts} restarts")
    assert restarts or done > STEPS // 2, job.log  # in the last step, a signal changes nothing
    assert_ends_like(whole(parallel), job, tmp_path, restarts)


@pytest.mark.parametrize("starting", [True, False], ids=["starting", "training"])
def test_a_rank_that_is_killed_fails_the_job_and_ends_the_other_rank(tmp_path, whole, starting):
    job = start(tmp_path)
    job.wait_until(lambda: len(job.pids()) == 2 if starting else steps_done(tmp_path) >= 7)
    os.kill(job.pids()[random.SystemRandom().randrange(2)], signal.SIGKILL)
    ended = job.end()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "137:0", "0"), job.log
    assert "a process was killed, for example because memory ran out; not queued again" in job.log
    assert not job.pids()
    again = start(tmp_path)
    assert again.end()["JobState"] == "COMPLETED", again.log
    assert numbers(tmp_path / "run") == whole("ddp")[0]


def test_one_node(tmp_path, whole):
    job = train(tmp_path, f"train.steps={STEPS}", script=ONE_NODE, options=["--ntasks-per-node=2", "--mem=5000"])
    assert job.end()["JobState"] == "COMPLETED", job.log
    assert numbers(tmp_path / "run") == whole("ddp")[0]


def test_a_cancelled_job_stays_cancelled(tmp_path):
    job = start(tmp_path)
    with held(job, tmp_path, steps=2):
        slurm("scancel", job.number)
    ended = job.end()
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    job.wait_until(lambda: not job.pids())
