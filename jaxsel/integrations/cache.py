"""The folder of cached files, which may be deleted: they are computed again."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return `$JAXSEL_CACHE`, or `~/.cache/jaxsel` where that variable is not set."""
    return Path(os.environ.get("JAXSEL_CACHE") or Path.home() / ".cache" / "jaxsel")
