"""Files and folders that replace their earlier version only when complete, so that a crash leaves one of the two."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_OF_THE_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST)


@contextmanager
def replaced_when_complete(path: Path, *, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Yield an open file that replaces `path` once all of its content is on disk.

    An error leaves `path` as it was.

    Args:
        path: The file to write.
        keep: The new name of the earlier version of `path`, if there is one. None: the earlier version is deleted.

    Raises:
        OSError: The disk is full, or fails otherwise. The message names `path`.
    """
    partial = _beside(path, "partial")
    with named(path, "it stays as it was"), partial.open("wb") as file:
        watched: Any = _Watched(file)
        try:
            yield watched
            file.flush()
            os.fsync(file.fileno())
        except Exception as error:
            partial.unlink(missing_ok=True)  # it would take space on a full disk
            # writers in C++ (torch, Arrow) raise an error of their own instead of the error of a full disk
            if watched.failure is None or isinstance(error, OSError):
                raise
            raise watched.failure from error
    with named(path, "it stays as it was"):
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(partial, path)


@contextmanager
def replaced_folder(folder: Path, *, own: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` once the `with` block has filled it.

    Entries of an existing folder that the new folder lacks move into the new one, because they may be the user's.
    After a crash, the next call moves what is left.

    Args:
        folder: The folder to write. A link to a folder stays a link.
        own: Patterns of names that only the `with` block writes: such entries of the existing folder are deleted.

    Raises:
        OSError: The disk is full, or fails otherwise. The message names `folder`.
    """
    folder = folder.resolve()
    partial, old = (_beside(folder, state) for state in ("partial", "old"))
    with named(folder, "it stays as it was"):
        _merge(old, folder, own)  # left by a crash
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
        _merge(old, folder, own)


def _merge(old: Path, folder: Path, own: Sequence[str]) -> None:
    """Move the entries of `old` that `folder` lacks, except `own`, into `folder`; then delete `old`, if it exists."""
    if not old.exists():
        return
    if not folder.exists():
        os.replace(old, folder)
        return
    for entry in list(old.iterdir()):
        new = folder / entry.name
        if not os.path.lexists(new):
            if not any(entry.match(pattern) for pattern in own):
                os.replace(entry, new)
        elif all(path.is_dir() and not path.is_symlink() for path in (entry, new)):
            _merge(entry, new, own=())
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, state: str) -> Path:
    """Return a name that only this module gives, so that no file of the user is replaced or deleted."""
    return path.with_name(f".{path.name}.jaxsel-{state}")


@contextmanager
def named(path: Path, consequence: str) -> Iterator[None]:
    """Raise an `OSError` of the `with` block again, with a message that names the file and the cure.

    Args:
        path: The file that the block writes.
        consequence: What the failure means for the file.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        cure = "free some space (or repair the disk) and start again; a run of rl.train continues with resume=true"
        if error.errno in _OF_THE_PATH:
            cure = "give a path in a folder that exists and that you may write to"
        message = f"cannot write {path}: {reason}; {consequence}; {cure}"
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error


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
