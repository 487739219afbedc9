"""Folders of a cache, which are written once and then only read."""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


def written_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Write the folder, unless it is there, so that readers see all of it or nothing.

    One process at a time writes: of hundreds of runs that start together, one computes, and the others wait for it. The
    lock of a process that dies ends with the process, and the next one writes. Where the file system has no locks, all
    of them write, and the first one to finish wins.

    Args:
        folder: The folder to write.
        write: A function that fills the empty folder that it is given.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if folder.exists():
            return
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            write(partial)
            partial.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, a file beside it, during the `with` block. The holder of the lock deletes the file."""
    path = folder.parent / f".{folder.name}.lock"
    file = _locked(path)
    while not _is_at(path, file):  # the process that held the lock has deleted the file
        os.close(file)
        file = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process writes %s; waiting for it", path.name[1:].removesuffix(".lock"))
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            os.close(file)
            raise
        _log.warning("%s cannot be locked (%s); other runs may compute it too", path, error)
    except BaseException:  # a signal to stop
        os.close(file)
        raise
    return file


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
