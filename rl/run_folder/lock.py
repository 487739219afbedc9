"""A lock on a run's folder, so that one run at a time writes to it."""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl.ranks import Ranks
from rl.run_folder.holder import LOCK, said_by_this_process

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
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = path.read_text().strip() or "a process that has not given its name"
        os.close(file)
        raise ValueError(
            f"run_dir {run_dir} is in use by another run ({holder}); wait for it, stop it, or give another folder"
        ) from error
    except OSError as error:  # some network file systems have no locks
        _log.warning("%s cannot be locked (%s); start no second run in this folder", path, error)
    os.ftruncate(file, 0)
    os.write(file, said_by_this_process().encode())
    _owners[run_dir.resolve()] = threading.get_ident()
    files.append(file)
