"""The metrics of a run that may be running: new lines are read as they appear, and curves have a few hundred points."""

import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reporting.summaries import smoothed
from rl.run_folder.log import METRICS, is_end, parsed_line

TRAINING = {
    "train/reward": "mean reward",
    "train/mixed_share": "share of mixed groups, before any filter",
    "train/completion_length": "length of completions (tokens)",
    "train/truncated_share": "share of completions cut at the limit",
    "policy/entropy": "entropy of the policy (nats)",
    "policy/grad_norm": "norm of the gradient",
    "selector/coverage": "share of the pool that was visited",
    "selector/log_score": "log score of the selector's predictions (nats)",
    "selector/success_rate_mae": "error of the predicted success rates",
    "seconds": "seconds per step, without probes",
}
"""Metrics of every step that the page shows, and their plain names."""
MIXED = ("selector/mixed_share", "selector/predicted_mixed_share")
PROBES = {
    "probe/held_out_accuracy": "held-out accuracy",
    "probe/pool_accuracy": "accuracy on prompts of the pool",
    "probe/pool_mixed_share": "share of mixed groups in the pool",
    "probe/spearman": "rank correlation of predicted and real success rates",
    "probe/mae": "error of the predicted success rates",
}
"""Metrics of probes that the page shows, and their plain names; the means of evaluation sets come on top."""
SMOOTH = " smooth"
"""End of the names of columns with running means of 20 steps."""
_MOST = 300  # points of a curve
_PIECE = 2**22  # bytes that are read at once
_MARK = 256  # bytes before the place of reading, by which a file that was written anew is recognised
_APART = ("seconds/probing", "seconds/evaluating")  # not every step does this
_LATELY = 50  # steps by which the time that is left is estimated


class Metrics:
    """The metrics of one run, which grow with its file.

    Args:
        folder: Folder of the run; it may not exist yet.

    Attributes:
        behind: Bytes of the file that were not read yet.
        size: Bytes of the file.
        changed_at: Time at which the file changed, in seconds of Unix time; NaN without a file.
        steps: Number of steps that are done: one more than the last.
        ended: Whether the last line is the final probe of a finished run.
    """

    def __init__(self, folder: Path):
        self._path = folder / METRICS
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, array[float]] = {"step": array("d"), "rollouts": array("d"), "before": array("d")}
        self._place, self._mark, self._inode, self._lines = 0, b"", -1, 0
        self.behind = self.size = self.steps = 0
        self.changed_at, self.ended = float("nan"), False
        self._damage = self._unreadable = ""

    @property
    def trouble(self) -> str:
        """What is wrong with the file, in words; empty if nothing is."""
        return self._unreadable or self._damage

    def read(self) -> bool:
        """Read a piece of the new lines, and return whether anything changed. A torn last line waits for its end.

        A resumed run writes the file anew, without the steps that it repeats. Then everything is read again.
        """
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                anew = self._is_new(file, about)
                if anew:
                    self._clear()
                self._inode, self.size, self.changed_at = about.st_ino, about.st_size, about.st_mtime
                file.seek(self._place)
                piece = file.read(_PIECE)
                if len(piece) == _PIECE and b"\n" not in piece:
                    piece += file.read()
        except FileNotFoundError:
            there = bool(self._place)
            self._clear()
            return there
        except OSError as error:  # a network file system may come back
            self._unreadable = f"{self._path} cannot be read ({error}); it is tried again"
            return False
        self._unreadable = ""
        whole = piece[: piece.rfind(b"\n") + 1]
        self._place += len(whole)
        self._mark = (self._mark + whole)[-_MARK:]
        self.behind = max(self.size - self._place, 0) if whole else 0
        for line in whole.split(b"\n")[:-1]:
            self._add(line)
        return anew or bool(whole)

    def _is_new(self, file: Any, about: os.stat_result) -> bool:
        if not self._place:
            return False
        file.seek(self._place - len(self._mark))
        return about.st_ino != self._inode or file.read(len(self._mark)) != self._mark

    def _add(self, line: bytes) -> None:
        self._lines += 1
        try:
            record = parsed_line(self._path, self._lines, line)
        except ValueError as error:
            self._damage = str(error)
            return
        self.ended = is_end(record)
        self.steps = int(record["step"]) + (not self.ended)
        rollouts = self._columns["rollouts"]
        # all numbers are read before a column grows, so that all columns keep one length
        numbers = {name: _finite(value) for name, value in record.items()}
        known = {name: number for name, number in numbers.items() if not np.isnan(number)}
        values = {name: value for name, value in known.items() if _is_shown(name)}
        values["before"] = rollouts[-1] if rollouts else 0  # a probe precedes the rollouts of its step
        seconds = [v for name, v in known.items() if name.startswith("seconds/") and name not in _APART and v]
        values |= {"seconds": sum(seconds)} if seconds else {}
        values["all seconds"] = sum(known.get(name, 0) for name in _APART) + sum(seconds)
        for name in values.keys() - self._columns.keys():
            self._columns[name] = array("d", [np.nan]) * len(rollouts)
        for name, column in self._columns.items():
            column.append(values.get(name, np.nan))

    def last(self, name: str) -> float | None:
        """Return the last known value of a metric."""
        known = self._known(name)[1]
        return float(known[-1]) if len(known) else None

    def seconds_left(self, steps: int) -> float:
        """Return an estimate of the seconds until the run has done `steps` steps; NaN without a step."""
        lately = np.array(self._columns.get("all seconds", ()))[-_LATELY:]
        return float(lately.mean() * (steps - self.steps)) if len(lately) else float("nan")

    def evaluations(self) -> dict[str, str]:
        """Return the metrics of evaluation sets, and their plain names."""
        return {name: name.removeprefix("eval/") for name in self._columns if name.startswith("eval/")}

    def training(self) -> dict[str, np.ndarray]:
        """Return the curves over steps: step, rollouts, each metric of `TRAINING` and `MIXED`, and running means."""
        names = [name for name in (*TRAINING, *MIXED) if name in self._columns]
        columns = {name: np.array(self._columns[name]) for name in ("step", "rollouts", *names)}
        for name in names:
            at, known = self._known(name)
            columns[name + SMOOTH] = np.full(len(columns["step"]), np.nan)
            columns[name + SMOOTH][at] = smoothed(known)
        return thinned(columns)

    def probes(self) -> dict[str, np.ndarray]:
        """Return the probes: step and rollouts before each, and each metric of `PROBES` and of evaluation sets."""
        names = [name for name in (*PROBES, *self.evaluations()) if name in self._columns]
        values = {name: np.array(self._columns[name]) for name in names}
        there = np.zeros(len(self._columns["step"]), bool)
        for column in values.values():
            there |= np.isfinite(column)
        columns = {"step": np.array(self._columns["step"]), "rollouts": np.array(self._columns["before"]), **values}
        return thinned({name: column[there] for name, column in columns.items()})

    def _known(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        column = np.array(self._columns.get(name, ()))
        at = np.flatnonzero(np.isfinite(column))
        return at, column[at]


def _finite(value: Any) -> float:
    """Return a number as a finite float, and NaN for everything else, such as an integer that no float holds."""
    try:
        number = float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:
        return np.nan
    return number if np.isfinite(number) else np.nan


def _is_shown(name: str) -> bool:
    is_evaluation = name.startswith("eval/") and not name.endswith("/stderr")
    return name in ("step", "rollouts") or name in TRAINING or name in MIXED or name in PROBES or is_evaluation


def thinned(columns: dict[str, np.ndarray], most: int = _MOST) -> dict[str, np.ndarray]:
    """Return at most `most` rows: means over equally many rows, without NaN, and the last `step` and `rollouts`."""
    length = len(columns["step"])
    width = -(-length // most)
    if width <= 1:
        return columns
    starts = np.arange(0, length, width)
    ends = np.append(starts[1:], length) - 1
    made = {}
    for name, column in columns.items():
        if name in ("step", "rollouts"):
            made[name] = column[ends]
            continue
        known = np.isfinite(column)
        number = np.add.reduceat(known.astype(int), starts)
        total = np.add.reduceat(np.where(known, column, 0.0), starts)
        made[name] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return made
