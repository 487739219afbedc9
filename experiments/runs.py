"""One training run from its configuration: what every experiment of this folder starts from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

import jaxsel
from experiments.provenance import provenance, write_result
from rl.curriculum import Curriculum, DynamicSampling, HistoryResampling, Selected
from rl.embeddings import embed
from rl.engines.hf import HFEngine
from rl.engines.vllm import VLLMEngine
from rl.policy import Policy, load_policy
from rl.probe import Probe
from rl.prompts import PromptPool, Task
from rl.ranks import Ranks, join
from rl.rollout import RolloutEngine
from rl.shared import SharedSelector
from rl.tasks import countdown, string_ops
from rl.trackers import Tracker
from rl.train import train
from rl.train_config import TrainConfig
from rl.warm_start import WarmStartConfig, warm_start

TASKS: dict[str, Callable[[], Task]] = {"string_ops": string_ops.make, "countdown": countdown.make}


@dataclass(frozen=True)
class MethodConfig:
    """How prompts are chosen.

    Attributes:
        name: one of `METHODS`. mopps_mean takes the posterior mean in place of the Thompson draw (INSIGHT), mopps_mixed
            samples in proportion to the probability of a mixed group (MaPP).
        batch_size: prompts a step.
        candidate_ratio: mopps, threshold, dps and gps choose among an epoch-shuffled window of candidate_ratio *
            batch_size prompts; 0: among the whole pool.
        decay: what a visit (mopps, threshold, gps) or a step (dps) leaves of the earlier evidence, 0 to 1.
        target: mopps, gps: the success rate to look for.
        lower: threshold: lower end of the band of success rates.
        upper: threshold: upper end.
        prior_counts: dps: ones, progress, stability or local.
        entropy_weight: dps: weight of the entropy of the predicted solve state.
        diversity_weight: gps: weight of the distances within a batch and to the last ones.
        latent_size: gps: of the difficulty context; 0: none.
        max_batches: dynamic_sampling: generation batches a step at most.
        keep_surplus: dynamic_sampling: keep mixed groups beyond batch_size for the next step.
    """

    name: str = "mopps"
    batch_size: int = 16
    candidate_ratio: int = 8
    decay: float = 0.5
    target: float = 0.5
    lower: float = 0.3
    upper: float = 0.7
    prior_counts: str = "ones"
    entropy_weight: float = 0.0
    diversity_weight: float = 0.1
    latent_size: int = 16
    max_batches: int = 10
    keep_surplus: bool = False


@dataclass(frozen=True)
class EngineConfig:
    """What rolls out.

    Attributes:
        name: hf: the policy's own Transformers model; vllm.
        own_process: vllm in a process of its own; otherwise in the trainer's.
        timeout: vllm: seconds for the completions of one step, or of one half of a probe, after which those that are
            missing are drawn once more and then given up; 0: no limit.
        max_model_len: vllm: longest prompt and completion together, in tokens; 0: what the model allows, for which vLLM
            reserves memory.
        dtype: vllm: of its weights and arithmetic, for example bfloat16; empty: that of the policy's weights.
        gpu_memory_utilization: vllm on a GPU: its share of the memory; the trainer and the selector need theirs.
    """

    name: str = "hf"
    own_process: bool = True
    timeout: float = 0.0
    max_model_len: int = 0
    dtype: str = ""
    gpu_memory_utilization: float = 0.4


@dataclass(frozen=True)
class RunConfig:
    """One training run.

    Attributes:
        task: string_ops or countdown.
        pool_size: training prompts.
        held_out_size: prompts that are never trained on, for the probe.
        probe_size: prompts of the pool in the probe, always the same; 0: all of them.
        policy: a folder or hub name of a Hugging Face causal language model; empty: the built-in policy, warm-started.
        precision: of updates and the Hugging Face engine: float32, or bfloat16 (torch.autocast; the weights stay
            float32).
        parallel: in several processes (torchrun): ddp: every process has the whole policy; fsdp: weights and optimiser
            are spread over them (FSDP2), and each has a whole copy to roll out with.
        tracker: wandb or trackio: metrics go there too; a run that goes on is one run there. Empty: only to the folder.
        seed: of the warm start, the pool, the choices and the rollouts.
        method: how prompts are chosen.
        engine: what rolls out.
        warm_start: the built-in policy; its seed is replaced by the one above.
        train: the loop; its seed is replaced by the one above.
    """

    task: str = "string_ops"
    pool_size: int = 1000
    held_out_size: int = 500
    probe_size: int = 200
    policy: str = ""
    precision: str = "float32"
    parallel: str = "ddp"
    tracker: str = ""
    seed: int = 0
    method: MethodConfig = field(default_factory=MethodConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    warm_start: WarmStartConfig = field(default_factory=lambda: WarmStartConfig(steps=1200))
    train: TrainConfig = field(default_factory=TrainConfig)


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
    return jaxsel.dps(decay=method.decay, prior_counts=method.prior_counts, entropy_weight=method.entropy_weight)


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
        ValueError: an argument out of its range, or a folder that holds another run.
    """
    ranks = ranks or join(config.parallel)
    task = make_task(config.task)
    pool = task.pool(config.pool_size, config.seed)
    policy = ranks.main_first(lambda: make_policy(config, task, progress=ranks.is_main))
    policy.model.to(ranks.device)  # type: ignore[arg-type]
    tracker = ranks.each(lambda: Tracker(config.tracker if ranks.is_main else "", run_dir, asdict(config)))
    with tracker, make_engine(config.engine, policy.frozen_copy() if ranks.sharded else policy) as engine:
        records = train(
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
    if ranks.is_main:
        origin = provenance(asdict(config), config.seed) | {"processes": ranks.count}
        write_result(run_dir / "config.json", origin)
    return records
