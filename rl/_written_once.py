"""Folders of a cache, which are written once and then only read."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def written_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Write the folder so that readers see all of it or nothing. Of several writers, the first one to finish wins.

    Args:
        folder: The folder to write.
        write: A function that fills the empty folder that it is given.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        write(partial)
        partial.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
