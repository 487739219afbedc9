"""Counts of visits to every prompt, and errors of the last prediction, on the host.

The counting uses NumPy, so that the devices can compute something else at the same time.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from jaxsel._visits import Visits, checked_visits
from jaxsel.base import MIXED, SOLVED, UNSOLVED, Prediction

# Selections are kept to be compared with observations: the newest 64, or more if these hold fewer prompts than 256.
_MOST_OPEN, _MOST_WAITING = 64, 256


class Bookkeeping:
    """Counts visits and compares the last observed batch with its prediction.

    A visit is one step in which rollouts of a prompt are observed. Counts on a device are fetched when they are needed,
    see `note_later`.

    Args:
        visit_counts: Number of visits to each prompt so far. This array is modified from now on.
        last_visit: Step of the last visit to each prompt; -1 before the first visit. This array is modified too.
        steps: Number of steps so far.
    """

    def __init__(self, visit_counts: Int[np.ndarray, " N"], last_visit: Int[np.ndarray, " N"], steps: int):
        self._visit_counts = visit_counts
        self._last_visit = last_visit
        self._steps = steps
        self._num_visited = np.count_nonzero(visit_counts)
        self._last: Visits | None = None
        self._open: list[_OpenSelection] = []
        self._matches: list[_Match] = []
        self._waiting: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None

    @property
    def visits(self) -> Int[np.ndarray, " N"]:
        """The number of visits per prompt, not a copy. A visit has at least one rollout with a reward."""
        self.settle()
        return self._visit_counts

    @property
    def last_visit(self) -> Int[np.ndarray, " N"]:
        """The step of the last visit per prompt, counted from 0, not a copy; -1 before the first visit."""
        self.settle()
        return self._last_visit

    @property
    def coverage(self) -> float:
        """The visited share of the pool."""
        self.settle()
        return float(self._num_visited / len(self._visit_counts))

    def note(self, visits: Visits) -> None:
        """Count a batch."""
        self.settle()
        self._num_visited += np.count_nonzero(self._visit_counts[visits.prompt_ids] == 0)
        self._visit_counts[visits.prompt_ids] += 1
        self._last_visit[visits.prompt_ids] = self._steps
        self._steps += 1
        self._last = visits
        self._matches = self._matched(visits.prompt_ids)

    def note_later(
        self, prompt_ids: Int[np.ndarray, " b"], successes: Int[Array, " b"], group_size: Int[Array, " b"]
    ) -> None:
        """Store a batch and count it later, when its counts are needed. This call waits only for an earlier batch."""
        self.settle()
        self._waiting = prompt_ids, successes, group_size

    def settle(self) -> None:
        """Fetch and count the batch that `note_later` stored.

        Raises:
            ValueError: The stored counts are not valid counts of rollouts. The batch stays stored, so every later call
                raises too.
        """
        if self._waiting is not None:
            visits = checked_visits(*self._waiting, num_prompts=len(self._visit_counts))
            self._waiting = None
            self.note(visits)

    def opened(self, prompt_ids: Int[np.ndarray, " b"], prediction: Prediction) -> None:
        """Record a selection. Observations of its prompts will be compared with its prediction."""
        self._open = [one for one in self._open if one.waits.any()]
        self._open.append(_OpenSelection(prompt_ids, prediction, np.ones(len(prompt_ids), bool)))
        while len(self._open) > _MOST_OPEN and sum(len(one.prompt_ids) for one in self._open) > _MOST_WAITING:
            del self._open[0]

    def forget(self) -> None:
        """Forget the selections that wait for observations."""
        self._open = []

    def with_visits(self, visits: Visits) -> "Bookkeeping":
        """Return a copy that has counted one more batch."""
        self.settle()
        copied = Bookkeeping(self._visit_counts.copy(), self._last_visit.copy(), self._steps)
        copied._open = [one._replace(waits=one.waits.copy()) for one in self._open]
        copied.note(visits)
        return copied

    def report(self) -> dict[str, float]:
        """Return how the last observations compare with the predictions of the selections that chose the prompts."""
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
        """Match the observed ids with the selections that chose them.

        A selection waits for its prompts that are not yet observed. The selection that waits for the most of these ids
        is matched first; among equal selections, the oldest. Ids that no selection waits for are matched with the
        newest selection that contains them.
        """
        found = self._found_in_all(ids)
        waited = [int(one.waits[at].sum()) for one, (at, _) in zip(self._open, found, strict=True)]
        first = sorted(range(len(found)), key=lambda number: -waited[number])
        order = [(number, True) for number in first] + [(number, False) for number in reversed(range(len(found)))]
        is_free, matches = np.ones(len(ids), bool), []
        for number, only_waiting in order:
            one, (chosen, observed) = self._open[number], found[number]
            if len(chosen) == 0 or (only_waiting and waited[number] == 0):
                continue
            here = is_free[observed] & (one.waits[chosen] | (not only_waiting))
            if here.any():
                chosen, observed = chosen[here], observed[here]
                is_free[observed] = False
                one.waits[chosen] = False
                matches.append(_Match(one.prediction, chosen, observed))
                if not is_free.any():
                    break
        return matches

    def _found_in_all(self, ids: Int[np.ndarray, " v"]) -> list[tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]]:
        """Return for each open selection the positions of its prompts that are among the ids, and of these ids."""
        if len(self._open) < 2:
            return [_found(one.prompt_ids, ids) for one in self._open]
        # With many open selections a mask is quicker than a search: selections whose prompts were dropped stay open.
        among = np.zeros(len(self._visit_counts), bool)
        among[ids] = True
        chosen = [np.flatnonzero(among[one.prompt_ids]) for one in self._open]
        return [(at, ids.searchsorted(one.prompt_ids[at])) for one, at in zip(self._open, chosen, strict=True)]


class _OpenSelection(NamedTuple):
    """A selection and a mask of its prompts that are not yet observed. Padding may follow in the prediction."""

    prompt_ids: Int[np.ndarray, " b"]
    prediction: Prediction
    waits: Bool[np.ndarray, " b"]


class _Match(NamedTuple):
    """Positions in a selection, and the positions of the same prompts in the observed batch."""

    prediction: Prediction
    chosen: Int[np.ndarray, " k"]
    observed: Int[np.ndarray, " k"]

    def predicted(self) -> Float[np.ndarray, "4 k"]:
        """Return P(UNSOLVED), P(MIXED), P(SOLVED) and the success rate."""
        prediction = self.prediction
        fields = prediction.unsolved, prediction.mixed, prediction.solved, prediction.success_rate
        return np.array([np.asarray(field)[self.chosen] for field in fields])


def _found(
    prompt_ids: Int[np.ndarray, " b"], ids: Int[np.ndarray, " v"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Return the positions of the common prompts in `prompt_ids` and in the ascending `ids`."""
    at = np.minimum(ids.searchsorted(prompt_ids), max(len(ids) - 1, 0))
    chosen = np.flatnonzero(ids[at] == prompt_ids) if len(ids) else np.zeros(0, np.int64)
    return chosen, at[chosen]
