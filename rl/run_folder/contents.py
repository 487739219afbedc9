"""Names of a run's files and folders, and a check that a new run replaces none of another origin.

This file loads neither torch nor JAX.
"""

import json
from pathlib import Path

METRICS, ENDED = "metrics.jsonl", "metrics-ended.jsonl"
NEWEST, PREVIOUS, DAMAGED = "checkpoint.pt", "checkpoint-previous.pt", "checkpoint-damaged.pt"
POLICY, HISTORY, COMPLETIONS = "policy", "history", "completions"


def check_free(run_dir: Path) -> None:
    """Refuse a folder that holds what a run replaces or deletes, but no run.

    A run writes `metrics.jsonl` before any of these files and folders. Where that file is missing, or its lines are not
    those of a run, they are the user's.

    Raises:
        ValueError: There is such a file or folder.
    """
    if (run_dir / METRICS).exists():
        if _is_of_a_run(run_dir / METRICS):
            return
        raise foreign(run_dir, METRICS)
    for name in (NEWEST, PREVIOUS, DAMAGED, POLICY, HISTORY, COMPLETIONS):
        if (run_dir / name).exists():
            raise foreign(run_dir, name)


def _is_of_a_run(path: Path) -> bool:
    """Return whether the first line counts rollouts, as all lines of a run do. A torn line alone passes too."""
    with path.open("rb") as file:
        first = file.readline()
    try:
        return not first.endswith(b"\n") or "rollouts" in json.loads(first)
    except (ValueError, TypeError, RecursionError):
        return False


def already_a_run(run_dir: Path) -> ValueError:
    """Return the error that a new run would go into the folder of another one."""
    return ValueError(f"run_dir {run_dir} already holds a run; resume it or give another folder")


def foreign(run_dir: Path, name: str) -> ValueError:
    """Return the error that a run would replace something that no run wrote."""
    return ValueError(f"run_dir {run_dir} holds {name}, which no run wrote there; give another folder, or move it away")
