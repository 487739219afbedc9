"""Where files that can be made again are kept."""

import os
from pathlib import Path


def cache_root() -> Path:
    """`$JAXSEL_CACHE`, else `~/.cache/jaxsel`."""
    return Path(os.environ.get("JAXSEL_CACHE") or Path.home() / ".cache" / "jaxsel")
