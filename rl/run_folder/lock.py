"""A lock on a run's folder, so that one run at a time writes to it."""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxsel.integrations.atomic_files import named
from rl.ranks import Ranks
from rl.run_folder.contents import foreign
from rl.run_folder.holder import LOCK, holder, said_by_this_process

_log = logging.getLogger(__name__)
_owners: dict[Path, int] = {}
"""The folders that this process has locked, with the thread that holds each lock."""


@contextmanager
def alone_in(run_dir: Path, ranks: Ranks) -> Iterator[None]:
    """Keep other runs out of the folder during the `with` block. The lock of a killed process ends with the process.

    The thread that holds the lock may enter again. Rank 0 holds it for all ranks.

    Args:
        run_dir: The folder of the run, created if it is missing.
        ranks: The processes that train together; all of them must enter.

    Raises:
        ValueError: Another run uses the folder.
        OSError: The disk is full, or the folder cannot be written to.
    """
    held = ranks.on_main(lambda: _owners.get(run_dir.resolve()) == threading.get_ident())
    if held:
        yield
        return
    files: list[int] = []
    ranks.on_main(lambda: _lock(run_dir, files))
    try:
        yield
    finally:
        for file in files:
            del _owners[run_dir.resolve()]
            os.close(file)


def _lock(run_dir: Path, files: list[int]) -> None:
    path = run_dir / LOCK
    with named(path, "the run does not start"):
        run_dir.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _hold(path, file)
        except BaseException:  # an open file would keep the folder locked
            os.close(file)
            raise
    _owners[run_dir.resolve()] = threading.get_ident()
    files.append(file)


def _hold(path: Path, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        by = path.read_text().strip() or "a process that has not given its name"
        raise ValueError(
            f"run_dir {path.parent} is in use by another run ({by}); wait for it, stop it, or give another folder"
        ) from error
    except OSError as error:  # some network file systems have no locks
        _log.warning("%s cannot be locked (%s); start no second run in this folder", path, error)
    if os.fstat(file).st_size and holder(path.parent) is None:
        raise foreign(path.parent, path.name)
    os.ftruncate(file, 0)
    os.write(file, said_by_this_process().encode())
