"""The open step: observations that wait to be taken in as one."""

import numpy as np

from jaxsel._visits import Visits, merged


class OpenStep:
    """Observations of one step, merged, until the step ends.

    Observations of a step that has ended already count in the step that is open then, or in the next one.

    Args:
        ended: the number of the last step that ended; -1: none.
    """

    def __init__(self, ended: int = -1):
        self.ended = ended
        self.visits: Visits | None = None
        self._number = -1

    def is_over(self, number: int) -> bool:
        """Whether an observation of step `number` ends the step that is open."""
        return self.visits is not None and self.ended < self._number < number

    def add(self, number: int, visits: Visits) -> None:
        """Merge the observations into the step.

        Raises:
            ValueError: counts of a prompt that sum to too many. The step stays as it was.
        """
        if self.visits is not None:
            visits = merged(*(np.concatenate(columns) for columns in zip(self.visits, visits, strict=True)))
        self.visits = visits
        self._number = max(self._number, number)

    def end(self) -> Visits | None:
        """The observations of the step, None where there is no step; the next one begins."""
        visits, self.visits = self.visits, None
        self.ended = max(self.ended, self._number)
        self._number = -1
        return visits
