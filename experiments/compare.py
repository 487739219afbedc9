"""Several methods on the same pool and warm start, side by side."""

import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from tqdm import tqdm

from experiments.runs import MethodConfig, RunConfig, make_policy, make_task, run
from rl.train_config import TrainConfig
from rl.warm_start import WarmStartConfig

BASELINES = ("uniform", "dynamic_sampling")
DEMO_METHODS = (*BASELINES, "mopps", "dps")
Records = list[dict[str, Any]]
_PARTS = ("selecting", "generating", "updating")


@dataclass(frozen=True)
class Setting:
    """What all methods of a comparison share.

    Attributes:
        task: see `RunConfig`.
        pool_size: see `RunConfig`.
        held_out_size: see `RunConfig`.
        steps: policy updates of every method but dynamic sampling.
        dynamic_sampling_steps: its updates; each costs several times the rollouts.
        batch_size: prompts a step.
        group_size: rollouts a prompt.
        candidate_ratio: window of the predictive methods, in batches.
        decay: of mopps and gps, a visit.
        dps_decay: of dps, a step. Visits to a prompt are some eight steps apart: at 0.5 all is forgotten in between.
        learning_rate: of the policy.
        probe_every: steps between probes.
        warm_start: the built-in policy.
    """

    task: str
    pool_size: int
    held_out_size: int
    steps: int
    dynamic_sampling_steps: int
    batch_size: int = 16
    group_size: int = 8
    candidate_ratio: int = 4
    decay: float = 0.5
    dps_decay: float = 0.9
    learning_rate: float = 4e-5
    probe_every: int = 25
    warm_start: WarmStartConfig = field(default_factory=lambda: WarmStartConfig(steps=2500))

    def run_config(self, method: str, seed: int) -> RunConfig:
        """The run of one method."""
        dynamic = method == "dynamic_sampling"
        steps = self.dynamic_sampling_steps if dynamic else self.steps
        decay = self.dps_decay if method == "dps" else self.decay
        probe_every = max(1, self.probe_every * steps // self.steps)
        return RunConfig(
            task=self.task,
            pool_size=self.pool_size,
            held_out_size=self.held_out_size,
            seed=seed,
            method=MethodConfig(method, self.batch_size, self.candidate_ratio, decay),
            warm_start=self.warm_start,
            train=TrainConfig(
                steps=steps,
                group_size=self.group_size,
                learning_rate=self.learning_rate,
                probe_every=probe_every,
            ),
        )


SETTINGS = {
    "string_ops": Setting("string_ops", pool_size=500, held_out_size=500, steps=200, dynamic_sampling_steps=100),
    "countdown": Setting("countdown", pool_size=500, held_out_size=500, steps=200, dynamic_sampling_steps=100),
}
"""Chosen on seeds 101 to 103; `selection_pays` tells the history of that."""


def run_methods(setting: Setting, seed: int, out: Path, methods: Sequence[str] = DEMO_METHODS) -> dict[str, Records]:
    """Runs every method in `out/METHOD`, as many at a time as there are cores, torch on one each.

    Small matrices gain little from a second thread, and two processes that fight for the cores lose much.
    """
    context = multiprocessing.get_context("spawn")
    positions = context.Queue()
    workers = min(len(methods), os.cpu_count() or 1)
    for position in range(workers):
        positions.put(position)
    # A spawned process reads these when it starts; torch and XLA would each take every core otherwise.
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.update(environment | os.environ)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(context.RLock(), positions)
    ) as executor:
        executor.submit(_warm_up, setting.run_config(methods[0], seed)).result()  # once, before all need it
        futures = {method: executor.submit(_run, setting.run_config(method, seed), out / method) for method in methods}
        return {method: future.result() for method, future in futures.items()}


_position = 0


def _start_worker(lock: Any, positions: Any) -> None:
    global _position
    import torch

    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    _position = positions.get()


def _warm_up(config: RunConfig) -> None:
    make_policy(config, make_task(config.task))


def _run(config: RunConfig, run_dir: Path) -> Records:
    def bar(steps: range) -> Any:
        return tqdm(steps, desc=f"{config.method.name:<18}", unit="step", position=_position, leave=True)

    return run(config, run_dir, progress=bar)


def probes(records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rollouts so far and the value of `probe/NAME`, at every probe."""
    rows = [(r["rollouts"], r[f"probe/{name}"]) for r in records if _known(r.get(f"probe/{name}"))]
    pairs = np.array(rows, float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def column(records: Records, name: str) -> np.ndarray:
    """One metric of every step that has it."""
    return np.array([r[name] for r in records if _known(r.get(name))], float)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def summary(records: Records) -> dict[str, float]:
    """A finished run in numbers; NaN where it has none."""
    mixed = column(records, "train/mixed_share")
    spearman = probes(records, "spearman")[1]
    step_seconds = _step_seconds(records)
    return {
        "steps": len(step_seconds),
        "rollouts": records[-1]["rollouts"],
        "mixed_share_first_half": _mean(mixed[: len(mixed) // 2]),
        "mixed_share": _mean(mixed),
        "held_out_at_start": float(probes(records, "held_out_accuracy")[1][0]),
        # The last two probes: one alone is noisier than the differences that matter.
        "held_out_accuracy": float(probes(records, "held_out_accuracy")[1][-2:].mean()),
        "spearman": _mean(spearman[len(spearman) // 2 :]),
        **{f"seconds_{part}": float(column(records, f"seconds/{part}").sum()) for part in _PARTS},
        "share_selecting": float(column(records, "seconds/selecting").sum() / step_seconds.sum()),
        # All that was timed, probes too.
        "seconds": float(sum(v for r in records for k, v in r.items() if k.startswith("seconds/") and _known(v))),
        # Without the first steps, in which functions are compiled.
        "median_ms_selecting": float(1e3 * np.median(column(records, "seconds/selecting"))),
        "median_ms_step": float(1e3 * np.median(step_seconds)),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _step_seconds(records: Records) -> np.ndarray:
    updates = (r for r in records if "train/mixed_share" in r)
    return np.array([sum(r.get(f"seconds/{part}") or 0.0 for part in _PARTS) for r in updates])


def summary_table(runs: dict[str, Records]) -> Table:
    """The summaries as a table for the terminal, 80 columns wide."""
    start = summary(next(iter(runs.values())))["held_out_at_start"]
    table = Table(
        title="Groups neither all right nor all wrong (mixed) are the ones that teach.",
        caption=f"seconds selecting/generating/updating; held-out accuracy before training: {start:.3f}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    table.add_column("method", min_width=len("dynamic_sampling"))
    for name in ("steps", "rollouts", "mixed", "held-out", "Spearman", "sel/gen/upd"):
        table.add_column(name, justify="right", no_wrap=True)
    for method, records in runs.items():
        s = summary(records)
        table.add_row(
            method,
            f"{s['steps']:.0f}",
            f"{s['rollouts']:,.0f}",
            f"{s['mixed_share']:.0%}",
            f"{s['held_out_accuracy']:.3f}",
            f"{s['spearman']:.2f}",
            "/".join(f"{s[f'seconds_{part}']:.0f}" for part in _PARTS),
        )
    return table


def seconds_since(start: float = 0.0) -> float:
    """Seconds on a clock that never goes back."""
    return time.perf_counter() - start
