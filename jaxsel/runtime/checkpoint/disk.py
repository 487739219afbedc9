"""What checkpoints need of the disk: folders, locks, checksums, and arrays by Orbax. Orbax is imported when used."""

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


def local_folder(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path, with `~` as the home folder.

    Raises:
        ValueError: it is the address of a store, a file, or no path.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fsdecode(path):
        raise ValueError(f"path is {path!r}; give the folder of a checkpoint")
    name = os.path.expanduser(os.fsdecode(path))
    if _URL.match(name):
        raise ValueError(f"path is {name}, which is no folder of this machine; give a folder, and copy it from there")
    folder = Path(name).absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder of a checkpoint")
    return folder


def on_first_process(function: Callable[[], int]) -> int:
    """Call the function in process 0 alone. Every process returns its result, or raises if process 0 does.

    Raises:
        ValueError: in the other processes, where process 0 raised anything.
    """
    if jax.process_count() == 1:
        return function()
    from jax.experimental import multihost_utils

    result, problem = -1, None
    if jax.process_index() == 0:
        try:
            result = function()
        except Exception as error:  # the other processes wait: they have to hear of it
            problem = error
    result = int(multihost_utils.broadcast_one_to_all(np.int32(result)))
    if problem is not None:
        raise problem
    if result < 0:
        raise ValueError("process 0 could not read or write the checkpoint; see its error, and give another folder")
    return result


@contextlib.contextmanager
def locked(folder: Path, *, shared: bool) -> Iterator[None]:
    """Hold the lock of the folder, which a killed process releases. Where the system has no such locks, there is none.

    Raises:
        ValueError: somebody else holds it for longer than a minute.
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
    """All files in the folder and the folders in it, sorted."""
    return sorted(file for file in folder.rglob("*") if not file.is_dir())


def sha256(file: Path, *, to_disk: bool = False) -> str:
    """Return the checksum of the file, after its content has reached the disk if asked to."""
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        if to_disk:
            os.fsync(content.fileno())
        while block := content.read(_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Bring the names of the folder's entries to the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_arrays(folder: Path, arrays: PyTree[Array | np.ndarray]) -> None:
    """Let Orbax write the folder; processes call it together."""
    with _quiet(), _without_patterns(folder) as plain:
        import orbax.checkpoint as ocp

        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(plain, args=ocp.args.StandardSave(arrays))


def read_arrays(folder: Path, like: PyTree[Array | np.ndarray], *, strict: bool) -> PyTree[Array | np.ndarray]:
    """Return what Orbax wrote, as `like` is; not strict: jax arrays are cut or filled with zeros to their shapes."""
    with _quiet(), _without_patterns(folder) as plain:
        import orbax.checkpoint as ocp

        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            return checkpointer.restore(plain, args=ocp.args.StandardRestore(like, strict=strict))


@contextlib.contextmanager
def _without_patterns(folder: Path) -> Iterator[Path]:
    """A path of the folder without the signs of patterns, since Orbax looks for its own files by `glob`.

    Raises:
        ValueError: several processes would have to agree on such a path.
    """
    name = str(folder)
    if glob.escape(name) == name and "\\" not in name and name.isprintable():
        yield folder
        return
    if jax.process_count() > 1:
        raise ValueError(f"{name!r} has a sign such as [ or *, which several processes cannot share; give another")
    with tempfile.TemporaryDirectory() as elsewhere:
        link = Path(elsewhere) / "folder"
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


class _Errors(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax tells each of its steps through absl, whose other users are heard as before and afterwards."""
    logger, errors = logging.getLogger("absl"), _Errors()
    logger.addFilter(errors)  # one for each call: threads do not undo each other's
    try:
        yield
    finally:
        logger.removeFilter(errors)
