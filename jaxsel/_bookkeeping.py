"""What was observed, counted on the host: visits to every prompt, and how good the last prediction was.

In NumPy: while it counts, the devices compute what comes next.
"""

import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from jaxsel._visits import Visits, checked_visits
from jaxsel.base import MIXED, SOLVED, UNSOLVED, Selection


class Bookkeeping:
    """Counts visits and remembers the last batch. Counts on a device are fetched when somebody asks, see `note_later`.

    Args:
        visits: to every prompt so far; written to from now on.
    """

    def __init__(self, visits: Int[np.ndarray, " N"]):
        self._visits = visits
        self._num_visited = np.count_nonzero(visits)
        self._last: Visits | None = None
        self._waiting: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None

    @property
    def visits(self) -> Int[np.ndarray, " N"]:
        """To every prompt, with at least one rollout that counts; not a copy."""
        self.settle()
        return self._visits

    @property
    def coverage(self) -> float:
        """The share of the pool that was visited."""
        self.settle()
        return self._num_visited / len(self._visits)

    def note(self, visits: Visits) -> None:
        """Takes in a batch."""
        self.settle()
        self._num_visited += np.count_nonzero(self._visits[visits.prompt_ids] == 0)
        self._visits[visits.prompt_ids] += 1
        self._last = visits

    def note_later(
        self, prompt_ids: Int[np.ndarray, " b"], successes: Int[Array, " b"], group_size: Int[Array, " b"]
    ) -> None:
        """Takes in a batch without waiting for its counts."""
        self.settle()
        self._waiting = prompt_ids, successes, group_size

    def settle(self) -> None:
        """Fetches the batch that waits.

        Raises:
            ValueError: its counts are not those of rollouts. They go on waiting: this comes every time.
        """
        if self._waiting is not None:
            visits = checked_visits(*self._waiting, num_prompts=len(self._visits))
            self._waiting = None
            self.note(visits)

    def report(self, selection: Selection | None) -> dict[str, float]:
        """Of the prompts that were selected and observed since: what was predicted against what came."""
        self.settle()
        if self._last is None or len(self._last.prompt_ids) == 0:
            return {}
        ids, successes, sizes = self._last
        states = np.where(successes == 0, UNSOLVED, np.where(successes == sizes, SOLVED, MIXED))
        report = {"mixed_share": float((states == MIXED).mean())}
        if selection is None:
            return report
        selected = np.asarray(selection.prompt_ids)
        observed = np.minimum(ids.searchsorted(selected), len(ids) - 1)
        chosen = ids[observed] == selected
        observed = observed[chosen]
        if len(observed):
            said = selection.prediction
            fields = said.unsolved, said.mixed, said.solved, said.success_rate
            predicted = np.array([np.asarray(field) for field in fields])[:, chosen]
            errors = np.abs(predicted[3] - successes[observed] / sizes[observed])
            right = predicted[:3].argmax(0) == states[observed]
            report["predicted_mixed_share"] = float(predicted[MIXED].mean())
            report["success_rate_mae"] = float(errors.mean())
            report["solve_state_accuracy"] = float(right.mean())
        return report
