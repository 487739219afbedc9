"""Prompts in flight: selected and not yet observed."""

import numpy as np
from jaxtyping import Bool, Int


class InFlight:
    """A record of the selection in which each prompt was handed out.

    Args:
        num_prompts: Size of the pool.
        steps: Number of later selections after which an unobserved prompt may be chosen again; None: no limit.
    """

    def __init__(self, num_prompts: int, steps: int | None):
        self._steps = steps
        self._handed_out = np.zeros(num_prompts, np.int32)  # 1 + number of the selection; 0: not in flight

    def mask(self, selects: int) -> Bool[np.ndarray, " N"]:
        """Return a mask of the prompts that are in flight before selection number `selects`."""
        out = self._handed_out > 0
        return out if self._steps is None else out & (selects - self._handed_out < self._steps)

    def longest(self, selects: int, among: Int[np.ndarray, " b"] | None = None) -> Int[np.ndarray, " k"]:
        """Return the rows in flight of the earliest selection that has any before selection number `selects`.

        Rows that are not in `among` are left out.
        """
        out = np.flatnonzero(self.mask(selects))
        if among is not None:
            out = np.intersect1d(out, among)
        handed_out = self._handed_out[out]
        return out[handed_out == handed_out.min(initial=np.iinfo(np.int32).max)]

    def hand_out(self, prompt_ids: Int[np.ndarray, " b"], selects: int) -> None:
        """Record that selection number `selects` chose the prompts."""
        self._handed_out[prompt_ids] = selects + 1

    def release(self, prompt_ids: Int[np.ndarray, " b"]) -> None:
        """Record that the prompts are no longer in flight."""
        self._handed_out[prompt_ids] = 0

    @property
    def array(self) -> Int[np.ndarray, " N"]:
        """A copy of the state, for a checkpoint."""
        return self._handed_out.copy()

    def put_back(self, array: Int[np.ndarray, " N"] | None) -> None:
        """Continue from the array of a checkpoint; None: no prompt is in flight."""
        self._handed_out = np.zeros_like(self._handed_out) if array is None else np.array(array, np.int32)
