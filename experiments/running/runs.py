"""One training run from its configuration: what every experiment of this folder starts from."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

import jaxsel
from experiments.reporting.provenance import provenance, write_result
from experiments.running.config import CONFIG, EngineConfig, MethodConfig, RunConfig, flat, flat_settings, read_settings
from jaxsel.integrations.embeddings import embed
from rl.checkpoint import MAY_CHANGE
from rl.curriculum import Curriculum, DynamicSampling, HistoryResampling, Selected
from rl.engines.hf import HFEngine
from rl.engines.vllm import VLLMEngine
from rl.lock import alone_in
from rl.policy import Policy, load_policy
from rl.preemption import PreemptedError, Preemption
from rl.probe import Probe
from rl.prompts import PromptPool, Task
from rl.ranks import Ranks, join
from rl.rollout import RolloutEngine
from rl.run_log import is_end, read_metrics
from rl.shared import SharedSelector
from rl.tasks import countdown, string_ops
from rl.trackers import Tracker
from rl.train import train
from rl.warm_start import warm_start

TASKS: dict[str, Callable[[], Task]] = {"string_ops": string_ops.make, "countdown": countdown.make}


def _mopps(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del pool
    return jaxsel.mopps(decay=method.decay, target=method.target, group_size=group_size)


def _mopps_mean(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del pool
    acquisition = jaxsel.target_success_rate(method.target)
    return jaxsel.mopps(decay=method.decay, group_size=group_size, acquisition=acquisition)


def _mopps_mixed(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del pool
    sampled = {"acquisition": jaxsel.mixed_probability(log=True), "rule": jaxsel.gumbel_top_k()}
    return jaxsel.mopps(decay=method.decay, group_size=group_size, **sampled)


def _threshold(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del pool
    return jaxsel.threshold(lower=method.lower, upper=method.upper, decay=method.decay, group_size=group_size)


def _dps(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del group_size, pool
    return jaxsel.dps(decay=method.dps_decay, prior_counts=method.prior_counts, entropy_weight=method.entropy_weight)


def _gps(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    return jaxsel.gps(
        embed(pool.texts, progress=False),
        target=method.target,
        diversity_weight=method.diversity_weight,
        decay=method.decay,
        group_size=group_size,
        latent_size=method.latent_size,
        context_size=method.batch_size,
    )


PREDICTIVE = {
    "mopps": _mopps,
    "mopps_mean": _mopps_mean,
    "mopps_mixed": _mopps_mixed,
    "threshold": _threshold,
    "dps": _dps,
    "gps": _gps,
}
METHODS = ("uniform", "history_resampling", "dynamic_sampling", *PREDICTIVE)


def make_curriculum(config: RunConfig, pool: PromptPool, ranks: Ranks | None = None) -> Curriculum:
    """The curriculum that `config.method` names; of several ranks, the first has the selector.

    Raises:
        ValueError: there is no such method, or one of its parameters is out of range.
    """
    method, ranks = config.method, ranks or Ranks()
    if method.name not in METHODS:
        raise ValueError(f"method.name is {method.name!r}; give one of {', '.join(METHODS)}")

    def make() -> jaxsel.PromptSelector:
        return _selector(config, pool)

    selector = make() if ranks.count == 1 else SharedSelector(make, ranks)
    if method.name == "dynamic_sampling":
        return DynamicSampling(
            selector, method.batch_size, max_batches=method.max_batches, keep_surplus=method.keep_surplus
        )
    if method.name == "history_resampling":
        return HistoryResampling(selector, method.batch_size, seed=config.seed)
    return Selected(selector, method.batch_size)


def _selector(config: RunConfig, pool: PromptPool) -> jaxsel.PromptSelector:
    method, group_size = config.method, config.train.group_size
    if method.name in PREDICTIVE:
        selector, ratio = PREDICTIVE[method.name](method, group_size, pool), method.candidate_ratio or None
    else:  # The baselines go through the pool in shuffled epochs; their selector only predicts, for comparison.
        selector, ratio = jaxsel.uniform(decay=method.decay, group_size=group_size), 1
    return jaxsel.PromptSelector(selector, keys=list(pool.keys), seed=config.seed, candidate_ratio=ratio)


def make_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}; give one of {', '.join(TASKS)}")
    return TASKS[name]()


def make_policy(config: RunConfig, task: Task, *, progress: bool = True) -> Policy:
    """The policy before reinforcement learning: loaded by path, or built in and warm-started."""
    logging.disable_progress_bar()  # of reading weights; a moment, for policies of this size
    if config.policy:
        policy = load_policy(config.policy)
    else:
        policy = warm_start(task, replace(config.warm_start, seed=config.seed), progress=progress)
    return replace(policy, precision=config.precision)


@contextmanager
def make_engine(config: EngineConfig, policy: Policy) -> Iterator[RolloutEngine]:
    """The engine that `config.name` names, closed at the end.

    Raises:
        ValueError: there is no such engine.
    """
    if config.name == "hf":
        yield HFEngine(policy)
    elif config.name == "vllm":
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
    else:
        raise ValueError(f"engine.name is {config.name!r}; give hf or vllm")


def run(
    config: RunConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    progress: Callable[[range], Any] | None = None,
    ranks: Ranks | None = None,
) -> list[dict[str, float]]:
    """Trains, and returns the metrics of every step; `run_dir/config.json` says what they come from.

    Args:
        config: see `RunConfig`.
        run_dir: made when missing; the same for all ranks.
        resume: see `train`.
        progress: see `train`.
        ranks: None: those that `torchrun` or `accelerate launch` started, or this process alone.

    Raises:
        ValueError: an argument out of its range, or a folder that holds another run, or where another one goes on.
        PreemptedError: a signal asked it to stop, see `rl.preemption`.
    """
    ranks = ranks or join(config.parallel)
    with alone_in(run_dir, ranks):
        return _run(config, run_dir, resume, progress, ranks)


def _run(
    config: RunConfig, run_dir: Path, resume: bool, progress: Callable[[range], Any] | None, ranks: Ranks
) -> list[dict[str, float]]:
    task = make_task(config.task)
    pool = task.pool(config.pool_size, config.seed)
    ranks.on_main(lambda: _claim(config, run_dir, resume, ranks))
    policy = _preemptible(ranks, lambda: make_policy(config, task, progress=ranks.is_main))
    policy.model.to(ranks.device)  # type: ignore[arg-type]
    tracker = ranks.each(lambda: Tracker(config.tracker if ranks.is_main else "", run_dir, asdict(config)))
    with tracker, make_engine(config.engine, policy.frozen_copy() if ranks.sharded else policy) as engine:
        return train(
            replace(config.train, seed=config.seed),
            task=task,
            pool=pool,
            policy=policy,
            engine=engine,
            curriculum=make_curriculum(config, pool, ranks),
            probe=Probe(
                task,
                pool,
                task.held_out(config.held_out_size),
                num_pool_prompts=config.probe_size or config.pool_size,
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
        )


def _preemptible(ranks: Ranks, load: Callable[[], Policy]) -> Policy:
    """`ranks.main_first(load)`, which takes a while; asked to stop, no rank leaves another one waiting."""

    def stopped_at_once() -> Policy:
        with Preemption(at_once=True):
            return load()

    with Preemption() as preemption:
        policy = ranks.main_first(stopped_at_once)
    if any(ranks.gather(lambda: preemption.asked)):
        raise PreemptedError(0)
    return policy


_MAY_CHANGE = ("engine.", "tracker", "parallel", *(f"train.{name}" for name in MAY_CHANGE))


def _claim(config: RunConfig, run_dir: Path, resume: bool, ranks: Ranks) -> None:
    """Writes what the run comes from, before it does anything; or sees that it is the run that the folder holds."""
    path, records = run_dir / CONFIG, read_metrics(run_dir / "metrics.jsonl")
    if records and resume and path.exists():
        _check_same(config, run_dir, sum(not is_end(record) for record in records))
        kept = json.loads(path.read_text())
        if flat(kept["config"]) != flat_settings(config):
            write_result(path, kept | {"config": asdict(config)})
    elif resume or not records:
        write_result(path, provenance(asdict(config), config.seed) | {"processes": ranks.count})


def _check_same(config: RunConfig, run_dir: Path, done: int) -> None:
    there, here = read_settings(run_dir), flat_settings(config)
    for name in there.keys() & here.keys():
        if there[name] != here[name] and not name.startswith(_MAY_CHANGE):
            held = f"{run_dir} holds a run with {name} {there[name]!r}"
            raise ValueError(f"{name} is {here[name]!r}, but {held}; give that, or another folder")
    if config.train.steps < done:
        held = f"{run_dir} holds a run of {done} steps"
        raise ValueError(f"train.steps is {config.train.steps}, but {held}; give at least {done}, or another folder")
