"""Prompts in flight: selected and not yet observed."""

from typing import Any

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


def in_flight_as_here(saved: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint that has the array `in_flight` if and only if the arrays `here` have it.

    A checkpoint of a selector that did not track prompts in flight then fits a selector that does, and vice versa.

    Args:
        saved: Checkpoint with `metadata`, and with `arrays` if it is a `state_dict`.
        here: Arrays of the selector that reads the checkpoint.
    """
    shapes = saved["metadata"].get("shapes") if isinstance(saved.get("metadata"), dict) else None
    if not isinstance(shapes, dict) or ("in_flight" in here) == ("in_flight" in shapes):
        return saved
    parts = {"shapes": shapes} | ({"arrays": saved["arrays"]} if "arrays" in saved else {})
    if "in_flight" in here:
        empty = np.zeros_like(here["in_flight"])
        fitted = {
            "shapes": shapes | {"in_flight": list(empty.shape)},
            "arrays": parts.get("arrays", {}) | {"in_flight": empty},
        }
    else:
        fitted = {
            part: {name: entry for name, entry in held.items() if name != "in_flight"} for part, held in parts.items()
        }
    arrays = {"arrays": fitted["arrays"]} if "arrays" in saved else {}
    return saved | arrays | {"metadata": saved["metadata"] | {"shapes": fitted["shapes"]}}


def in_flight_as_saved(here: dict[str, Any], metadata: dict[str, Any], num_prompts: int) -> dict[str, Any]:
    """Return the arrays `here`, with prompts in flight only if the checkpoint has them, so that it can be read."""
    arrays = {name: array for name, array in here.items() if name != "in_flight"}
    return arrays | ({"in_flight": np.zeros(num_prompts, np.int32)} if "in_flight" in metadata["shapes"] else {})
