"""Arrays and metadata on disk, by Orbax: sharded, and atomic. The only file of the package that touches the disk.

A checkpoint is a folder of numbered versions. A version appears under its number when it is complete, and the one
before it goes only after that: a crash while saving leaves what was there, and the partial version is never read.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree

logging.getLogger("absl").setLevel(logging.ERROR)
_ITEMS = ("arrays", "metadata")  # a folder each in the folder of a version


def save(path: str | Path, arrays: PyTree[Array | np.ndarray], metadata: dict[str, Any]) -> None:
    """Writes a new version; when the call returns, it is on disk and the previous one is gone.

    Args:
        path: the checkpoint's folder; made when missing.
        arrays: a pytree of arrays.
        metadata: JSON-able.

    Raises:
        ValueError: `path` is a file, or somebody else is writing there.
    """
    with _manager(path, create=True) as manager:
        version = (manager.latest_step() or 0) + 1
        saved = manager.save(
            version,
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), metadata=ocp.args.JsonSave(metadata)),
        )
        manager.wait_until_finished()
        if not saved:
            raise ValueError(f"version {version} of the checkpoint in {path} was not written; is another one writing?")


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of the newest complete version.

    Raises:
        ValueError: there is none.
    """
    with _manager(path) as manager:
        return manager.restore(_newest(manager, path), args=ocp.args.Composite(metadata=ocp.args.JsonRestore()))[
            "metadata"
        ]


def restore(path: str | Path, like: PyTree[Array | np.ndarray], *, padded: bool = False) -> PyTree[Array | np.ndarray]:
    """The arrays of the newest complete version, in the structure, types and placement of `like`.

    Args:
        path: the checkpoint's folder.
        like: a pytree of arrays.
        padded: jax arrays end in rows that mean nothing, and may have fewer or more of them (zeros) than on disk.

    Raises:
        ValueError: there is none, or it has another structure or other shapes.
    """
    with _manager(path) as manager:
        version = _newest(manager, path)
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(like, strict=not padded))
        arrays = manager.restore(version, args=args)["arrays"]
    saved, here = (jax.tree.map(np.shape, tree) for tree in (arrays, like))
    if saved != here:  # Orbax checks jax arrays alone
        raise ValueError(f"the checkpoint in {path} holds arrays of shapes {saved}, here {here}; give the same")
    return arrays


def _manager(path: str | Path, *, create: bool = False) -> ocp.CheckpointManager:
    path = Path(path).absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give the folder of a checkpoint")
    if not create and not path.exists():
        raise ValueError(f"there is no checkpoint at {path}; give a folder that PromptSelector.save wrote")
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, create=create, cleanup_tmp_directories=create, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(path, options=options)


def _newest(manager: ocp.CheckpointManager, path: str | Path) -> int:
    folder = Path(path).absolute()
    complete = [v for v in manager.all_steps() if all((folder / str(v) / item).is_dir() for item in _ITEMS)]
    if not complete:
        raise ValueError(f"there is no complete checkpoint in {path}; give a folder that PromptSelector.save wrote")
    return max(complete)
