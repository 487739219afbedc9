"""A run on disk: metrics as JSON lines and TensorBoard events, and the checkpoint to go on from."""

import json
import math
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.tensorboard import SummaryWriter

from rl._files import replaced_when_complete
from rl.trackers import Tracker

_METRICS = "metrics.jsonl"


class Records:
    """The metrics of every step, in memory.

    Args:
        run_dir: a folder that may hold earlier ones.
        first_step: those from this step on belong to work that is done again, and are left out.
    """

    def __init__(self, run_dir: Path, *, first_step: int):
        self.records = [r for r in read_metrics(run_dir / _METRICS) if r["step"] < first_step]

    def write(self, record: dict[str, float]) -> None:
        """One step's metrics; not-a-number becomes null."""
        self.records.append(
            {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in record.items()}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to close."""


class RunLog(Records):
    """Appends one JSON object a step to `metrics.jsonl` and the same numbers to TensorBoard and a tracker.

    Args:
        run_dir: the folder; made when missing.
        first_step: lines from this step on belong to work that is done again, and are dropped.
        resume: false refuses a folder that holds a run.
        tracker: gets them too, except those of steps that are done again: it has them.

    Raises:
        ValueError: the folder holds a run and `resume` is false.
    """

    def __init__(self, run_dir: Path, *, first_step: int, resume: bool, tracker: Tracker | None = None):
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / _METRICS
        if path.exists() and not resume:
            raise ValueError(f"run_dir {run_dir} already holds a run; resume it or give another folder")
        super().__init__(run_dir, first_step=first_step)
        self._tracker, self._tracked = tracker, {record["step"] for record in read_metrics(path)}
        with replaced_when_complete(path) as file:
            file.write("".join(f"{json.dumps(record)}\n" for record in self.records).encode())
        self._file = path.open("a")
        self._tensorboard = SummaryWriter(str(run_dir), purge_step=first_step)

    def write(self, record: dict[str, float]) -> None:
        """One step's metrics; not-a-number becomes null."""
        super().write(record)
        self._file.write(f"{json.dumps(self.records[-1])}\n")
        self._file.flush()
        for name, value in self.records[-1].items():
            if value is not None and name != "step":
                self._tensorboard.add_scalar(name, value, int(record["step"]))
        if self._tracker is not None and record["step"] not in self._tracked:
            self._tracker.write(self.records[-1])

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._tensorboard.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a `metrics.jsonl`; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def save_checkpoint(path: Path, identity: dict[str, Any], **content: Any) -> None:
    """Replaces the checkpoint when the new one is complete on disk."""
    with replaced_when_complete(path) as file:
        torch.save({"identity": identity, **content}, file)


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What `save_checkpoint` wrote. The file is trusted: it is unpickled.

    Raises:
        ValueError: it is of another configuration.
    """
    saved = torch.load(path, map_location="cpu", weights_only=False)
    if saved["identity"] != identity:
        raise ValueError(
            f"{path} is of another run: saved {saved['identity']}, here {identity}; give the same configuration"
        )
    return saved
