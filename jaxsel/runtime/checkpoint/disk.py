"""Access to the disk for checkpoints: folders, locks, checksums, and arrays by Orbax, which is imported when used."""

import contextlib
import glob
import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, PyTree

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_PATIENCE = 60.0  # seconds to wait for another writer or reader
_AT_ONCE = 2**20  # bytes


def local_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return the path of a file or folder, with `~` as the home folder. Errors name the argument `name`.

    Raises:
        ValueError: The path is the address of a remote store, which would become a folder such as `s3:`; or not a path.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fsdecode(path):
        raise ValueError(f"{name} is {path!r}; give the path of a local file or folder")
    local = os.path.expanduser(os.fsdecode(path))
    if _URL.match(local):
        raise ValueError(f"{name} is {local}, which is not on this machine; give a local path, and copy it from there")
    return Path(local)


def local_folder(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a folder, see `local_path`.

    Raises:
        ValueError: The path is the address of a remote store, a file, or not a path at all.
    """
    folder = local_path(path).absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder of a checkpoint")
    return folder


def on_first_process(function: Callable[[], int]) -> int:
    """Call the function in process 0 alone. Every process returns its result, or raises if process 0 does.

    Raises:
        ValueError: Process 0 raised an error. It raises that error itself, and the other processes raise this one.
    """
    if jax.process_count() == 1:
        return function()
    from jax.experimental import multihost_utils

    result, problem = -1, None
    if jax.process_index() == 0:
        try:
            result = function()
        except Exception as error:  # the other processes wait for the outcome
            problem = error
    result = int(multihost_utils.broadcast_one_to_all(np.int32(result)))
    if problem is not None:
        raise problem
    if result < 0:
        raise ValueError("process 0 could not read or write the checkpoint; see its error, and give another folder")
    return result


@contextlib.contextmanager
def locked(folder: Path, *, shared: bool) -> Iterator[None]:
    """Hold the lock of the folder. A killed process releases it. On systems without such locks, hold nothing.

    Raises:
        ValueError: Another process or thread holds the lock for longer than a minute.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor, start = os.open(folder, os.O_RDONLY), time.monotonic()
    try:
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - start > _PATIENCE:
                    raise ValueError(
                        f"another process reads or writes the checkpoint in {folder}; give another folder"
                    ) from None
                time.sleep(0.01)
            except OSError:  # a network file system without locks
                break
        yield
    finally:
        os.close(descriptor)


def files_below(folder: Path) -> list[Path]:
    """Return all files in the folder and its subfolders, sorted."""
    return sorted(file for file in folder.rglob("*") if not file.is_dir())


def sha256(file: Path, *, to_disk: bool = False) -> str:
    """Return the checksum of the file; with `to_disk`, the content is on the disk when this returns."""
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        if to_disk:
            os.fsync(content.fileno())
        while block := content.read(_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Write the names of the folder's entries to the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_arrays(folder: Path, arrays: PyTree[Array | np.ndarray]) -> None:
    """Write the arrays to the folder with Orbax; all processes call this together."""
    with _quiet(), _without_patterns(folder) as plain:
        import orbax.checkpoint as ocp

        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(plain, args=ocp.args.StandardSave(arrays))


def read_arrays(folder: Path, like: PyTree[Array | np.ndarray], *, strict: bool) -> PyTree[Array | np.ndarray]:
    """Return the arrays that Orbax wrote, in the structure and placement of `like`.

    Unless `strict`, jax arrays are cut or padded with zeros to the shapes in `like`.
    """
    with _quiet(), _without_patterns(folder) as plain:
        import orbax.checkpoint as ocp

        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            return checkpointer.restore(plain, args=ocp.args.StandardRestore(like, strict=strict))


@contextlib.contextmanager
def _without_patterns(folder: Path) -> Iterator[Path]:
    """Yield a path to the folder without characters such as [ or *, because Orbax finds files with `glob`.

    Raises:
        ValueError: The path has such characters, and several processes would have to agree on another path.
    """
    name = str(folder)
    if glob.escape(name) == name and "\\" not in name and name.isprintable():
        yield folder
        return
    if jax.process_count() > 1:
        raise ValueError(
            f"{name!r} has a character such as [ or *, which several processes cannot share; give another path"
        )
    with tempfile.TemporaryDirectory() as elsewhere:
        link = Path(elsewhere) / "folder"
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


class _Errors(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide Orbax's messages below the level ERROR. They go through absl, whose level and filters stay."""
    logger, errors = logging.getLogger("absl"), _Errors()
    logger.addFilter(errors)  # one filter per call, so that one thread does not remove the filter of another
    try:
        yield
    finally:
        logger.removeFilter(errors)
