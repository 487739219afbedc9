"""Compiled programs that stay on disk, so that a second start of the same run compiles nothing."""

import hashlib
import platform
from pathlib import Path

import jax

from jaxsel.integrations.cache import cache_root

_LARGEST = 2**30  # bytes; JAX deletes the programs that were not used for the longest time
_PROCESSORS = Path("/proc/cpuinfo")


def keep_compiled_programs() -> None:
    """Let JAX keep its compiled programs in the folder `programs` of the cache, at most 1 GiB of them.

    A folder that is set already, by JAX_COMPILATION_CACHE_DIR or in `jax.config`, remains. Processors of different
    kinds that share a home have different folders, because a program for one may use instructions that another lacks.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_root() / "programs" / _processor()))
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the many small programs take long too


def _processor() -> str:
    """Return a name for the kind of processor: its architecture, and a digest of its instructions."""
    lines = _PROCESSORS.read_text().splitlines() if _PROCESSORS.exists() else []
    kind = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    digest = hashlib.sha256("\n".join(kind or [platform.processor()]).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"
