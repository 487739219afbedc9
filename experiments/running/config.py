"""What a training run depends on: the settings of `python -m experiments.train`, with their defaults."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rl import _checks
from rl.train_config import TrainConfig
from rl.warm_start import WarmStartConfig

CONFIG = "config.json"
"""The file in a run's folder that says what it comes from."""


@dataclass(frozen=True)
class MethodConfig:
    """How prompts are chosen.

    Attributes:
        name: uniform, history_resampling, dynamic_sampling, mopps, mopps_mean, mopps_mixed, threshold, dps or gps.
            mopps_mean takes the posterior mean in place of the Thompson draw (INSIGHT), mopps_mixed samples in
            proportion to the probability of a mixed group (MaPP).
        batch_size: prompts a step.
        candidate_ratio: mopps, threshold, dps and gps choose among an epoch-shuffled window of candidate_ratio *
            batch_size prompts; 0: among the whole pool.
        decay: mopps, threshold, gps: what a visit leaves of the earlier evidence, 0 to 1.
        dps_decay: dps: what a step leaves, visit or not. Visits to a prompt are some eight steps apart: at 0.5 all is
            forgotten in between.
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
    candidate_ratio: int = 4
    decay: float = 0.5
    dps_decay: float = 0.9
    target: float = 0.5
    lower: float = 0.3
    upper: float = 0.7
    prior_counts: str = "ones"
    entropy_weight: float = 0.0
    diversity_weight: float = 0.1
    latent_size: int = 16
    max_batches: int = 10
    keep_surplus: bool = False

    def __post_init__(self):
        _checks.integers(1, batch_size=self.batch_size, max_batches=self.max_batches)
        _checks.integers(0, candidate_ratio=self.candidate_ratio, latent_size=self.latent_size)
        _checks.from_zero_to_one(decay=self.decay, dps_decay=self.dps_decay, target=self.target)
        _checks.from_zero_to_one(lower=self.lower, upper=self.upper)
        _checks.at_least_zero(entropy_weight=self.entropy_weight, diversity_weight=self.diversity_weight)
        _checks.booleans(keep_surplus=self.keep_surplus)


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

    def __post_init__(self):
        _checks.booleans(own_process=self.own_process)
        _checks.at_least_zero(timeout=self.timeout)
        _checks.integers(0, max_model_len=self.max_model_len)
        _checks.above_zero(gpu_memory_utilization=self.gpu_memory_utilization)
        _checks.from_zero_to_one(gpu_memory_utilization=self.gpu_memory_utilization)


@dataclass(frozen=True)
class RunConfig:
    """One training run; the defaults are those of the comparisons, see `experiments.running.compare`.

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
    pool_size: int = 500
    held_out_size: int = 500
    probe_size: int = 200
    policy: str = ""
    precision: str = "float32"
    parallel: str = "ddp"
    tracker: str = ""
    seed: int = 0
    method: MethodConfig = field(default_factory=MethodConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    warm_start: WarmStartConfig = field(default_factory=lambda: WarmStartConfig(steps=2500))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=200))

    def __post_init__(self):
        _checks.integers(1, pool_size=self.pool_size, held_out_size=self.held_out_size)
        _checks.integers(0, probe_size=self.probe_size, seed=self.seed)


def writable_config(base: RunConfig | None = None) -> DictConfig:
    """The configuration, of the defaults if not of `base`, with its types; a frozen dataclass would be read-only."""
    config = OmegaConf.structured(base or RunConfig)
    for node in (config, *(child for child in config.values() if isinstance(child, DictConfig))):
        OmegaConf.set_readonly(node, False)
    return config


def configured(settings: Mapping[str, Any], base: RunConfig | None = None) -> RunConfig:
    """The base, or the defaults, but for these settings, by dotted name as on the command line.

    Raises:
        OmegaConfBaseException: there is no such setting, or it is of another type.
    """
    config = writable_config(base)
    for name, value in settings.items():
        OmegaConf.update(config, name, value)
    made = OmegaConf.to_object(config)
    assert isinstance(made, RunConfig)
    return made


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds `--set`: settings of all runs of an experiment, as pairs of dotted name and value."""

    def pair(argument: str) -> tuple[str, str]:
        name, equals, value = argument.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{argument} is no NAME=VALUE; give for example train.steps=100")
        return name, value

    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=pair,
        default=[],
        metavar="NAME=VALUE",
        help="settings of all runs",
    )


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a run by dotted name, as `read_settings` finds them."""
    return flat(json.loads(json.dumps(asdict(config))))


def read_settings(run_dir: Path) -> dict[str, Any]:
    """The settings of the run that a folder holds, by dotted name.

    Raises:
        OSError: there is no `config.json`.
        ValueError: it is damaged.
    """
    try:
        found = json.loads((run_dir / CONFIG).read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise ValueError(f"{run_dir / CONFIG} holds no settings; give the folder of a run, or delete the file")
    return flat(found["config"])


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
