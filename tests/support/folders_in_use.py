"""Checks that a refused run changes nothing in its folder."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl.ranks import Ranks
from rl.run_folder.lock import alone_in


def assert_refused_while_in_use(folder: Path, begin: Callable[[], Any]) -> None:
    """Check that `begin`, which starts a run in the folder, is refused while another run holds it.

    The refused run changes nothing in the folder.
    """
    with alone_in(folder, Ranks()):
        found = []

        def second():
            with pytest.raises(ValueError, match="is in use by another run"):
                begin()
            found.append("refused")

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert found == ["refused"]
    assert [file.name for file in folder.iterdir()] == ["run.lock"]


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the bytes of all files in and below a folder, without the lock of a run."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"}
