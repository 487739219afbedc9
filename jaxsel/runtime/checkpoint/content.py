"""The content of a checkpoint: arrays and metadata of a selector, and their placement in the selector that reads it."""

from typing import Any

import jax
import numpy as np

from jaxsel.base import State, call_optional
from jaxsel.runtime.checkpoint import metadata as _metadata
from jaxsel.runtime.checkpoint.arrays import by_name
from jaxsel.runtime.checkpoint.earlier_dps_layout import arrays_as_here, arrays_as_saved
from jaxsel.runtime.checkpoint.folder import Saved
from jaxsel.runtime.checkpoint.optional_arrays import as_here, as_saved
from jaxsel.runtime.placement import shape_of_pool, to_devices


def named_arrays(state: State, others: dict[str, Any]) -> dict[str, Any]:
    """Return all arrays by name, except the state's constants, such as embeddings, which a checkpoint does not hold."""
    constants = {f"state.{name}" for name in call_optional(state, "constants", ())}
    return {name: leaf for name, leaf in by_name({"state": state, **others}).items() if name not in constants}


def metadata_of(
    spec: dict[str, Any], pool: str, arrays: dict[str, Any], num_prompts: int, seed: int, counters: dict[str, int]
) -> dict[str, Any]:
    """Return the metadata of a checkpoint.

    Args:
        spec: `PromptSelector.spec`, the description of its method.
        pool: Fingerprint of the pool.
        arrays: Arrays of the checkpoint by name.
        num_prompts: Size of the pool.
        seed: Seed of the selector.
        counters: Numbers of selections and updates, and the last step that ended.
    """
    return {
        "format": _metadata.FORMAT,
        "spec": spec,
        "pool": pool,
        "shapes": {name: list(shape_of_pool(leaf, num_prompts)) for name, leaf in arrays.items()},
        "seed": seed,
        "counters": counters,
    }


def from_state_dict(state_dict: dict[str, Any], here: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of a `state_dict`, placed as the arrays `here` of the selector that reads it.

    Args:
        state_dict: Dictionary that `PromptSelector.state_dict` returned.
        here: Arrays of the selector by name.
        metadata: Metadata of the selector.

    Raises:
        ValueError: The checkpoint belongs to another method, other hyperparameters or another pool, or it is damaged.
    """
    arrays = _metadata.checked_arrays(as_here(state_dict, here), metadata)
    return arrays | {name: to_devices(arrays[name], leaf) for name, leaf in here.items() if isinstance(leaf, jax.Array)}


def from_folder(saved: Saved, here: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of a folder, placed as the arrays `here` of the selector that reads it.

    Args:
        saved: Opened version of the folder.
        here: Arrays of the selector by name.
        metadata: Metadata of the selector.

    Raises:
        ValueError: The checkpoint belongs to another method, other hyperparameters or another pool, or it is damaged.
    """
    _metadata.check(as_here({"metadata": saved.metadata}, here)["metadata"], metadata)
    like = as_saved(here, saved.metadata)
    arrays = saved.restore(arrays_as_saved(like, saved.metadata["shapes"], metadata["shapes"]), padded=True)
    return arrays_as_here(arrays, metadata["shapes"])


def of_another_pool(saved: Saved, here: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a folder on the host, with the shapes that they were saved with.

    Args:
        saved: Opened version of the folder.
        here: Arrays by name of a selector that differs in its pool only.

    Raises:
        ValueError: The folder is damaged, or it holds other arrays.
    """
    shapes = saved.metadata["shapes"]
    dtypes = {name: array.dtype for name, array in as_saved(here, saved.metadata).items()}
    if dtypes.keys() != shapes.keys():
        different = ", ".join(sorted(dtypes.keys() ^ shapes.keys()))
        raise ValueError(f"the checkpoint or this selector alone holds the arrays {different}; give the saved method")
    like = {name: np.zeros(shapes[name], dtype) for name, dtype in dtypes.items()}
    return saved.restore(like, padded=True)  # the devices of a mesh pad their parts
