"""Files that a crash does not spoil."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replaced_when_complete(path: Path, *, keep: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write: it takes the place of `path` when all of it is on disk, and an error leaves `path` as it was.

    Args:
        path: to write.
        keep: the earlier version of `path`, if there is one, moves there.

    Raises:
        OSError: the disk is full, or fails otherwise; the message names `path`.
    """
    partial = path.with_suffix(".partial")
    with named(path, "it stays as it was"), partial.open("wb") as file:
        watched: Any = _Watched(file)
        try:
            yield watched
            file.flush()
            os.fsync(file.fileno())
        except Exception as error:
            partial.unlink(missing_ok=True)  # which takes room on a full disk
            # Writers in C++ (torch, Arrow) replace a full disk's error by one of their own.
            if watched.failure is None or isinstance(error, OSError):
                raise
            raise watched.failure from error
    with named(path, "it stays as it was"):
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(partial, path)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill: it takes the place of `folder`, which this function wrote before, when it is complete.

    Raises:
        OSError: the disk is full, or fails otherwise; the message names `folder`.
    """
    partial, old = (folder.with_name(f"{folder.name}.{state}") for state in ("partial", "old"))
    with named(folder, "it stays as it was"):
        for left in (partial, old):  # by a crash
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def named(path: Path, consequence: str) -> Iterator[None]:
    """Raises an `OSError` again with the file's name and what to do.

    Args:
        path: of the file that is written.
        consequence: what the failure means for it.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        cure = "free some space (or mend the disk) and start again with resume=true"
        said = f"cannot write {path}: {reason}; {consequence}; {cure}"
        raise (OSError(error.errno, said) if error.errno else OSError(said)) from error


class _Watched:
    """A file that remembers the first error of a write."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
