"""Jobs on the SLURM cluster of `experiments/cluster/local_cluster.sh`, which `make slurm` starts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rl.run_log import read_metrics

ROOT = Path(__file__).parents[2]
SEVERAL_NODES, ONE_NODE = (
    ROOT / f"experiments/cluster/{name}_node{end}.sbatch" for name, end in (("several", "s"), ("one", ""))
)
VARIABLE = "LOCAL_CLUSTER"
"""The environment variable with the cluster's folder. `make slurm` sets it."""
SMALL = ["--gpus-per-node=0", "--cpus-per-task=1", "--mem=2500", "--ntasks-per-node=1"]
TINY = [
    *("pool_size=40", "held_out_size=4", "method.name=mopps", "method.batch_size=4", "threads=1"),
    *("warm_start.hidden_size=32", "warm_start.num_layers=1", "warm_start.feed_forward_size=32"),
    *("warm_start.steps=2", "warm_start.batch_size=8", "train.group_size=2", "train.probe_every=0"),
    *("train.history=true", "resume=true"),
]


def environment() -> dict[str, str]:
    """Return the environment of a user who has activated this Python environment and the cluster."""
    own = {"SLURM_CONF": f"{os.environ[VARIABLE]}/slurm.conf", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    own |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    own |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    return os.environ | own


def slurm(*command: object) -> str:
    """Return the output of one of SLURM's commands."""
    said = subprocess.run([str(word) for word in command], env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert not said.returncode, f"{command}: {said.stderr}"
    return said.stdout


def wait_until(true: Callable[[], Any], what: str, seconds: float = 120) -> None:
    """Wait until the function returns a true value; `what` names it in the error after the given time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds} s: {what}"
        time.sleep(0.05)


class Job:
    """A job of the cluster.

    Args:
        number: The job's id.
        log: The file with its output.
    """

    def __init__(self, number: str, log: Path):
        self.number, self._log = number, log

    @property
    def log(self) -> str:
        """What the job has printed."""
        return self._log.read_text() if self._log.exists() else ""

    def show(self) -> dict[str, str]:
        """Return what SLURM knows about the job."""
        words = slurm("scontrol", "--oneliner", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def state(self) -> str:
        """The job's state, such as RUNNING."""
        return self.show()["JobState"]

    def wait_until(self, true: Callable[[], Any], seconds: float = 120) -> None:
        """Wait until the function returns a true value."""
        try:
            wait_until(true, "the job did not get there", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.show()}\n{self.log}") from None

    def end(self, seconds: float = 150) -> dict[str, str]:
        """Wait until the job has ended for good, and return what SLURM knows about it."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait_until(lambda: self.state in final, seconds)
        return self.show()

    def start(self, times: int = 1) -> None:
        """Wait until the job runs, for the given number of times."""
        self.wait_until(lambda: (shown := self.show())["JobState"] == "RUNNING" and int(shown["Restarts"]) >= times - 1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the processes of all ranks, as SLURM does before a time limit."""
        slurm("scancel", f"--signal={number.name.removeprefix('SIG')}", self.number)

    def pids(self) -> dict[int, int]:
        """Return the process of every rank that has started Python."""
        found = {}
        for folder in Path("/proc").iterdir():
            variables = _environment_of(folder) if folder.name.isdigit() else {}
            if variables.get("SLURM_JOB_ID") == self.number and "RANK" in variables:
                found.setdefault(int(variables["RANK"]), int(folder.name))
        return found


def submit(script: Path, *arguments: object, log: Path, options: list[str] | None = None) -> Job:
    """Submit a script of `experiments/cluster`."""
    command = ["sbatch", "--parsable", *SMALL, f"--output={log}", *(options or []), script, *arguments]
    return Job(slurm(*command).strip(), log)


def train(folder: Path, *settings: object, options: list[str] | None = None, script: Path = SEVERAL_NODES) -> Job:
    """Submit a tiny training run over two nodes, whose folder is `folder/run`."""
    module = ["experiments.train"] if script == SEVERAL_NODES else []
    arguments = [*module, *TINY, f"hydra.run.dir={folder}/run", *settings]
    return submit(script, *arguments, log=folder / "job.log", options=options)


def steps_done(folder: Path) -> int:
    """Return the number of steps whose metrics are in `folder/run`."""
    return len(read_metrics(folder / "run/metrics.jsonl"))


@contextmanager
def held(job: Job, folder: Path, steps: int) -> Iterator[None]:
    """Wait until the run in `folder/run` has made the given number of steps, and let it make no more in this block.

    The run's processes are stopped. They receive signals when they go on, so that a quick run does not end first.
    """
    job.wait_until(lambda: steps_done(folder) >= steps)
    ranks = job.pids().values()
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    assert len(ranks) == 2, job.log
    try:
        yield
    finally:
        for rank in ranks:
            with suppress(ProcessLookupError):  # the test has killed it
                os.kill(rank, signal.SIGCONT)


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run, without times."""
    records = read_metrics(run_dir / "metrics.jsonl")
    return [{name: x for name, x in record.items() if not name.startswith("seconds/")} for record in records]


def _environment_of(process: Path) -> dict[str, str]:
    try:
        content = (process / "environ").read_bytes()
    except OSError:  # the process has ended
        return {}
    return dict(one.decode(errors="replace").split("=", 1) for one in content.split(b"\0") if b"=" in one)
