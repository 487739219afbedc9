"""The runs that a page shows: what each of them is doing, and its data. Folders may be missing, torn or growing."""

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.collect.folders import run_folders, settings_of
from experiments.running.config import CONFIG
from experiments.watch.metrics import PROBES, TRAINING, Metrics
from experiments.watch.predictions import Predictions
from jaxsel.integrations.parquet_parts import part_files
from jaxsel.report.material import history_folder
from jaxsel.report.pieces import as_columns
from rl.run_folder.holder import holder
from rl.run_folder.log import METRICS

_SILENT = 600  # seconds without a step after which a run of another machine may have stopped
_SILENT_STEPS = 20  # or the time of so many steps, if that is longer


class Run:
    """One run and what was read of it.

    Args:
        folder: Folder of the run; it may not exist yet.

    Attributes:
        folder: Folder of the run.
        changed: Versions in which the metrics and the predictions changed last; see `Watched`.
    """

    def __init__(self, folder: Path):
        self.folder, self.changed = folder, [0, 0]
        self._metrics, self._predictions = Metrics(folder), Predictions(folder)
        self._steps: tuple[Any, float] = (None, math.nan)
        self._made: list[dict[str, Any] | None] = [None, None]

    @property
    def behind(self) -> bool:
        """Whether more can be read at once."""
        return bool(self._metrics.behind or self._predictions.behind)

    @property
    def evaluations(self) -> dict[str, str]:
        """The metrics of evaluation sets, and their plain names."""
        return self._metrics.evaluations()

    def read(self, version: int) -> bool:
        """Read a piece of what is new, which gets this version, and return whether anything changed."""
        changed = [self._metrics.read(), self._predictions.read()]
        for part, is_new in enumerate(changed):
            if is_new:
                self.changed[part], self._made[part] = version, None
        return any(changed)

    def tables(self, since: int = 0) -> dict[str, Any]:
        """Return the data of the charts that changed after a version, as `as_columns` returns tables.

        The metrics are the tables `training` and `probes`, and the predictions are `cells` and `curve`: None if there
        are none.
        """
        found: dict[str, Any] = {}
        for part, make in enumerate((self._of_metrics, self._of_predictions)):
            if self.changed[part] > since:
                if (made := self._made[part]) is None:
                    made = self._made[part] = {name: table and as_columns(table) for name, table in make().items()}
                found |= made
        return found

    def _of_metrics(self) -> dict[str, Any]:
        return {"training": self._metrics.training(), "probes": self._metrics.probes()}

    def _of_predictions(self) -> dict[str, Any]:
        if not self._predictions:
            return {"cells": None, "curve": None}
        return {"cells": self._predictions.cells(), "curve": self._predictions.curve()}

    def status(self) -> dict[str, Any]:
        """Return what the page says about the run: `state`, `steps`, `of`, `age` in seconds, `left`, and `notes`."""
        metrics, of = self._metrics, self._all_steps()
        state = self._state()
        left = metrics.seconds_left(int(of)) if state == "running" and of > metrics.steps else math.nan
        return {
            "folder": str(self.folder),
            "state": state,
            "steps": metrics.steps,
            "of": _or_none(of),
            "age": _or_none(max(time.time() - metrics.changed_at, 0.0)),
            "left": _or_none(left),
            "history": bool(self._predictions),
            "held_out": metrics.last("probe/held_out_accuracy"),
            "reward": metrics.last("train/reward"),
            "notes": [note for note in (self._reading(), metrics.trouble, self._predictions.trouble) if note],
        }

    def _state(self) -> str:
        metrics = self._metrics
        held = holder(self.folder)
        alive = None if held is None else held.is_alive
        if not self.folder.is_dir():
            return "waiting for the folder"
        if metrics.ended:
            return "finished"
        if not metrics.steps:
            if self._predictions and held is None:
                return "a history without metrics"
            return "stopped before the first step" if alive is False else "waiting for the first step"
        if alive is not None:
            return "running" if alive else "stopped"
        # another machine holds the lock: only the time since the last step tells
        silence = max(_SILENT, _SILENT_STEPS * np.nan_to_num(metrics.seconds_left(metrics.steps + 1)))
        return "running" if time.time() - metrics.changed_at < silence else "silent: it may have stopped"

    def _reading(self) -> str:
        if self._metrics.behind:
            return f"reading: {1 - self._metrics.behind / self._metrics.size:.0%} of {METRICS}"
        files = self._predictions.behind
        return f"reading: {files} more file{'s' if files > 1 else ''} of the history" if files else ""

    def _all_steps(self) -> float:
        try:
            identity = (self.folder / CONFIG).stat().st_mtime_ns
        except OSError:
            identity = None
        if identity != self._steps[0] or math.isnan(self._steps[1]):
            self._steps = identity, float(settings_of(self.folder)[0].get("train.steps", math.nan))
        return self._steps[1]


class Watched:
    """All runs of a page, and the version of their data.

    Versions are times, so that a page which outlives its server gets everything that the next server has read.

    Args:
        places: Folders of runs, or folders that contain runs, such as the folder of a sweep. They may not exist yet.
        budget: Seconds after which `update` reads no further piece; the next call goes on.

    Attributes:
        version: Version of the data.
        named: Version in which the names of the runs changed last.
        runs: Runs by name.
        lock: Lock for callers in several threads.
    """

    def __init__(self, places: Sequence[Path], *, budget: float = 1.0):
        self._places, self._budget = places, budget
        self._known: dict[Path, Run] = {}
        self.version = self.named = self._next_version = 0
        self.runs: dict[str, Run] = {}
        self.lock = threading.Lock()

    @property
    def behind(self) -> bool:
        """Whether more can be read at once."""
        return any(run.behind for run in self.runs.values())

    def update(self) -> None:
        """Look for runs and read what is new, for about as long as the budget allows."""
        start = time.monotonic()
        folders = self._folders()
        self._known = {folder: self._known.get(folder) or Run(folder) for folder in folders}
        self._next_version = max(self.version + 1, time.time_ns() // 1000)  # JavaScript keeps it exactly: below 2**53
        named = dict(zip(names_of(folders), self._known.values(), strict=True))
        if [*named] != [*self.runs]:
            self.named = self.version = self._next_version
            for run in named.values():  # the page needs all data again, under the new names
                run.changed = [self.version, self.version]
        self.runs = named
        for run in named.values():  # each gets its turn, however long the others take
            self._read(run)
        while self.behind and time.monotonic() - start < self._budget:
            for run in named.values():
                if run.behind and time.monotonic() - start < self._budget:
                    self._read(run)

    def snapshot(self, since: int = 0) -> dict[str, Any]:
        """Return what the page needs: the names and states of all runs, and the tables that changed.

        Args:
            since: Version of the data that the page has; 0: none.
        """
        changed = {name: run.tables(since) for name, run in self.runs.items() if max(run.changed) > since}
        evaluations = [run.evaluations for run in self.runs.values()]
        return {
            "version": self.version,
            "at": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "behind": self.behind,
            "runs": {name: run.status() for name, run in self.runs.items()},
            "tables": changed,
            "menus": {
                "metric": TRAINING,
                "probe": {name: said for of in (PROBES, *evaluations) for name, said in of.items()},
            },
        }

    def _read(self, run: Run) -> None:
        if run.read(self._next_version):
            self.version = self._next_version

    def _folders(self) -> list[Path]:
        found: dict[Path, Path] = {}
        for place in self._places:
            for folder in [place] if is_run(place) else run_folders(place) or [place]:
                found.setdefault(folder.resolve(), folder)
        return list(found.values())


def is_run(place: Path) -> bool:
    """Return whether the folder belongs to one run or to one history. Any other folder may contain folders of runs."""
    return any((place / name).exists() for name in (METRICS, CONFIG)) or bool(part_files(history_folder(place)))


def repeated(places: Sequence[Path]) -> list[Path]:
    """Return the places that are given more than once, under whatever name."""
    first: dict[Path, Path] = {}
    return [place for place in places if first.setdefault(place.resolve(), place) is not place]


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell the folders apart: mostly the names of the folders."""
    paths = [folder.resolve() for folder in folders]
    for length in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
