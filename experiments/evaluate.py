"""How well does a policy solve evaluation sets? mean@k and pass@k with standard errors: `--help` lists the settings."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from yaml import YAMLError

from experiments.reporting.provenance import holds_result, provenance, write_result
from experiments.reporting.tables import terminal_table
from experiments.running.command import quiet_pipe
from experiments.running.config import EngineConfig, EvalDataConfig, clear_errors, writable_config
from experiments.running.evaluation_sets import check_data_sets, distinct, evaluation_set
from experiments.running.help import settings_of
from experiments.running.overrides import hydra_override, text_of
from experiments.running.runs import make_engine
from jaxsel.runtime.checkpoint.disk import local_path
from rl import _checks
from rl.evaluation import Counts, Evaluation, EvaluationSet, scores
from rl.names import PRECISIONS
from rl.policy import load_policy
from rl.rollout import Sampling
from rl.seeds import derived_seed

_HEAD = """Score a policy on evaluation sets.

  python -m experiments.evaluate policy=runs/mine/policy task=aime24.parquet verifier=math k=8
  python -m experiments.evaluate policy=Qwen/Qwen2.5-3B task=[countdown-34,countdown-4,math:MATH500.json] samples=16

Every problem gets n = `samples` completions. mean@n is the mean share of correct ones. pass@k is the unbiased estimate
of the probability that at least one of k completions is correct, for k and the smaller powers of two. Standard errors
are over problems. The table is printed, and the JSON file also holds the counts of every problem. If a set fails, table
and file hold the sets before it. Set any of these as NAME=VALUE:
"""
_MARK = "evaluation_sets"
_LOG_WIDTH = 160  # characters per line where the output goes to a file


@dataclass(frozen=True)
class EvaluateConfig:
    r"""One evaluation of a policy.

    Attributes:
        policy: Folder or hub name of a Hugging Face causal language model, such as the folder policy of a run.
        task: A file, a folder or the hub name of a data set, of which all prompts count; math:PATH for one with the
            template and the verifier of the task math; countdown-34, countdown-4, gsm8k, geometry3k or
            reasoning_gym:NAME. A list evaluates several: [a.parquet,countdown-4].
        verifier: For data sets: exact, math, countdown or string_ops; or module:function.
        k: Largest k of pass@k.
        samples: Completions per problem; 0: k.
        size: Number of held-out problems of a task; of a data set all problems count.
        temperature: Temperature of the completions; 0: the likeliest token at each place.
        top_p: Total probability of the likeliest tokens to draw from.
        template: Text with the placeholder {prompt}; empty: the prompt itself, or the task's own template.
        max_new_tokens: Longest completion in tokens.
        stop: Texts that end a completion. Two line breaks are, in bash, $'["\n\n"]'.
        verify_timeout: Seconds per completion, after which the verifier is stopped and the completion is not judged; 0:
            no limit.
        verify_process: Whether the verifier runs in a process of its own, which is killed at the time limit. Compiled
            code cannot be interrupted otherwise.
        precision: Precision of the Hugging Face engine: float32 or bfloat16.
        device: Device of the policy, such as cuda; empty: cuda if there is one, otherwise cpu.
        seed: Seed of the completions.
        out: The JSON file. An older file of this command is replaced; another file is refused.
        data: How data sets are read, such as data.prompt=Problem.
        engine: The engine that generates completions.
    """

    policy: str = ""
    task: Any = ""
    verifier: str = ""
    k: int = 8
    samples: int = 0
    size: int = 500
    temperature: float = 1.0
    top_p: float = 1.0
    template: str = ""
    max_new_tokens: int = 512
    stop: list[str] = field(default_factory=list)
    verify_timeout: float = 10.0
    verify_process: bool = False
    precision: str = "float32"
    device: str = ""
    seed: int = 0
    out: str = "evaluation.json"
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self):
        _checks.integers(1, k=self.k, size=self.size)
        _checks.integers(0, samples=self.samples, seed=self.seed)
        _checks.one_of(PRECISIONS, precision=self.precision)
        Sampling(self.max_new_tokens, self.temperature, self.top_p, tuple(self.stop))  # refuses what is out of range
        _checks.at_least_zero(verify_timeout=self.verify_timeout)
        _checks.booleans(verify_process=self.verify_process)
        if self.samples and self.samples < self.k:
            raise ValueError(f"samples is {self.samples} with k={self.k}; give at least k, or 0")
        if not self.policy:
            raise ValueError("policy is ''; give policy=PATH, the folder or hub name of a Hugging Face model")
        names = self.tasks
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"task is {self.task!r}; give the name of a task, a path, or a list of these")

    @property
    def tasks(self) -> list[str]:
        """The names of the evaluation sets."""
        return list(self.task) if isinstance(self.task, list | tuple) else [self.task]


def evaluation_of(config: EvaluateConfig) -> Evaluation:
    """Read the evaluation sets, which takes less time than to load a policy.

    Raises:
        ValueError: A set cannot be read, or two sets have the same name.
    """
    check_data_sets("data", config.data, config.tasks)
    data = config.data.settings(config.template, config.max_new_tokens, config.stop)
    sets = [evaluation_set(name, config.verifier, data, config.size) for name in config.tasks]
    return Evaluation(
        distinct(sets, config.tasks), k=config.samples or config.k, temperature=config.temperature, top_p=config.top_p
    )


def evaluate(
    config: EvaluateConfig, evaluation: Evaluation, keep: Callable[[dict[str, Any]], None] = lambda found: None
) -> dict[str, Any]:
    """Return the scores and the counts of every set of `evaluation_of(config)`, by its name.

    Args:
        config: The settings.
        evaluation: The evaluation sets.
        keep: Called after every set with what was found so far, so that a failure loses no finished set.

    Raises:
        ValueError: The policy cannot be read, or a problem is too long for it.
    """
    policy = replace(load_policy(config.policy), precision=config.precision)
    policy.model.to(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    found = {}
    with make_engine(config.engine, policy) as engine:
        for number, one in enumerate(evaluation.sets):
            seed = derived_seed(config.seed, number)
            counts = evaluation.count(
                one, engine, seed, timeout=config.verify_timeout, own_process=config.verify_process
            )
            found[one.name] = _result(one, counts, powers_up_to(config.k))
            keep(found)
    return found


def powers_up_to(k: int) -> list[int]:
    """Return the powers of two from 2 to below k, and k. pass@1 is left out for k above 1: it equals mean@n."""
    return [*(2**i for i in range(1, (k - 1).bit_length())), k]


def _result(one: EvaluationSet, counts: Counts, ks: Sequence[int]) -> dict[str, Any]:
    return {
        "problems": len(one.problems),
        "rollouts": counts.num_rollouts,
        "scores": scores(counts, ks),
        "not_judged": dict(counts.failures),
        "keys": list(one.problems.keys),
        "successes": counts.successes.tolist(),
        "group_size": counts.group_size.tolist(),
    }


def table(results: dict[str, Any]) -> Any:
    """Return the scores as a table, in percent with standard errors in brackets."""
    names = list(dict.fromkeys(name for one in results.values() for name in one["scores"] if "@" in name))
    names = [name for name in names if not name.endswith("/stderr")]
    rows = []
    for name, one in results.items():
        said = one["scores"]
        cells = [f"{100 * said[score]:.1f} ({100 * said[f'{score}/stderr']:.1f})" for score in names]
        rows.append([name, f"{one['problems']:,}", *cells, f"{said['judged_share']:.3f}", f"{said['tokens']:.0f}"])
    return terminal_table("", ["set", "problems", *names, "judged", "tokens"], rows)


def main(arguments: list[str]) -> None:
    """Evaluate, write the JSON file after every set, and print the table, also if a later set fails."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print("\n".join([_HEAD, *settings_of(EvaluateConfig(policy="PATH", task="FILE"))]))
        return
    with clear_errors():
        config = parsed(arguments)
        out = local_path(config.out, "out")
        _check_replaceable(out)
        evaluation = evaluation_of(config)
        _check_writable(out)
    about, results = provenance(asdict(config), config.seed), {}

    def keep(found: dict[str, Any]) -> None:
        results.update(found)
        write_result(out, about | {_MARK: results})

    try:
        evaluate(config, evaluation, keep)
    finally:
        if results:
            _print_table(results)
    print(f"percent, standard errors over problems in brackets; see {out}")


def _print_table(results: dict[str, Any]) -> None:
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    console.print(table(results), soft_wrap=False)


def parsed(arguments: list[str]) -> EvaluateConfig:
    """Return the settings of the command line.

    Raises:
        ValueError: A setting does not exist or has another type.
    """
    settings = writable_config(EvaluateConfig)
    try:
        config = OmegaConf.to_object(
            OmegaConf.merge(settings, *(_setting(argument, settings) for argument in arguments))
        )
    except OmegaConfBaseException as error:
        raise ValueError(f"{str(error).splitlines()[0]}; see python -m experiments.evaluate --help") from None
    assert isinstance(config, EvaluateConfig)
    return config


def _setting(argument: str, settings: DictConfig) -> DictConfig:
    """Return the setting NAME=VALUE. Texts and lists of texts are read as `experiments.train` reads them.

    A text is taken as it stands, or without the quotes around it. Other values, and a list of tasks, are YAML.
    """
    name, _, value = argument.partition("=")
    known, setting = OmegaConf.select(settings, name), OmegaConf.create()
    if isinstance(known, ListConfig):
        override = hydra_override(argument)
        if override is None:
            raise ValueError(f"{name} is {value!r}, which is no list; give texts in quotes, as in {name}=['a','b']")
        OmegaConf.update(setting, name, override.value())
        return setting
    if not isinstance(known, str) or (name == "task" and value.startswith("[")):
        with contextlib.suppress(YAMLError):
            return OmegaConf.from_dotlist([argument])
    OmegaConf.update(setting, name, text_of(argument))
    return setting


def _check_replaceable(out: Path) -> None:
    if out.exists() and not holds_result(out, _MARK):
        raise ValueError(f"out is {str(out)!r}, which exists and was not written by this command; give another file")


def _check_writable(out: Path) -> None:
    """Make the folder of the file and write there, because hours of work would be lost otherwise."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        cure = "give a file in a folder that you may write to"
        raise ValueError(f"out is {str(out)!r}, which cannot be written ({error.strerror}); {cure}") from error


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
