"""Evaluation sets: problems that a policy solves at fixed steps, scored by mean@k and pass@k with standard errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxsel import metrics
from rl import _checks
from rl.groups import judge
from rl.prompts import PromptPool, Task
from rl.ranks import Ranks
from rl.rollout import RolloutEngine, Sampling
from rl.seeds import derived_seed
from rl.verification import KINDS, Verifier

_STREAM = 0x6576616C  # separates these random numbers from other uses of the same seed


class EvaluationSet(NamedTuple):
    """Problems with a name, on which policies are measured.

    Attributes:
        name: The name of the set in metrics.
        task: The task. Its verifier judges the completions, and its length limit and stop texts end them.
        problems: The problems.
    """

    name: str
    task: Task
    problems: PromptPool


class Counts(NamedTuple):
    """How many completions of a set are correct, judged and generated.

    Attributes:
        successes: Correct completions of each problem, int32 `[m]`.
        group_size: Completions of each problem that the verifier judged, int32 `[m]`.
        num_rollouts: Number of completions, judged or not.
        tokens: Mean length of a completion in tokens.
        failures: The number of verifier calls that failed, by the kind of failure (`rl.verification.KINDS`).
    """

    successes: np.ndarray
    group_size: np.ndarray
    num_rollouts: int
    tokens: float
    failures: Mapping[str, int]


@dataclass(frozen=True)
class Evaluation:
    """Evaluation sets, and how and when a training run measures them.

    Attributes:
        sets: The sets. Their names differ.
        k: Completions per problem.
        every: Steps between two measurements; 0: only before the first step and after the last.
        temperature: Temperature of the completions.
        top_p: Total probability of the likeliest tokens to draw from. 1: draw from all tokens.

    Raises:
        ValueError: A setting is out of range, or two sets have the same name.
    """

    sets: Sequence[EvaluationSet] = ()
    k: int = 8
    every: int = 0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self):
        _checks.integers(1, k=self.k)
        _checks.integers(0, every=self.every)
        Sampling(1, self.temperature, self.top_p)  # refuses what is out of range
        names = [one.name for one in self.sets]
        if len(set(names)) != len(names):
            raise ValueError(f"the evaluation sets are named {', '.join(names)}; give every set a name of its own")

    def is_due(self, step: int) -> bool:
        """Return whether the sets are measured before this step."""
        return bool(self.sets) and (step == 0 or bool(self.every and step % self.every == 0))

    def is_measured_in(self, metrics: Mapping[str, float]) -> bool:
        """Return whether all sets were measured at `k` completions per problem, given the metrics of a step."""
        return all(f"eval/{one.name}/mean@{self.k}" in metrics for one in self.sets)

    def measure(
        self,
        engine: RolloutEngine,
        seed: int,
        *,
        timeout: float = 10.0,
        own_process: bool = False,
        ranks: Ranks | None = None,
    ) -> dict[str, float]:
        """Return the metrics `eval/...` of all sets; see `scores`. `eval/rollouts` is the number of completions.

        Args:
            engine: The engine that completes the problems.
            seed: The seed of the completions.
            timeout: The time limit of the verifier per completion, in seconds; 0: no limit.
            own_process: Whether every verifier runs in a process of its own, which is killed at the time limit. Those
                of tasks with `own_process` always do.
            ranks: The processes that share the engine. None: this process alone.
        """
        found: dict[str, float] = {}
        rollouts = 0
        for number, one in enumerate(self.sets):
            own = derived_seed(_STREAM, seed, number)
            counts = self.count(one, engine, own, timeout=timeout, own_process=own_process, ranks=ranks)
            rollouts += counts.num_rollouts
            found |= {f"eval/{one.name}/{name}": value for name, value in scores(counts, [self.k]).items()}
        return found | {"eval/rollouts": float(rollouts)} if self.sets else {}

    def count(
        self,
        one: EvaluationSet,
        engine: RolloutEngine,
        seed: int,
        *,
        timeout: float,
        own_process: bool = False,
        ranks: Ranks | None = None,
    ) -> Counts:
        """Return the counts of one set, with `k` completions per problem; the arguments are those of `measure`.

        Raises:
            ValueError: The engine refuses a problem, for example one that is too long. The error names the set and the
                row.
        """
        sampling = Sampling(one.task.max_new_tokens, self.temperature, self.top_p, one.task.stop)
        try:
            completions = engine.generate(one.problems.texts, self.k, sampling, seed=seed)
        except ValueError as error:
            raise ValueError(f"evaluation set {one.name}: {error}") from error
        with _verifier(one.task, timeout, own_process, ranks or Ranks()) as verifier:
            groups = judge(one.task, one.problems, np.arange(len(one.problems)), completions, verifier)
            failures = verifier.take_counts()
        return Counts(
            groups.successes,
            groups.group_size,
            groups.num_rollouts,
            completions.mean_length,
            {kind: int(failures[f"train/verifier_{kind}"]) for kind in KINDS},
        )


def scores(counts: Counts, ks: Sequence[int]) -> dict[str, float]:
    """Return mean@n, pass@k for each k, and the standard error of each over problems (NaN for a single problem).

    The result also holds judged_share, the share of completions that were judged, and tokens, their mean length.

    Args:
        counts: The counts of a set, with n completions per problem.
        ks: The values of k, each at most n. pass@k is the probability that at least one of k completions is correct.
    """
    n = counts.num_rollouts // len(counts.successes)
    measured: dict[str, Any] = {f"mean@{n}": metrics.mean_at_k}
    measured |= {f"pass@{k}": partial(metrics.pass_at_k, k=k) for k in ks}
    found: dict[str, float] = {}
    for name, metric in measured.items():
        value, error = metrics.estimate(metric, counts.successes, counts.group_size)
        found |= {name: float(value), f"{name}/stderr": float(error)}
    return found | {"judged_share": float(counts.group_size.sum() / counts.num_rollouts), "tokens": counts.tokens}


def _verifier(task: Task, timeout: float, own_process: bool, ranks: Ranks) -> Verifier:
    own_process = (own_process or task.own_process) and ranks.is_main
    return ranks.each(lambda: Verifier(task.verify, timeout=timeout, own_process=own_process, on_main=ranks.on_main))
