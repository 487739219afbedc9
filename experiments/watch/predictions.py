"""The recorded predictions of a run that may be running, in sums that take no more room as the run grows."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxsel.integrations.history import read_parts
from jaxsel.integrations.parquet_parts import part_files
from jaxsel.report.cells import cells, merged, scored
from jaxsel.report.judgement import corp_of, counted
from jaxsel.report.material import history_folder, recorded_rows
from jaxsel.report.rows import Rows, at_own_sizes, known_size
from jaxsel.report.tables import KINDS

_MOST_BINS = 24  # bins of the step, as in a report; they double their width when there are more
_AT_ONCE = 32  # files that are read at once


class Predictions:
    """Sums over the judged groups of one run, which grow with its history.

    Args:
        folder: Folder of a run, or of a history; it may not exist yet.

    Attributes:
        behind: Number of files that were not read yet.
        trouble: What is wrong with a file, in words; empty if nothing is.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._clear()

    def _clear(self) -> None:
        self._read: list[tuple[Any, ...]] = []
        self._width = 1
        self._cells: dict[str, dict[str, np.ndarray]] = {}
        # groups, and the sum of their steps, in each bin
        self._steps = {kind: np.zeros((2, _MOST_BINS), np.int64) for kind in KINDS}
        self._fine: dict[str, np.ndarray] = {}
        self._visits = np.zeros(0, np.int64)
        self.behind, self.trouble = 0, ""

    def __bool__(self) -> bool:
        """Whether anything was judged."""
        return bool(self._cells)

    def read(self) -> bool:
        """Read some of the new files, and return whether anything changed.

        A resumed run replaces a file and deletes the files after it. Then everything is read again.
        """
        try:
            parts = part_files(history_folder(self._folder))
            now = [_identity(part) for part in parts]
        except FileNotFoundError:  # a resumed run is deleting files
            return False
        anew = now[: len(self._read)] != self._read
        if anew:
            self._clear()
        new = parts[len(self._read) :][:_AT_ONCE]
        if not new or self.trouble:
            return anew
        try:
            self._add(new)
        except ValueError as error:
            self.trouble = str(error)
        self._read = now[: len(self._read) + len(new)]
        self.behind = 0 if self.trouble else len(parts) - len(self._read)
        return True

    def _add(self, parts: list[Path]) -> None:
        found = read_parts(parts)
        if not len(self._visits):
            self._visits = np.zeros(found.num_prompts, np.int64)
        for kind, columns in (("ahead", found.rollouts), ("probes", found.probes)):
            rows = at_own_sizes(recorded_rows(found.history, columns), known_size(found.spec))
            if len(rows.step):
                self._sum(kind, rows._replace(visits=rows.visits + self._visits[rows.prompt_ids]))
        self._visits += np.bincount(found.history.prompt_ids, minlength=len(self._visits))

    def _sum(self, kind: str, rows: Rows) -> None:
        while rows.step.max() // self._width >= _MOST_BINS:
            self._widen()
        bins = rows.step // self._width
        for place, weights in enumerate((None, rows.step)):
            self._steps[kind][place] += np.bincount(bins, weights, _MOST_BINS).astype(np.int64)
        new = cells(rows, scored(rows, seed=len(self._read)), bins)
        self._cells[kind] = merged([self._cells[kind], new]) if kind in self._cells else new
        self._fine[kind] = self._fine.get(kind, 0) + counted(rows)

    def _widen(self) -> None:
        self._width *= 2
        for kind, table in self._cells.items():
            self._cells[kind] = merged([table | {"step": table["step"] // 2}])
        for sums in self._steps.values():
            pairs = sums.reshape(2, _MOST_BINS // 2, 2).sum(axis=2)
            sums[:] = np.concatenate([pairs, np.zeros_like(pairs)], axis=1)

    def cells(self) -> dict[str, np.ndarray]:
        """Return the table `cells` of `jaxsel.report.tables`: `step` is the mean step of the groups of a bin."""
        found = []
        for kind, table in self._cells.items():
            groups, total = self._steps[kind]
            step = np.round(total / np.maximum(groups, 1)).astype(int)[table["step"]]
            found.append({"kind": np.full(len(step), kind, object), **table, "step": step})
        return {name: np.concatenate([one[name] for one in found]) for name in (found[0] if found else ())}

    def curve(self) -> dict[str, np.ndarray]:
        """Return the table `curve` of `jaxsel.report.tables`, the isotonic curves of P(mixed)."""
        found = []
        for kind, sums in self._fine.items():
            curve = corp_of(sums)
            kinds = np.full(len(curve.predicted), kind, object)
            found.append({"kind": kinds, "predicted": curve.predicted, "observed": curve.observed})
        return {name: np.concatenate([one[name] for one in found]) for name in (found[0] if found else ())}


def _identity(part: Path) -> tuple[Any, ...]:
    about = part.stat()
    return part.name, about.st_ino, about.st_size, about.st_mtime_ns
