"""Compiled programs that stay on disk, so that a second start of the same run compiles nothing."""

import contextlib
import hashlib
import platform
import time
from pathlib import Path

import jax

from jaxsel.integrations.cache import cache_root

_LARGEST = 2**30  # bytes; JAX deletes the programs that were not used for the longest time
_PATIENCE = 60.0  # seconds that another process may need to write a program and its time of use
_PROCESSORS = Path("/proc/cpuinfo")


def keep_compiled_programs() -> None:
    """Let JAX keep its compiled programs in the folder `programs` of the cache, at most 1 GiB of them.

    A folder that is set already, by JAX_COMPILATION_CACHE_DIR or in `jax.config`, remains. Processors of different
    kinds that share a home have different folders, because a program for one may use instructions that another lacks.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = cache_root() / "programs" / _processor()
    _delete_incomplete(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the many small programs take long too


def _delete_incomplete(folder: Path) -> None:
    """Delete programs without a time of use. A killed process or a full disk leaves them, and they may be cut short.

    Because of one such program, JAX writes no further program to the folder (issue 39880 of JAX).
    """
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        with contextlib.suppress(FileNotFoundError):  # another process deletes it too
            if not used.exists() and time.time() - program.stat().st_mtime > _PATIENCE:
                program.unlink()


def _processor() -> str:
    """Return a name for the kind of processor: its architecture, and a digest of its instructions."""
    lines = _PROCESSORS.read_text().splitlines() if _PROCESSORS.exists() else []
    kind = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    digest = hashlib.sha256("\n".join(kind or [platform.processor()]).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"
