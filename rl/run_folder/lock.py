"""One run at a time in a folder."""

import fcntl
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl.ranks import Ranks

LOCK = "run.lock"
_log = logging.getLogger(__name__)
_owners: dict[Path, int] = {}
"""The folders that this process has locked, and the thread that did."""


@contextmanager
def alone_in(run_dir: Path, ranks: Ranks) -> Iterator[None]:
    """Within it, no other run may use the folder; the lock of a process that was killed ends with the process.

    The thread that has the lock may enter again. Rank 0 has it for all ranks.

    Args:
        run_dir: made when missing.
        ranks: of the run; all of them enter.

    Raises:
        ValueError: another run uses the folder.
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
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _owners[run_dir.resolve()] = threading.get_ident()
    files.append(file)
