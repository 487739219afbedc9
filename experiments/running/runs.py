"""One training run from its configuration; every experiment of this folder uses it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from experiments.reporting.provenance import git_commit, provenance, versions, write_result
from experiments.running.compiled_programs import keep_compiled_programs
from experiments.running.config import CONFIG, EMBEDDINGS, EngineConfig, RunConfig, flat, flat_settings, read_settings
from experiments.running.curricula import check_pool, make_curriculum
from experiments.running.evaluation_sets import evaluation_of
from experiments.running.folders import may_differ
from experiments.running.job import record_job
from experiments.running.tasks import task_of
from rl.engines.hf import HFEngine
from rl.engines.vllm import VLLMEngine
from rl.fine_tuning import fine_tune
from rl.finish import check_overlong
from rl.policy import Policy, load_policy
from rl.preemption import PreemptedError, Preemption
from rl.probe import Probe
from rl.prompts import Task
from rl.ranks import Ranks, join
from rl.rollout import RolloutEngine
from rl.run_folder.contents import METRICS, NEWEST, POLICY, PREVIOUS, already_a_run, check_free, foreign
from rl.run_folder.lock import alone_in
from rl.run_folder.trackers import Tracker
from rl.run_log import is_end, read_metrics
from rl.smollm2 import NAME, smollm2_folder
from rl.train import train
from rl.warm_start import warm_start


def make_policy(
    config: RunConfig, task: Task, *, progress: bool = True, device: torch.device | str | None = None
) -> Policy:
    """Return the policy before reinforcement learning, after its supervised warm start.

    Args:
        config: The settings of the run.
        task: The task, whose demonstrations a warm start imitates.
        progress: Whether to show a progress bar during a warm start.
        device: The device of the policy. None: the CPU.
    """
    logging.disable_progress_bar()  # reading weights of policies of this size takes a moment
    if config.policy:
        policy = load_policy(smollm2_folder() if config.policy == NAME else config.policy)
    else:
        policy = warm_start(task, replace(config.warm_start, seed=config.seed), progress=progress)
    policy.model.to(device)  # type: ignore[arg-type]
    policy = replace(policy, precision=config.precision)
    return fine_tune(policy, task, config.fine_tuning, progress=progress) if config.policy else policy


@contextmanager
def make_engine(config: EngineConfig, policy: Policy) -> Iterator[RolloutEngine]:
    """Open the engine that `config.name` names, and close it at the end."""
    if config.name == "hf":
        yield HFEngine(policy, max_prompts=config.max_prompts)
    else:
        on_gpu: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_utilization}
        with VLLMEngine(
            policy,
            own_process=config.own_process,
            timeout=config.timeout or None,
            max_model_len=config.max_model_len or None,
            dtype=config.dtype or None,
            **(on_gpu if torch.cuda.is_available() else {}),
        ) as engine:
            yield engine


def run(
    config: RunConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    progress: Callable[[range], Any] | None = None,
    ranks: Ranks | None = None,
) -> list[dict[str, float]]:
    """Train, and return the metrics of every step; `run_dir/config.json` holds the settings and versions.

    Args:
        config: Settings of the run.
        run_dir: Folder of the run, the same for all ranks, created if it is missing.
        resume: Whether to resume from the folder's checkpoint; see `train`.
        progress: Wrapper of the range of steps that shows progress; see `train`.
        ranks: Processes that train together; None: the ranks of `torchrun` or `accelerate launch`, or this process.

    Raises:
        ValueError: A setting is out of range, the folder holds another run, or another run uses the folder.
        PreemptedError: A signal asked the run to stop; see `rl.preemption`.
    """
    keep_compiled_programs()
    ranks = ranks or join(config.parallel)
    with alone_in(run_dir, ranks):
        return _run(config, run_dir, resume, progress, ranks)


def _run(
    config: RunConfig, run_dir: Path, resume: bool, progress: Callable[[range], Any] | None, ranks: Ranks
) -> list[dict[str, float]]:
    task = task_of(config)
    check_overlong(config.train.overlong_buffer, task.max_new_tokens)
    pool = task.pool(config.pool_size, config.seed)
    check_pool(config.method, pool)
    held_out = task.held_out(config.held_out_size)
    evaluation = evaluation_of(config)
    ranks.on_main(lambda: _claim(config, run_dir, resume, ranks))
    policy = _preemptible(ranks, lambda: make_policy(config, task, progress=ranks.is_main, device=ranks.device))
    tracker = ranks.each(lambda: Tracker(config.tracker if ranks.is_main else "", run_dir, asdict(config)))
    with tracker, make_engine(config.engine, policy.frozen_copy() if ranks.sharded else policy) as engine:
        return train(
            replace(config.train, seed=config.seed),
            task=task,
            pool=pool,
            policy=policy,
            engine=engine,
            curriculum=make_curriculum(config, pool, ranks, policy=policy, run_dir=run_dir),
            probe=Probe(
                task,
                pool,
                held_out,
                num_pool_prompts=config.probe_size or len(pool),
                group_size=config.train.group_size,
                temperature=config.train.temperature,
                top_p=config.train.top_p,
                seed=config.seed,
            ),
            run_dir=run_dir,
            resume=resume,
            progress=progress,
            ranks=ranks,
            tracker=tracker,
            evaluation=evaluation,
            accepted=partial(_keep_changes, config, run_dir),
        )


def _preemptible(ranks: Ranks, load: Callable[[], Policy]) -> Policy:
    """Return `ranks.main_first(load)`; a signal to stop during this long call ends all ranks together."""
    with Preemption() as preemption:

        def stopped_at_once() -> Policy:
            with preemption.interrupting():
                return load()

        policy = ranks.main_first(stopped_at_once)
    if any(ranks.gather(lambda: preemption.asked)):
        raise PreemptedError(0)
    return policy


def _claim(config: RunConfig, run_dir: Path, resume: bool, ranks: Ranks) -> None:
    """Write the run's settings and its job before it starts, or check that the folder holds the run to resume.

    The settings of a resumed run stay as they are until it is accepted, see `_keep_changes`.
    """
    path, records = run_dir / CONFIG, read_metrics(run_dir / METRICS)
    has_checkpoint = any((run_dir / name).exists() for name in (NEWEST, PREVIOUS))  # perhaps of the first probe
    if (records or has_checkpoint) and resume and path.exists():
        _check_same(config, run_dir, sum(not is_end(record) for record in records))
        if records and not has_checkpoint:
            _check_same_checkpoints(config.train.checkpoint_every, run_dir)
    elif not resume and (run_dir / METRICS).exists():
        raise already_a_run(run_dir)
    else:
        _check_replaces_nothing(config, run_dir)
        write_result(path, provenance(asdict(config), config.seed) | {"processes": ranks.count})
    record_job(run_dir, {"versions": versions(), "git": git_commit(), "processes": ranks.count})


def _keep_changes(config: RunConfig, run_dir: Path) -> None:
    """Write the settings that a resumed run changes, such as its number of steps."""
    path = run_dir / CONFIG
    kept = json.loads(path.read_text())
    if flat(kept["config"]) != flat_settings(config):
        write_result(path, kept | {"config": asdict(config)})


def _check_replaces_nothing(config: RunConfig, run_dir: Path) -> None:
    """Refuse a folder whose files no run wrote, such as the folder of a model, before the policy is loaded."""
    start = Path(config.policy).resolve()
    if config.policy and start.is_relative_to((run_dir / POLICY).resolve()):
        raise ValueError(f"policy {config.policy} lies where run_dir {run_dir} gets its policy; give another folder")
    if not (run_dir / CONFIG).exists():
        if (run_dir / EMBEDDINGS).exists():
            raise foreign(run_dir, EMBEDDINGS)
        return check_free(run_dir)
    try:
        read_settings(run_dir)
    except ValueError:
        raise foreign(run_dir, CONFIG) from None


def _check_same(config: RunConfig, run_dir: Path, done: int) -> None:
    there, here = read_settings(run_dir), flat_settings(config)
    for name in there.keys() & here.keys():
        if there[name] != here[name] and not may_differ(name, config.train.lr_schedule):
            held = f"{run_dir} holds a run with {name} {there[name]!r}"
            raise ValueError(f"{name} is {here[name]!r}, but {held}; give that, or another folder")
    if config.train.steps < done:
        held = f"{run_dir} holds a run of {done} steps"
        raise ValueError(f"train.steps is {config.train.steps}, but {held}; give at least {done}, or another folder")


def _check_same_checkpoints(every: int, run_dir: Path) -> None:
    """Refuse another `checkpoint_every` before the first checkpoint.

    `train` starts a run without a checkpoint anew if none was due yet. This depends on the setting of the steps so far.
    """
    before = read_settings(run_dir)["train.checkpoint_every"]
    if before != every:
        same = f"train.checkpoint_every={before} until the first checkpoint"
        cure = f"give {same}, or another folder" if before else "give another folder, or delete this one"
        raise ValueError(
            f"train.checkpoint_every is {every}, but {run_dir} holds a run without a checkpoint and with "
            f"train.checkpoint_every {before}; {cure}"
        )
