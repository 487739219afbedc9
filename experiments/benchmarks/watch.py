"""How long a refresh of `experiments.watch` takes with long runs, and how much it sends.

    python -m experiments.benchmarks.watch [--runs 4] [--steps 100000]

The runs are made up, in a temporary folder: a line of 50 metrics per step, and a history with 16 groups per step and
a probe of 200 prompts every hundred steps. A refresh is timed as the page asks for it, without HTTP.
"""

import gzip
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.running.command import module_parser, quiet_pipe
from experiments.watch.metrics import MIXED, PROBES, TRAINING
from experiments.watch.page import page
from experiments.watch.runs import Watched
from jaxsel.base import Prediction
from jaxsel.integrations.history import HistoryLog

_POOL, _BATCH, _PROBED, _GROUP_SIZE = 10_000, 16, 200, 8
_OTHERS = [f"policy/another_metric_number_{i}" for i in range(35)]
_NAMES = [name for name in (*TRAINING, *MIXED) if name != "seconds"]


def make_run(folder: Path, steps: int, every: int = 100) -> None:
    """Write the folder of a run with so many steps."""
    rng = np.random.default_rng(0)
    log = HistoryLog(folder / "history", num_prompts=_POOL, spec={"method": "made up"})
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(steps):
            if step % every == 0:
                log.probed(step, *_groups(rng, _PROBED))
                log.flush()
            file.write(_line(rng, step, is_probe=step % every == 0))
            log.observed(step, *_groups(rng, _BATCH))
    log.flush()


def _groups(rng: np.random.Generator, size: int) -> tuple[Any, Any]:
    rate = rng.uniform(size=size).astype(np.float32)
    mixed = 1 - rate**_GROUP_SIZE - (1 - rate) ** _GROUP_SIZE
    counts = rng.choice(_POOL, size, replace=False), rng.binomial(_GROUP_SIZE, rate), np.full(size, _GROUP_SIZE)
    fields = (rate, rate * (1 - rate) / 9, rate, (1 - rate) ** _GROUP_SIZE, mixed, rate**_GROUP_SIZE)
    return counts, Prediction(*fields)  # pyright: ignore[reportArgumentType]


def _line(rng: np.random.Generator, step: int, *, is_probe: bool) -> str:
    names = [*_NAMES, *_OTHERS, "seconds/generating", "seconds/updating", *(PROBES if is_probe else ())]
    values = dict(zip(names, rng.uniform(size=len(names)).tolist(), strict=True))
    return json.dumps({"step": step, "rollouts": (step + 1) * _BATCH * _GROUP_SIZE, **values}) + "\n"


def _refreshed(watched: Watched, since: int) -> tuple[int, float, str]:
    """Return the new version, the seconds of a refresh, and what to say about its time and its size."""
    start, processor = time.perf_counter(), time.process_time()
    watched.update()
    found = watched.snapshot(since)
    text = json.dumps(found, separators=(",", ":")).encode()
    packed = gzip.compress(text, 1)
    seconds, busy = time.perf_counter() - start, time.process_time() - processor
    said = f"{seconds * 1e3:.0f} ms ({busy * 1e3:.0f} ms of processor time)"
    return found["version"], seconds, f"{said}, {len(text) / 1e3:.1f} kB, compressed {len(packed) / 1e3:.1f} kB"


def measure(folders: list[Path]) -> None:
    """Print the times and sizes for the runs in the folders."""
    watched, version, times = Watched(folders), 0, []
    start = time.process_time()
    while not times or watched.behind:
        version, seconds, _ = _refreshed(watched, version)
        times.append(seconds)
    print(f"processor time of the first reading: {time.process_time() - start:.1f} s")
    print(f"first reading: {sum(times):.1f} s in {len(times)} refreshes, of which the longest took {max(times):.1f} s")
    print(f"nothing new: {_refreshed(watched, version)[2]}")
    rng = np.random.default_rng(1)
    steps = next(iter(watched.snapshot(version)["runs"].values()))["steps"]
    for step in range(steps, steps + 3):
        for folder in folders:
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(_line(rng, step, is_probe=False))
        version, _, said = _refreshed(watched, version)
        print(f"a step more of every run: {said}")
    for folder in folders:
        log = HistoryLog(folder / "history", num_prompts=_POOL, spec={"method": "made up"}, first_step=2**31 - 1)
        log.probed(steps, *_groups(rng, _PROBED))
        log.flush()
    version, _, said = _refreshed(watched, version)
    print(f"a probe more of every run: {said}")
    print(f"the whole page: {len(page(watched.snapshot(), every=10).encode()) / 1e6:.2f} MB")
    rows = {name: table["length"] for name, table in watched.snapshot()["tables"][folders[0].name].items()}
    print(f"rows of one run: {', '.join(f'{name} {number}' for name, number in rows.items())}")


def main(arguments: list[str]) -> None:
    """Make the runs, and print the times and sizes."""
    parser = module_parser("experiments.benchmarks.watch", __doc__)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / f"run {number}" for number in range(options.runs)]
        make_run(folders[0], options.steps)
        for folder in folders[1:]:
            shutil.copytree(folders[0], folder)
        size = (folders[0] / "metrics.jsonl").stat().st_size / 1e6
        parts = len(list((folders[0] / "history").iterdir()))
        print(f"{options.runs} runs of {options.steps:,} steps: metrics.jsonl {size:.0f} MB, {parts} files of history")
        measure(folders)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
