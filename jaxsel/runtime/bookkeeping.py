"""What was observed, counted on the host: visits to every prompt, and how good the last prediction was.

In NumPy: while it counts, the devices compute what comes next.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from jaxsel._visits import Visits, checked_visits
from jaxsel.base import MIXED, SOLVED, UNSOLVED, Prediction

_MOST_OPEN = 64  # selections that are remembered


class Bookkeeping:
    """Counts visits and remembers the last batch. Counts on a device are fetched when somebody asks, see `note_later`.

    Args:
        visits: to every prompt so far; written to from now on.
    """

    def __init__(self, visits: Int[np.ndarray, " N"]):
        self._visits = visits
        self._num_visited = np.count_nonzero(visits)
        self._last: Visits | None = None
        self._open: list[_OpenSelection] = []
        self._matches: list[_Match] = []
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
        return float(self._num_visited / len(self._visits))

    def note(self, visits: Visits) -> None:
        """Takes in a batch."""
        self.settle()
        self._num_visited += np.count_nonzero(self._visits[visits.prompt_ids] == 0)
        self._visits[visits.prompt_ids] += 1
        self._last = visits
        self._matches = self._matched(visits.prompt_ids)

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

    def opened(self, prompt_ids: Int[np.ndarray, " b"], prediction: Prediction) -> None:
        """A selection was made; observations of its prompts are compared with its prediction."""
        self._open = [*(one for one in self._open[-_MOST_OPEN + 1 :] if one.waits.any())]
        self._open.append(_OpenSelection(prompt_ids, prediction, np.ones(len(prompt_ids), bool)))

    def with_visits(self, visits: Visits) -> "Bookkeeping":
        """A copy that has taken in one more batch."""
        self.settle()
        copied = Bookkeeping(self._visits.copy())
        copied._open = [one._replace(waits=one.waits.copy()) for one in self._open]
        copied.note(visits)
        return copied

    def report(self) -> dict[str, float]:
        """What was predicted of the prompts observed last, by the selections that they came from, against what came."""
        self.settle()
        if self._last is None or len(self._last.prompt_ids) == 0:
            return {}
        _, successes, sizes = self._last
        states = np.where(successes == 0, UNSOLVED, np.where(successes == sizes, SOLVED, MIXED))
        report = {"mixed_share": float((states == MIXED).mean())}
        if self._matches:
            observed = np.concatenate([match.observed for match in self._matches])
            predicted = np.concatenate([match.predicted() for match in self._matches], 1)
            errors = np.abs(predicted[3] - successes[observed] / sizes[observed])
            right = predicted[:3].argmax(0) == states[observed]
            report["predicted_mixed_share"] = float(predicted[MIXED].mean())
            report["success_rate_mae"] = float(errors.mean())
            report["solve_state_accuracy"] = float(right.mean())
        return report

    def _matched(self, ids: Int[np.ndarray, " v"]) -> list["_Match"]:
        """The observed ids, each with the selection it came from.

        A selection that waits for more of them goes first, of equal ones the oldest. Prompts that no selection waits
        for are of the newest one that holds them.
        """
        found = [_found(one.prompt_ids, ids) for one in self._open]
        waited = [int(one.waits[at].sum()) for one, (at, _) in zip(self._open, found, strict=True)]
        first = sorted(range(len(found)), key=lambda number: -waited[number])
        order = [(number, True) for number in first] + [(number, False) for number in reversed(range(len(found)))]
        is_free, matches = np.ones(len(ids), bool), []
        for number, only_waiting in order:
            one, (chosen, observed) = self._open[number], found[number]
            here = is_free[observed] & (one.waits[chosen] | (not only_waiting))
            if here.any():
                chosen, observed = chosen[here], observed[here]
                is_free[observed] = False
                one.waits[chosen] = False
                matches.append(_Match(one.prediction, chosen, observed))
        return matches


class _OpenSelection(NamedTuple):
    """A selection, and which of its prompts were not observed yet. The prediction may be longer than the ids."""

    prompt_ids: Int[np.ndarray, " b"]
    prediction: Prediction
    waits: Bool[np.ndarray, " b"]


class _Match(NamedTuple):
    """Positions in a selection, and the rows of the batch that were observed of them."""

    prediction: Prediction
    chosen: Int[np.ndarray, " k"]
    observed: Int[np.ndarray, " k"]

    def predicted(self) -> Float[np.ndarray, "4 k"]:
        """P(UNSOLVED), P(MIXED), P(SOLVED) and the success rate."""
        said = self.prediction
        fields = said.unsolved, said.mixed, said.solved, said.success_rate
        return np.array([np.asarray(field)[self.chosen] for field in fields])


def _found(
    prompt_ids: Int[np.ndarray, " b"], ids: Int[np.ndarray, " v"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Where the prompts stand that are in both: in `prompt_ids`, and in the ascending `ids`."""
    at = np.minimum(ids.searchsorted(prompt_ids), max(len(ids) - 1, 0))
    chosen = np.flatnonzero(ids[at] == prompt_ids) if len(ids) else np.zeros(0, np.int64)
    return chosen, at[chosen]
