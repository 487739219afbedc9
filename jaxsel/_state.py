"""What any state is asked for: its arrays by name, as checkpoints hold them, and what its own methods say."""

from typing import Any

import jax


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves, under their path: `state.successes`."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def replaced(tree: Any, arrays: dict[str, Any]) -> Any:
    """The tree, with `arrays` in place of the leaves that they are named after."""
    return jax.tree.map_with_path(lambda path, leaf: arrays.get(_name(path), leaf), tree)


def said_by(state: Any, name: str, default: Any) -> Any:
    """What the state's method of that name returns, where it has one."""
    return getattr(state, name)() if hasattr(state, name) else default


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
