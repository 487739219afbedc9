"""Arrays that a checkpoint may lack: prompts in flight, hashes of the keys, and the steps of the last visits.

A checkpoint without one of them fits a selector that has it, and vice versa. Checkpoints of earlier versions also lack
the remainder of the sum and `in_common` in the weights of `state_space`, which are 0 then, and the features of
`amortized`, which are those of the method that reads the checkpoint.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

_DEFAULTS = {  # without the array: no prompt is in flight, the keys are those here, no last visit is known
    "in_flight": np.zeros_like,
    "keys": np.copy,
    "last_visit": lambda here: np.full_like(here, -1),
}
_DTYPES = {"in_flight": np.int32, "keys": np.uint32, "last_visit": np.int32}
_NEWER = {
    ".weights.remainder": np.zeros_like,
    ".weights.in_common": np.zeros_like,
    ".features.shift": np.copy,
    ".features.scale": np.copy,
}


def as_here(saved: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint that has exactly those optional arrays that the arrays `here` have.

    Args:
        saved: Checkpoint with `metadata`, and with `arrays` if it is a `state_dict`. Anything else is returned as it
            is, for the checks that follow.
        here: Arrays of the selector that reads the checkpoint.
    """
    metadata = saved.get("metadata") if isinstance(saved, dict) else None
    shapes = metadata.get("shapes") if isinstance(metadata, dict) else None
    if not isinstance(shapes, dict):
        return saved
    missing = {name: fill(here[name]) for name, fill in _DEFAULTS.items() if name in here and name not in shapes}
    missing |= missing_from_earlier(shapes, here)
    surplus = {name for name in _DEFAULTS if name in shapes and name not in here}

    def fitted(held: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
        return {name: entry for name, entry in held.items() if name not in surplus} | added

    shapes = fitted(shapes, {name: list(array.shape) for name, array in missing.items()})
    arrays = {"arrays": fitted(saved["arrays"], missing)} if isinstance(saved.get("arrays"), dict) else {}
    return saved | arrays | {"metadata": saved["metadata"] | {"shapes": shapes}}


def as_saved(here: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays `here` with exactly those optional arrays that the checkpoint has, so that it can be read."""
    absent = {*_DEFAULTS, *missing_from_earlier(metadata["shapes"], here)}
    arrays = {name: array for name, array in here.items() if name not in absent}
    optional = {name: metadata["shapes"][name] for name in _DTYPES if name in metadata["shapes"]}
    return arrays | {name: np.zeros(shape, _DTYPES[name]) for name, shape in optional.items()}


def missing_from_earlier(saved: Collection[str], here: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays that a checkpoint with the names `saved` lacks because they are newer than it."""
    return {
        name: fill(array)
        for name, array in here.items()
        for ending, fill in _NEWER.items()
        if name.endswith(ending) and name not in saved
    }
