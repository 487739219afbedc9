"""Several runs side by side: methods on the same pool and warm start, as many at a time as there are cores."""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.config import MethodConfig, RunConfig
from experiments.runs import make_policy, make_task, run
from experiments.summaries import Records
from rl.preemption import PreemptedError
from rl.run_log import read_metrics
from rl.train_config import TrainConfig
from rl.warm_start import WarmStartConfig

BASELINES = ("uniform", "dynamic_sampling")
DEMO_METHODS = (*BASELINES, "mopps", "dps")


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
    learning_rate: float = 4e-5
    probe_every: int = 25
    warm_start: WarmStartConfig = field(default_factory=lambda: WarmStartConfig(steps=2500))

    def run_config(self, method: str, seed: int, *, history: bool = False) -> RunConfig:
        """The run of one method; `history`: see `TrainConfig`."""
        dynamic = method == "dynamic_sampling"
        steps = self.dynamic_sampling_steps if dynamic else self.steps
        probe_every = max(1, self.probe_every * steps // self.steps)
        return RunConfig(
            task=self.task,
            pool_size=self.pool_size,
            held_out_size=self.held_out_size,
            seed=seed,
            method=MethodConfig(method, self.batch_size, self.candidate_ratio),
            warm_start=self.warm_start,
            train=TrainConfig(
                steps=steps,
                group_size=self.group_size,
                learning_rate=self.learning_rate,
                probe_every=probe_every,
                history=history,
            ),
        )


SETTINGS = {
    "string_ops": Setting("string_ops", pool_size=500, held_out_size=500, steps=200, dynamic_sampling_steps=100),
    "countdown": Setting("countdown", pool_size=500, held_out_size=500, steps=200, dynamic_sampling_steps=100),
}
"""Chosen on seeds 101 to 103; `selection_pays` tells the history of that."""


def run_methods(setting: Setting, seed: int, out: Path, methods: Sequence[str] = DEMO_METHODS) -> dict[str, Records]:
    """Runs every method in `out/METHOD`."""
    runs = run_many({out / method: setting.run_config(method, seed) for method in methods})
    return dict(zip(methods, runs.values(), strict=True))


def run_many(configs: Mapping[Path, RunConfig], *, resume: bool = False) -> dict[Path, Records]:
    """Runs every configuration in its folder, as many at a time as there are cores, torch on one each.

    Small matrices gain little from a second thread, and two processes that fight for the cores lose much. A signal that
    asks a process to stop has it write a checkpoint and end; it does not begin the next run.

    Args:
        configs: by folder.
        resume: go on with runs that were interrupted, and leave alone those that are finished.

    Returns:
        The metrics of every step, by folder, in the order they were given.
    """
    done = {folder: finished(folder, config) for folder, config in configs.items()} if resume else {}
    missing = {folder: config for folder, config in configs.items() if not done.get(folder)}
    done |= _run_all(missing, resume) if missing else {}
    return {folder: done[folder] for folder in configs}


def finished(folder: Path, config: RunConfig) -> Records:
    """The metrics of a run with these settings that ended there; nothing where none did."""
    path = folder / "config.json"
    if not path.exists() or json.loads(path.read_text())["config"] != json.loads(json.dumps(asdict(config))):
        return []
    records = read_metrics(folder / "metrics.jsonl")
    return records if records and records[-1]["step"] == config.train.steps else []


def commits(folders: Iterable[Path]) -> list[str]:
    """Of the code that made the runs."""
    return sorted({json.loads((folder / "config.json").read_text())["git"] or "unknown" for folder in folders})


def _run_all(configs: Mapping[Path, RunConfig], resume: bool) -> dict[Path, Records]:
    context = multiprocessing.get_context("spawn")
    positions = context.Queue()
    workers = min(len(configs), os.cpu_count() or 1)
    for position in range(workers):
        positions.put(position)
    # A spawned process reads these when it starts; torch and XLA would each take every core otherwise.
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.update(environment | os.environ)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(context.RLock(), positions)
    ) as executor:
        policies = {(config.task, config.policy, config.seed): config for config in configs.values()}
        list(executor.map(_warm_up, policies.values()))  # each once, before several runs need it
        futures = {folder: executor.submit(_run, config, folder, resume) for folder, config in configs.items()}
        return {folder: future.result() for folder, future in futures.items()}


_position = 0


def _start_worker(lock: Any, positions: Any) -> None:
    global _position
    import torch

    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    _position = positions.get()


def _warm_up(config: RunConfig) -> None:
    make_policy(config, make_task(config.task))


def _run(config: RunConfig, run_dir: Path, resume: bool) -> Records:
    def bar(steps: range) -> Any:
        name = f"{config.method.name:<18} seed {config.seed}"
        return tqdm(steps, desc=name, unit="step", position=_position, leave=True)

    try:
        return run(config, run_dir, resume=resume, progress=bar)
    except PreemptedError as preempted:
        # An exception would end the run but not the process, which takes the next one even where its parent is gone.
        print(f"{run_dir}: {preempted}", file=sys.stderr, flush=True)
        os._exit(os.EX_TEMPFAIL)
