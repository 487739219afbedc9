"""The open step: observations that wait to become one update."""

import numpy as np

from jaxsel._visits import Visits, merged


class OpenStep:
    """Collects and merges the observations of one step until the step ends.

    Observations of a step that has already ended count in the open step, or in the next step if none is open.

    Args:
        ended: Number of the last step that ended; -1: none has ended.
    """

    def __init__(self, ended: int = -1):
        self.ended = ended
        self.visits: Visits | None = None
        self._number = -1

    def is_over(self, number: int) -> bool:
        """Return whether an observation of step `number` ends the open step."""
        return self.visits is not None and self.ended < self._number < number

    def add(self, number: int, visits: Visits) -> None:
        """Merge the observations into the step.

        Raises:
            ValueError: The counts of a prompt sum to 2^24 or more. The step stays as it was.
        """
        if self.visits is not None:
            visits = merged(*(np.concatenate(columns) for columns in zip(self.visits, visits, strict=True)))
        self.visits = visits
        self._number = max(self._number, number)

    def end(self) -> Visits | None:
        """End the step and return its observations; None if no step is open."""
        visits, self.visits = self.visits, None
        self.ended = max(self.ended, self._number)
        self._number = -1
        return visits
