"""The folder of cached files, which may be deleted: they are computed again."""

import os
from pathlib import Path

from jaxsel.runtime.checkpoint.disk import local_path


def cache_root() -> Path:
    """Return `$JAXSEL_CACHE`, or `~/.cache/jaxsel` where that variable is not set.

    Raises:
        ValueError: The variable holds the address of a remote store.
    """
    return local_path(os.environ.get("JAXSEL_CACHE") or "~/.cache/jaxsel", "JAXSEL_CACHE")
