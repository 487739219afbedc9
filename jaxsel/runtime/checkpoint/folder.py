"""Arrays and metadata on disk. Orbax writes the arrays; this module makes a checkpoint atomic and checked.

A checkpoint is a folder of numbered versions. A new version is written under a temporary name and gets its number when
it is complete. Only then is the previous version removed. A crash at any moment leaves one complete version.

    7/arrays/        the arrays, written by Orbax
    7/jaxsel.json    the metadata, and the SHA-256 of every other file; this file marks a version as one of jaxsel

Only versions of jaxsel are ever removed. Reading runs no code from the checkpoint: the files hold tensors and JSON.
Apart from `jaxsel.integrations`, only this module and `disk` access the disk.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxsel.runtime.checkpoint import disk
from jaxsel.runtime.locking import refuse_forks

_ARRAYS, _ABOUT = "arrays", "jaxsel.json"
# files and folders in a version that an earlier jaxsel wrote, without _ABOUT
_WRITTEN_BEFORE = {"arrays", "metadata", "_CHECKPOINT_METADATA", "commit_success.txt", "descriptor"}
_PARTIAL = re.compile(r"\d+\.jaxsel-(partial|old)", re.ASCII)
_PARTIAL_BEFORE = re.compile(r"\d+\.orbax-checkpoint-tmp.*", re.ASCII)


class Saved(NamedTuple):
    """One complete version.

    Attributes:
        folder: Folder of the version.
        metadata: The metadata that `save` was given.
        files: SHA-256 of each file by its path below `folder`; None: an earlier jaxsel wrote no checksums.
    """

    folder: Path
    metadata: dict[str, Any]
    files: dict[str, str] | None

    def restore(self, like: PyTree[Array | np.ndarray], *, padded: bool = False) -> PyTree[Array | np.ndarray]:
        """Return the arrays in the structure, types and placement of `like`.

        Args:
            like: Pytree of arrays.
            padded: Whether the arrays may have fewer rows than on disk, and jax arrays also more. Rows at their end are
                padding.

        Raises:
            ValueError: A file is damaged, or the structure or shapes differ from `like`.
        """
        disk.on_first_process(self._check_files)
        try:
            arrays = disk.read_arrays(self.folder / _ARRAYS, like, strict=not padded)
        except Exception as error:  # whatever Orbax and TensorStore raise
            raise ValueError(
                f"the arrays of the checkpoint {self.folder} cannot be restored ({_first_line(error)}); give the "
                "arguments that it was saved with, or delete the folder if it is damaged"
            ) from error
        if padded:  # Orbax cuts only jax arrays
            arrays = jax.tree.map(_without_padding, arrays, like)
        saved, here = (jax.tree.map(np.shape, tree) for tree in (arrays, like))
        if saved != here:  # Orbax checks only jax arrays
            raise ValueError(f"the checkpoint {self.folder} holds arrays of shapes {saved}, here {here}; give the same")
        return arrays

    def _check_files(self) -> int:
        for name, expected in (self.files or {}).items():
            file = self.folder / name
            if not file.is_file():
                raise ValueError(f"{file} is missing; {_damaged(self.folder)}")
            if disk.sha256(file) != expected:
                raise ValueError(f"{file} has another checksum than when it was written; {_damaged(self.folder)}")
        return 0


def _without_padding(array: Array | np.ndarray, like: Array | np.ndarray) -> Array | np.ndarray:
    is_padded = array.ndim == np.ndim(like) and array.shape != np.shape(like)
    return array[tuple(map(slice, np.shape(like)))] if is_padded else array


def save(path: str | Path, arrays: PyTree[Array | np.ndarray], metadata: dict[str, Any]) -> None:
    """Write a new version. When the call returns, it is on disk and the previous version is removed.

    Args:
        path: Folder of the checkpoint, which is created if it is missing. Otherwise it must be empty or hold a
            checkpoint of jaxsel.
        arrays: Pytree of arrays.
        metadata: JSON-able metadata.

    Raises:
        ValueError: `path` is not a folder on this machine's disks or holds something else, another process is writing
            there, or the disk is full. A checkpoint that was there before is unchanged.
    """
    folder = disk.local_folder(path)
    with ExitStack() as stack:
        version = disk.on_first_process(lambda: _begin(folder, stack))
        partial = folder / f"{version}.jaxsel-partial"
        try:
            disk.write_arrays(partial / _ARRAYS, arrays)
            disk.on_first_process(lambda: _finish(partial, folder / str(version), metadata))
        except Exception as error:  # whatever Orbax and TensorStore raise
            if jax.process_index() == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise ValueError(_not_written(folder, error)) from error
        disk.on_first_process(lambda: _remove_older(folder, version))


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of the newest complete version.

    Raises:
        ValueError: There is no complete version, or it is damaged.
    """
    with opened(path) as saved:
        return saved.metadata


def restore(path: str | Path, like: PyTree[Array | np.ndarray], *, padded: bool = False) -> PyTree[Array | np.ndarray]:
    """Return the arrays of the newest complete version, see `Saved.restore`.

    Raises:
        ValueError: There is no complete version, it is damaged, or it has another structure or other shapes.
    """
    with opened(path) as saved:
        return saved.restore(like, padded=padded)


@contextmanager
def opened(path: str | Path) -> Iterator[Saved]:
    """Open the newest complete version. No writer removes it while it is open.

    Raises:
        ValueError: There is no complete version, or its metadata are damaged.
        RuntimeError: This process is a fork of one that has made a selector.
    """
    refuse_forks()
    folder = disk.local_folder(path)
    if not folder.is_dir():
        raise ValueError(f"there is no checkpoint at {folder}; give a folder that PromptSelector.save wrote")
    with ExitStack() as stack:
        version = disk.on_first_process(lambda: _newest(folder, stack))
        yield _read(folder / str(version))


def _begin(folder: Path, stack: ExitStack) -> int:
    """Lock the folder, check its content, and make a subfolder with a temporary name for the new version."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(disk.locked(folder, shared=False))
        complete = _versions(folder)
        partial = _partial_versions(folder, complete)
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if others and not complete and not partial:
            some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            raise ValueError(
                f"{folder} holds {some}, which PromptSelector.save did not write; give a new or empty folder, "
                "for example one in it"
            )
        for leftover in partial:
            shutil.rmtree(leftover)
        version = 1 + max((int(name) for name in others if name.isascii() and name.isdigit()), default=0)
        (folder / f"{version}.jaxsel-partial").mkdir()
    except OSError as error:
        raise ValueError(_not_written(folder, error)) from error
    return version


def _finish(partial: Path, final: Path, metadata: dict[str, Any]) -> int:
    """Add the metadata and checksums, write everything to the disk, and give the version its number."""
    files = {
        file.relative_to(partial).as_posix(): disk.sha256(file, to_disk=True) for file in disk.files_below(partial)
    }
    content = {"metadata": metadata, "files": files}
    about = partial / _ABOUT
    about.write_text(json.dumps({"sha256": _of_content(content), **content}), encoding="utf-8")
    disk.sha256(about, to_disk=True)
    disk.sync_folder(partial)
    os.rename(partial, final)
    disk.sync_folder(final.parent)
    return 0


def _remove_older(folder: Path, version: int) -> int:
    try:
        for other, older in _versions(folder).items():
            if other < version and _holds_nothing_else(older):
                old = folder / f"{other}.jaxsel-old"  # the name marks it as jaxsel's, even when it is half removed
                os.rename(older, old)
                shutil.rmtree(old)
    except OSError as error:
        raise ValueError(
            f"version {version} of {folder} is complete, but an older one cannot be removed ({error}); remove it"
        ) from error
    return 0


def _newest(folder: Path, stack: ExitStack) -> int:
    stack.enter_context(disk.locked(folder, shared=True))
    complete = _versions(folder)
    if not complete:
        inside = "; this is one version of a checkpoint" if (folder / _ABOUT).exists() else ""
        raise ValueError(
            f"there is no complete checkpoint of jaxsel in {folder}{inside}; give the folder that PromptSelector.save "
            "wrote"
        )
    return max(complete)


def _versions(folder: Path) -> dict[int, Path]:
    """Return the complete versions of jaxsel by their number."""
    numbered = {entry for entry in folder.iterdir() if entry.name.isascii() and entry.name.isdigit()}
    versions = (entry for entry in numbered if str(int(entry.name)) == entry.name and _is_complete_version(entry))
    return {int(entry.name): entry for entry in versions}


def _is_complete_version(version: Path) -> bool:
    """Return whether jaxsel wrote this folder as a version of a checkpoint, now or in an earlier release."""
    if version.is_symlink() or not (version / _ARRAYS).is_dir():
        return False
    if (version / _ABOUT).is_file():
        return True
    before = version / "metadata" / "metadata"
    try:
        return {"format", "spec", "pool"} <= set(json.loads(before.read_bytes()))
    except (OSError, ValueError, TypeError):  # not written by jaxsel
        return False


def _partial_versions(folder: Path, complete: Collection[int]) -> list[Path]:
    """Return the incomplete versions that a crash left while jaxsel wrote or removed them.

    An earlier jaxsel left Orbax's own names, which every program that uses Orbax leaves too. Such a folder counts as
    jaxsel's only beside a complete version, and with the content of a version.
    """

    def is_incomplete(entry: Path) -> bool:
        if _PARTIAL.fullmatch(entry.name):
            return True
        inside = {name.name.partition(".")[0] for name in entry.iterdir()}
        return bool(complete and _PARTIAL_BEFORE.fullmatch(entry.name) and inside and inside <= _WRITTEN_BEFORE)

    return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink() and is_incomplete(entry)]


def _holds_nothing_else(version: Path) -> bool:
    if not (version / _ABOUT).is_file():
        return {entry.name for entry in version.iterdir()} <= _WRITTEN_BEFORE
    try:
        files = _read(version).files or {}
    except ValueError:  # damaged: its list of files cannot be trusted
        return False
    return {file.relative_to(version).as_posix() for file in disk.files_below(version)} <= {*files, _ABOUT}


def _read(version: Path) -> Saved:
    if not (version / _ABOUT).is_file():
        return Saved(version, json.loads((version / "metadata" / "metadata").read_bytes()), None)
    file = version / _ABOUT
    try:
        about = json.loads(file.read_bytes())
        content = {name: about[name] for name in ("metadata", "files")}
        intact = about["sha256"] == _of_content(content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({_first_line(error)}); {_damaged(version)}") from error
    if not intact:
        raise ValueError(f"{file} has another checksum than when it was written; {_damaged(version)}")
    return Saved(version, **content)


def _of_content(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(version: Path) -> str:
    return f"the checkpoint is damaged: restore {version} from a copy, or delete it and start anew"


def _not_written(folder: Path, error: Exception) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    cure = "free some space" if full else "make the folder writable"
    problem = f"no checkpoint was written to {folder} ({_first_line(error)})"
    return f"{problem}; {cure}; a checkpoint that was there before is unchanged"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
