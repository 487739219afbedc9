"""The arrays of any state by name, as checkpoints hold them."""

from typing import Any

import jax

from jaxsel.base import said_by as said_by


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves, under their path: `state.successes`."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def replaced(tree: Any, arrays: dict[str, Any]) -> Any:
    """The tree, with `arrays` in place of the leaves that they are named after."""
    return jax.tree.map_with_path(lambda path, leaf: arrays.get(_name(path), leaf), tree)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
