"""The metrics of a run on disk, as JSON lines and TensorBoard events."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any, Self, TextIO

from jaxsel.integrations.atomic_files import named, replaced_when_complete
from rl.run_folder.contents import ENDED, METRICS, already_a_run
from rl.run_folder.trackers import Tracker

_log = logging.getLogger(__name__)


class Records:
    """The metrics of every step, in memory.

    Args:
        run_dir: A folder that may hold the metrics of earlier steps.
        first_step: The step at which the run continues. Metrics from this step on are left out: the step is repeated.

    Attributes:
        records: The metrics of every step, in order.
    """

    def __init__(self, run_dir: Path, *, first_step: int):
        records = read_metrics(run_dir / METRICS)
        self.records = [r for r in records if r["step"] < first_step]
        self._dropped = [r for r in records if r["step"] >= first_step]

    def write(self, record: dict[str, float]) -> None:
        """Add the metrics of one step, or more metrics of the last step. Values that are not finite become None."""
        known = self.records.pop() if self._holds(record["step"]) else {}
        self.records.append(
            known | {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in record.items()}
        )

    def sync(self) -> None:
        """Do nothing: there is no file."""

    def _holds(self, step: float) -> bool:
        """Return whether the last record belongs to this step."""
        return bool(self.records) and self.records[-1]["step"] == step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is no file to close."""


class RunLog(Records):
    """The metrics of every step, in `metrics.jsonl` (one JSON object per step), in TensorBoard and at a tracker.

    Args:
        run_dir: The folder of the run, created if it is missing.
        first_step: The step at which the run continues. Lines from this step on are dropped: the step is repeated. The
            final probe of a run that was finished there moves to `metrics-ended.jsonl`.
        resume: False refuses a folder that holds a run.
        tracker: A tracker that receives the metrics too. It already has the metrics of repeated steps.

    Raises:
        ValueError: The folder holds a run and `resume` is false.
    """

    def __init__(self, run_dir: Path, *, first_step: int, resume: bool, tracker: Tracker | None = None):
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS
        if path.exists() and not resume:
            raise already_a_run(run_dir)
        super().__init__(run_dir, first_step=first_step)
        self._path, self._tracker, self._tracker_failed = path, tracker, False
        # The final probe of a finished run has the number of a step that was not done yet. If the run continues, the
        # tracker must still receive that step.
        self._tracked = {r["step"] for r in [*self.records, *(r for r in self._dropped if not is_end(r))]}
        ended = [r for r in self._dropped if r["step"] == first_step and is_end(r)]
        if ended:
            with named(run_dir / ENDED, "metrics.jsonl is as it was"), (run_dir / ENDED).open("a") as file:
                file.write("".join(f"{json.dumps(record)}\n" for record in ended))
                _sync(file)
        self._file = self._rewritten()
        from torch.utils.tensorboard import SummaryWriter  # loads torch, which readers of metrics do not need

        self._tensorboard = SummaryWriter(str(run_dir), purge_step=first_step)

    def write(self, record: dict[str, float]) -> None:
        """Write the metrics of one step. Values that are not finite become null."""
        merged = self._holds(record["step"])
        super().write(record)
        with named(self._path, "the lines before are on disk, and the step is repeated"):
            if merged:
                self._file.close()
                self._file = self._rewritten()
            else:
                self._file.write(f"{json.dumps(self.records[-1])}\n")
                self._file.flush()
        with named(self._path.parent, "its metrics are on disk, but not its TensorBoard events"):
            new = {name: self.records[-1][name] for name in record}
            for name, value in new.items():
                if value is not None and name != "step":
                    self._tensorboard.add_scalar(name, value, int(record["step"]))
        if self._tracker is not None and (merged or record["step"] not in self._tracked):
            self._track(self._tracker, new)

    def _track(self, tracker: Tracker, metrics: dict[str, Any]) -> None:
        try:
            tracker.write(metrics)
        except Exception as error:  # the metrics are on disk, and a run is worth more than a page about it
            if not self._tracker_failed:
                self._tracker_failed = True
                _log.warning("the tracker failed at step %s (%s); the run goes on", metrics.get("step"), error)

    def sync(self) -> None:
        """Wait until all lines are on disk, where also a power cut leaves them.

        Raises:
            OSError: The disk is full, or fails otherwise.
        """
        with named(self._path, "the steps after the last checkpoint are repeated"):
            _sync(self._file)

    def _rewritten(self) -> TextIO:
        """Replace the file by one with all records, and return it, open for more lines."""
        with replaced_when_complete(self._path) as file:
            file.write("".join(f"{json.dumps(record)}\n" for record in self.records).encode())
        return self._path.open("a")

    def __exit__(self, *_: object) -> None:
        with named(self._path, "the lines before are on disk"):
            self._file.close()
        with named(self._path.parent, "its metrics are on disk, but not its TensorBoard events"):
            self._tensorboard.close()


def _sync(file: TextIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def is_end(record: dict[str, Any]) -> bool:
    """Return whether a record is the final probe of a finished run, rather than the metrics of a step."""
    return all(name in ("step", "rollouts") or name.startswith(("probe/", "eval/")) for name in record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a `metrics.jsonl`. A last line that a crash cut short is left out.

    Raises:
        ValueError: Another line is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [parsed_line(path, number, line) for number, line in enumerate(lines[:-1], 1)]


def parsed_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Return the metrics in one line of a `metrics.jsonl`.

    Args:
        path: The file, for the message of an error.
        number: Number of the line from 1, for the message.
        line: The line without its end.

    Raises:
        ValueError: The line is damaged.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # the line is not JSON, or not UTF-8
        record = None
    step = record.get("step") if isinstance(record, dict) else None
    if record is None or not isinstance(step, int) or abs(step) >= 2**63:
        raise ValueError(
            f"line {number} of {path} is damaged: {line[:60]!r}; put back a copy of the file, or delete the line: the "
            "metrics of its step are then missing, unless the run resumes from an earlier step and repeats it"
        )
    return record
