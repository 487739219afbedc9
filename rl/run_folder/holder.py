"""The process that holds the lock on a run's folder. This file does not load torch."""

import os
import re
import socket
from pathlib import Path
from typing import NamedTuple

LOCK = "run.lock"


class Holder(NamedTuple):
    """The last process that locked a run's folder.

    Attributes:
        process: Number of the process on its machine.
        host: Name of the machine.
    """

    process: int
    host: str

    @property
    def is_alive(self) -> bool | None:
        """Whether the process still exists; None for a process of another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.process, 0)  # signal 0 only asks
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # a process of another user
        return True


def said_by_this_process() -> str:
    """Return what this process writes into a lock that it holds."""
    return f"process {os.getpid()} on {socket.gethostname()}\n"


def holder(run_dir: Path) -> Holder | None:
    """Return the last process that locked the folder, or None if no process has given its name.

    This function only reads: whoever took the lock for a moment could keep a starting run out.
    """
    try:
        said = (run_dir / LOCK).read_text(errors="replace")
    except OSError:
        return None
    found = re.fullmatch(r"process ([0-9]+) on (\S+)\n", said)
    return Holder(int(found[1]), found[2]) if found else None
