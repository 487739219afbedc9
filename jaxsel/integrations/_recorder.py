"""A recorder of a run's history (its rollouts, on disk). A step that is observed in parts becomes one batch there.

Rollouts of one prompt in several parts are one visit, as in the selector.
"""

from pathlib import Path

import jax
import numpy as np

from jaxsel._visits import Visits, merged
from jaxsel.base import Prediction
from jaxsel.integrations.history import HistoryLog
from jaxsel.integrations.parquet_parts import part_files
from jaxsel.runtime.steps import OpenStep


class Recorder:
    """Joins the observations of one step as `PromptSelector.observe` does, and writes them as one batch.

    Args:
        log: The history.
        ended: Number of the last step that had ended when the selector's checkpoint was written; -1: none.
        clock: Number of batches in the history.
    """

    def __init__(self, log: HistoryLog, *, ended: int, clock: int):
        self._log = log
        self._open = OpenStep(ended)
        self._parts: list[tuple[int | None, Visits, Prediction]] = []
        self.clock = clock

    def continues(self, step: int | None) -> bool:
        """Return whether an observation of this step belongs to the batch of the last observations."""
        return step is not None and not self._open.is_over(step)

    def add(self, step: int | None, visits: Visits, prediction: Prediction) -> None:
        """Add an observation, and what the selector predicted before its step."""
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
        steps, visits, predictions = zip(*self._parts, strict=True)
        step = max((step for step in steps if step is not None), default=self.clock)
        ids, successes, group_size = (np.concatenate(columns) for columns in zip(*visits, strict=True))
        _, first = np.unique(ids, return_index=True)
        prediction = jax.tree.map(lambda *fields: np.concatenate(fields)[first], *predictions)
        self._log.observed(step, merged(ids, successes, group_size), prediction)
        self.clock += 1
        self._parts = []

    def flush(self) -> None:
        """End the step and write all batches to disk."""
        self.end_step()
        self._log.flush()


def open_history(folder: Path, *, clock: int, resumed: bool, **options: object) -> HistoryLog:
    """Open the history of a run that has observed `clock` batches; `resumed` tells whether it goes on from a state.

    Raises:
        ValueError: The run begins anew, and the folder already holds a history.
    """
    if not resumed and part_files(folder):
        raise ValueError(f"history is {folder}, which holds another run; give another folder, or resume that run")
    return HistoryLog(folder, first_clock=clock, **options)  # pyright: ignore[reportArgumentType]
