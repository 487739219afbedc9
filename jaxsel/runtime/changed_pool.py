"""Opens a checkpoint onto a pool whose prompts were added, removed or reordered. Prompts are matched by their keys."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxsel._rows import on_changed_pool
from jaxsel.base import State
from jaxsel.runtime.checkpoint.arrays import replaced
from jaxsel.runtime.checkpoint.content import named_arrays
from jaxsel.runtime.checkpoint.optional_arrays import missing_from_earlier
from jaxsel.runtime.window import EpochWindow

_OF_CHOOSER = ("visits", "last_visit", "in_flight", "keys", "window.epoch", "window.waiting")
_PER_FEATURE = ("scaling.shift", "features.shift")  # ends of the names in the states of state_space and amortized


def carried(
    saved: dict[str, np.ndarray], fresh: dict[str, np.ndarray], state: State, rows: Int[np.ndarray, " N"], seed: int
) -> dict[str, Any]:
    """Return the arrays of a checkpoint for a changed pool.

    Args:
        saved: Arrays of the checkpoint by name.
        fresh: Arrays of a new selector for the changed pool by name.
        state: State of the method in the new selector, with the arrays of `fresh`.
        rows: For each prompt of the new pool, its row in the checkpoint's pool; -1 for a new prompt.
        seed: Seed of the selector.

    Raises:
        ValueError: The arrays of the checkpoint have other shapes than those of the new selector, apart from the size
            of the pool, or the state has no `with_rows`.
    """
    num_old = len(saved["visits"])
    saved = saved | missing_from_earlier(saved, fresh)
    _check_shapes(saved, fresh, num_old, len(rows))
    old = replaced({"state": state}, {name: saved[name] for name in fresh if name.startswith("state.")})["state"]
    arrays = named_arrays(on_changed_pool(old, rows, state), {})
    for name, nothing in (("visits", 0), ("last_visit", -1), ("in_flight", 0)):
        if name in fresh:
            old_column = saved.get(name, np.full(num_old, nothing, np.int32))
            arrays[name] = np.where(rows >= 0, old_column[rows], nothing).astype(np.int32)
    if "window.epoch" in fresh:
        window = EpochWindow(num_old, seed)
        window.load_state_dict({name: saved[f"window.{name}"] for name in ("epoch", "waiting")})
        window.on_changed_pool(rows)
        arrays |= {f"window.{name}": array for name, array in window.state_dict().items()}
    return arrays | {"keys": fresh["keys"]}


def warn_of_change(num_old: int, rows: Int[np.ndarray, " N"]) -> None:
    """Warn if prompts were added or removed, and say how many. A new order alone needs no warning."""
    added, kept = int((rows < 0).sum()), int((rows >= 0).sum())
    if added or kept < num_old:
        warnings.warn(
            f"the checkpoint is of another pool: {kept} prompts were matched by their keys and keep their beliefs, "
            f"{added} are new, {num_old - kept} are dropped; give the saved keys to continue with the saved pool",
            stacklevel=3,
        )


def _check_shapes(saved: dict[str, np.ndarray], fresh: dict[str, np.ndarray], num_old: int, num_new: int) -> None:
    """Check that shapes agree, except for the length of a last axis that runs over the prompts.

    Raises:
        ValueError: An array is missing on one side, or its shapes differ otherwise.
    """
    names = {name for name in saved.keys() | fresh.keys() if name not in _OF_CHOOSER}
    for name in sorted(names & saved.keys() & fresh.keys()):
        if name.endswith(_PER_FEATURE) and np.shape(saved[name]) != np.shape(fresh[name]):
            extra = name.endswith(_PER_FEATURE[1])  # the logarithm of the norm
            before, after = (len(arrays[name]) - extra for arrays in (saved, fresh))
            raise ValueError(
                f"embeddings has {after} columns, and had {before} when the belief was learnt; give embeddings of the "
                "same model"
            )
    for name in sorted(names):
        before, after = (np.shape(arrays[name]) if name in arrays else None for arrays in (saved, fresh))
        is_resized = before and after and (*before[:-1], num_new) == after and before[-1] == num_old
        if before != after and not is_resized:
            found = f"has shape {before} in the checkpoint and {after} here"
            if before is None or after is None:
                found = f"is missing {'in the checkpoint' if before is None else 'here'}"
            raise ValueError(f"{name} {found}; give a method that differs from the saved one in nothing but the pool")
