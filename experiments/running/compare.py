"""Several training runs in parallel, one per core at a time.

They are, for example, one run per method, on one pool and from one policy that was trained on demonstrations.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.reporting.summaries import Records
from experiments.running.command import quick_imports
from experiments.running.config import CONFIG, RunConfig, flat_settings, read_settings
from experiments.running.tasks import task_of
from rl import _checks, progress
from rl.preemption import PreemptedError
from rl.run_folder.log import read_metrics

BASELINES = ("uniform", "dynamic_sampling")
DEMO_METHODS = (*BASELINES, "mopps", "dps")


SETTINGS = {task: RunConfig(task=task) for task in ("string_ops", "countdown")}
"""Settings that all methods of a comparison share: the defaults.

They were chosen on seeds 101 to 103; see `experiments.selection_pays`.
"""


def run_config(shared: RunConfig, method: str, seed: int, *, history: bool = False) -> RunConfig:
    """Return the configuration of one method's run.

    Dynamic sampling takes half as many steps, because each costs several times the rollouts. Its
    `probe_every` is halved too and rounded down, so that it has at least as many probes (measurements of accuracy) as
    the other runs.

    Args:
        shared: Settings of all methods.
        method: Name of the method.
        seed: Seed of the run.
        history: Whether the run records its history; see `TrainConfig`.
    """
    train = replace(shared.train, history=history)
    if method == "dynamic_sampling":
        probe_every = train.probe_every and max(1, train.probe_every // 2)
        train = replace(train, steps=max(1, train.steps // 2), probe_every=probe_every)
    return replace(shared, method=replace(shared.method, name=method), seed=seed, train=train)


def described(shared: RunConfig) -> dict[str, Any]:
    """Return the settings that all methods share and the steps of dynamic sampling, for a result."""
    found: dict[str, Any] = asdict(shared) | {
        "dynamic_sampling_steps": run_config(shared, "dynamic_sampling", 0).train.steps
    }
    del found["seed"], found["method"]["name"], found["train"]["history"], found["train"]["seed"]
    return found


def run_methods(shared: RunConfig, seed: int, out: Path, methods: Sequence[str] = DEMO_METHODS) -> dict[str, Records]:
    """Run every method in `out/METHOD` and return its metrics."""
    runs = run_many({out / method: run_config(shared, method, seed) for method in methods})
    return dict(zip(methods, runs.values(), strict=True))


def run_many(
    configs: Mapping[Path, RunConfig], *, resume: bool = False, workers: int | None = None
) -> dict[Path, Records]:
    """Run every configuration in its folder, as many at a time as there are cores, each with one torch thread.

    Small matrices gain little from a second thread, and processes that compete for cores lose much. A process that
    receives a signal to stop writes a checkpoint and ends, without starting the next run.

    Args:
        configs: Configurations by folder.
        resume: Whether interrupted runs are resumed and finished runs are kept.
        workers: The number of runs at a time, which start in the order of `configs`. None: the number of cores.

    Raises:
        ValueError: `workers` is less than 1.

    Returns:
        The metrics of every step by folder, in the order of `configs`.
    """
    _checks.integers(1, workers=1 if workers is None else workers)
    done = {folder: finished(folder, config) for folder, config in configs.items()} if resume else {}
    missing = {folder: config for folder, config in configs.items() if not done.get(folder)}
    done |= _run_all(missing, resume, workers or os.cpu_count() or 1) if missing else {}
    return {folder: done[folder] for folder in configs}


def finished(folder: Path, config: RunConfig) -> Records:
    """Return the metrics of a finished run with these settings in the folder; an empty list where there is none."""
    if not (folder / CONFIG).exists() or read_settings(folder) != flat_settings(config):
        return []
    records = read_metrics(folder / "metrics.jsonl")
    return records if records and records[-1]["step"] == config.train.steps else []


def commits(folders: Iterable[Path]) -> list[str]:
    """Return the commits of the code that made the runs."""
    return sorted({json.loads((folder / CONFIG).read_text())["git"] or "unknown" for folder in folders})


def _run_all(configs: Mapping[Path, RunConfig], resume: bool, workers: int) -> dict[Path, Records]:
    context = multiprocessing.get_context("spawn")
    positions = context.Queue()
    workers = min(len(configs), workers)
    for position in range(workers):
        positions.put(position)
    # A spawned process reads these variables when it starts; without OMP_NUM_THREADS, torch would take every core.
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.update(environment | os.environ)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(context.RLock(), positions)
    ) as executor:
        policies = {(str(config.task), config.policy, config.seed): config for config in configs.values()}
        list(executor.map(_warm_up, policies.values()))  # into the cache, from which several runs load it
        futures = {folder: executor.submit(_run, config, folder, resume) for folder, config in configs.items()}
        return {folder: future.result() for folder, future in futures.items()}


_position = 0


def _start_worker(lock: Any, positions: Any) -> None:
    global _position
    _end_with_parent()
    with quick_imports():  # the parent needs none of them
        import torch

        import experiments.running.runs  # noqa: F401

    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    _position = positions.get()


def _end_with_parent() -> None:
    """Let this process receive SIGTERM when its parent ends; it would wait for runs forever, or go on with its own."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _warm_up(config: RunConfig) -> None:
    from experiments.running.runs import make_policy

    make_policy(config, task_of(config))


def _run(config: RunConfig, run_dir: Path, resume: bool) -> Records:
    from experiments.running.runs import run

    def bar(steps: range) -> Any:
        name = f"{config.method.name:<18} seed {config.seed}"
        return progress.bar(steps, desc=name, unit="step", position=_position, leave=True)

    try:
        return run(config, run_dir, resume=resume, progress=bar)
    except PreemptedError as preempted:
        # After an exception, this process would start the next run, even if its parent is already gone.
        print(f"{run_dir}: {preempted}", file=sys.stderr, flush=True)
        os._exit(os.EX_TEMPFAIL)
