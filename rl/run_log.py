"""A run's metrics on disk: JSON lines and TensorBoard events. The checkpoints are in `rl.checkpoint`."""

import json
import math
from pathlib import Path
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from jaxsel.integrations.atomic_files import named, replaced_when_complete
from rl.checkpoint import load_checkpoint as load_checkpoint
from rl.checkpoint import save_checkpoint as save_checkpoint
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
        self._path, self._tracker = path, tracker
        # The probe at the end of a run that now goes on is part of a step that was not done yet.
        self._tracked = {r["step"] for r in read_metrics(path) if r["step"] < first_step or not is_end(r)}
        with replaced_when_complete(path) as file:
            file.write("".join(f"{json.dumps(record)}\n" for record in self.records).encode())
        self._file = path.open("a")
        self._tensorboard = SummaryWriter(str(run_dir), purge_step=first_step)

    def write(self, record: dict[str, float]) -> None:
        """One step's metrics; not-a-number becomes null."""
        super().write(record)
        with named(self._path, "the lines before are on disk, and the step is done again"):
            self._file.write(f"{json.dumps(self.records[-1])}\n")
            self._file.flush()
        with named(self._path.parent, "its metrics are on disk, but not its TensorBoard events"):
            for name, value in self.records[-1].items():
                if value is not None and name != "step":
                    self._tensorboard.add_scalar(name, value, int(record["step"]))
        if self._tracker is not None and record["step"] not in self._tracked:
            self._tracker.write(self.records[-1])

    def __exit__(self, *_: object) -> None:
        with named(self._path, "the lines before are on disk"):
            self._file.close()
        with named(self._path.parent, "its metrics are on disk, but not its TensorBoard events"):
            self._tensorboard.close()


def is_end(record: dict[str, Any]) -> bool:
    """Whether a record is the last one of a finished run: a probe after the last step, and no step."""
    return all(name in ("step", "rollouts") or name.startswith("probe/") for name in record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a `metrics.jsonl`; a last line cut short by a crash is left out.

    Raises:
        ValueError: another line is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [_record(path, number, line) for number, line in enumerate(lines[:-1], 1)]


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:  # text that is no JSON, or bytes that are no text
        record = None
    if not isinstance(record, dict) or "step" not in record:
        raise ValueError(
            f"line {number} of {path} is damaged: {line[:60]!r}; put back a copy of the file, or delete the line: the "
            "metrics of its step are then missing, unless the run resumes from an earlier step and does it again"
        )
    return record
