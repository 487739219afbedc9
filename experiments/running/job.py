"""The jobs of a cluster that a run was part of, one line per start in the run's folder."""

import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

JOBS = "jobs.jsonl"
"""File in a run's folder with one line per start in a SLURM job."""
_NAMES = ("CLUSTER_NAME", "JOB_ID", "JOB_NAME", "JOB_PARTITION", "JOB_NODELIST", "NTASKS", "CPUS_PER_TASK")
_NAMES += ("ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "SUBMIT_DIR", "MEM_PER_NODE", "GPUS_ON_NODE")


def record_job(run_dir: Path, settings: dict[str, Any]) -> None:
    """Add a line to `jobs.jsonl` about the SLURM job that this process belongs to; outside of a job, do nothing.

    Args:
        run_dir: The folder of the run.
        settings: More about this start.
    """
    if "SLURM_JOB_ID" not in os.environ:
        return
    started = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"started": started, "host": socket.gethostname(), "python": sys.executable, **settings}
    line["slurm"] = {name: os.environ[f"SLURM_{name}"] for name in _NAMES if f"SLURM_{name}" in os.environ}
    with (run_dir / JOBS).open("a") as file:
        file.write(json.dumps(line) + "\n")
