"""Names and encodes the arrays of a state, as checkpoints hold them."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped


def by_name(tree: Any) -> dict[str, Any]:
    """Return the leaves by their paths, for example `state.successes`."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def replaced(tree: Any, arrays: dict[str, Any]) -> Any:
    """Return the tree with `arrays` in place of the leaves of the same names."""
    return jax.tree.map_with_path(lambda path, leaf: arrays.get(_name(path), leaf), tree)


def encoded(array: Shaped[np.ndarray, "..."]) -> dict[str, Any]:
    """Return the array as text, numbers and bytes, which `torch.load` reads without unpickling."""
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": array.tobytes()}


def decoded(name: str, value: Any) -> Shaped[np.ndarray, "..."]:
    """Return a copy of the array that `encoded` was given, or of a plain array as earlier versions stored it.

    Raises:
        ValueError: The value is neither of the two.
    """
    try:
        if not isinstance(value, dict):
            return np.array(value)
        return np.frombuffer(value["data"], np.dtype(value["dtype"])).reshape(value["shape"]).copy()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the array {name} cannot be read ({error}); give what state_dict() returned") from error


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
