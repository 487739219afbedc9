"""A recorder of a run's history (its rollouts, on disk). A step that is observed in parts becomes one batch there.

Rollouts of one prompt in several parts are one visit, as in the selector.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxsel._visits import Visits, merged
from jaxsel.base import Prediction
from jaxsel.runtime.steps import OpenStep

if TYPE_CHECKING:
    from jaxsel.integrations.history import HistoryLog  # needs the extra `history`


class Recorder:
    """Joins the observations of one step as `PromptSelector.observe` does, and writes them as one batch.

    Args:
        ended: Number of the last step that had ended when the selector's checkpoint was written; -1: none.
        clock: Number of batches that the selector has observed.
        unrecorded: Number of the last batches among them that no history has.

    Attributes:
        log: The history. None: batches are counted and not written.
        clock: Number of batches that the selector has observed.
        unrecorded: Number of the last batches among them that no history has.
    """

    def __init__(self, *, ended: int = -1, clock: int = 0, unrecorded: int = 0):
        self.log: HistoryLog | None = None
        self.clock, self.unrecorded = clock, unrecorded
        self._open = OpenStep(ended)
        self._parts: list[tuple[int | None, Visits, Prediction | None]] = []

    def continues(self, step: int | None) -> bool:
        """Return whether an observation of this step belongs to the batch of the last observations."""
        return step is not None and not self._open.is_over(step)

    def add(self, step: int | None, visits: Visits, prediction: Prediction | None) -> None:
        """Add an observation, and what the selector predicted before its step, which a history needs."""
        if not self.continues(step):
            self.end_step()
        if step is not None:
            self._open.add(step, visits)
        self._parts.append((step, visits, prediction))
        if step is None:
            self.end_step()

    def end_step(self) -> None:
        """Make one batch of the observations since the last batch, if there are any."""
        self._open.end()
        if not self._parts:
            return
        if self.log is None:
            self.unrecorded += 1
        else:
            self._write(self.log)
        self.clock += 1
        self._parts = []

    def _write(self, log: "HistoryLog") -> None:
        steps, visits, predictions = zip(*self._parts, strict=True)
        step = max((step for step in steps if step is not None), default=self.clock)
        ids, successes, group_size = (np.concatenate(columns) for columns in zip(*visits, strict=True))
        _, first = np.unique(ids, return_index=True)
        prediction = jax.tree.map(lambda *fields: np.concatenate(fields)[first], *predictions)
        log.observed(step, merged(ids, successes, group_size), prediction)

    def flush(self) -> None:
        """End the step and write all batches to disk."""
        self.end_step()
        if self.log is not None:
            self.log.flush()

    def record_in(self, folder: Path, *, resumed: bool, **options: object) -> None:
        """Open the history of a run, in which the next batches are written; `resumed`: the run goes on from a state.

        Raises:
            ValueError: The folder already holds a history, and the run begins anew, or has observed batches that the
                history lacks.
        """
        from jaxsel.integrations.history import HistoryLog, first_clock
        from jaxsel.integrations.parquet_parts import part_files

        if part_files(folder):
            if not resumed:
                raise ValueError(
                    f"history is {folder}, which holds another run; give another folder, or resume that run"
                )
            if self.unrecorded and first_clock(folder) < self.clock:  # later batches are dropped and observed again
                raise ValueError(
                    f"history is {folder}, which lacks the last {self.unrecorded} batches that this run has observed; "
                    "give another folder, or none"
                )
        self.log = HistoryLog(folder, first_clock=self.clock, **options)  # pyright: ignore[reportArgumentType]
        self.unrecorded = 0
