"""How well embeddings rank prompts by success rate: WordLlama's, the policy's own hidden states, and both.

    python -m experiments.policy_embeddings [--seeds 0 1 2] [--prompts 1500] [--rollouts 32]

Claim: a linear regression on the vectors of WordLlama and of the policy together ranks prompts better than a regression
on either alone, on both tasks. The policy is the built-in one after its warm start, as at the start of a run. The rate
of a prompt comes from rollouts. Ridge regression predicts the rates in ten-fold cross-validation, and chooses its
penalty on the training folds alone. The measure is Spearman's correlation of the predictions and the rates. The rates
are noisy, so no prediction reaches 1.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import of_seeds, shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import module_parser, quiet_pipe
from experiments.running.config import RunConfig, clear_errors
from experiments.running.runs import make_policy
from experiments.running.tasks import TASKS, task_of
from jaxsel import metrics
from jaxsel.integrations.embeddings import embed
from rl.engines.hf import HFEngine
from rl.groups import judge
from rl.hidden_states import hidden_states
from rl.policy import Policy
from rl.prompts import PromptPool, Task
from rl.rollout import Sampling

_AT_ONCE = 250  # prompts whose rollouts are in memory together
_PARTS = 10
_PENALTIES = np.logspace(-1, 6, 29)


def main(arguments: list[str]) -> None:
    """Measure every task at every seed, write the result and print the table."""
    parser = module_parser("experiments.policy_embeddings", __doc__)
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=["string_ops", "countdown"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=1500)
    parser.add_argument("--rollouts", type=int, default=32, help="rollouts per prompt")
    parser.add_argument("--warm-start-steps", type=int, default=RunConfig().warm_start.steps)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with clear_errors():
        config = RunConfig(pool_size=options.prompts)
        config = replace(config, warm_start=replace(config.warm_start, steps=options.warm_start_steps))
    found: dict[str, dict] = {}
    for task in options.tasks:
        seeds = [measured(replace(config, task=task, seed=seed), options.rollouts) for seed in options.seeds]
        found[task] = {name: of_seeds([numbers[name] for numbers in seeds]) for name in seeds[0]}
    settings = {"tasks": options.tasks, "rollouts": options.rollouts, "run": asdict(config)}
    write_result(options.results / "policy_embeddings.json", provenance(settings, options.seeds) | {"tasks": found})
    Console(width=110).print(_table(found))


def measured(config: RunConfig, num_rollouts: int) -> dict[str, float]:
    """Return the correlations and the mean success rate for one policy and pool, and the seconds to embed the pool."""
    task = task_of(config)
    policy = make_policy(config, task, progress=False)
    pool = task.pool(config.pool_size, config.seed)
    rates = success_rates(task, policy, pool, num_rollouts)
    words, seconds_of_words = _timed(lambda: embed(pool.texts, cache=None, progress=False))
    last, seconds = _timed(lambda: embed(pool.texts, embedder=hidden_states(policy), progress=False))
    found = {"mean_rate": float(rates.mean()), "wordllama_seconds": seconds_of_words, "policy_seconds": seconds}
    for layer in range(1, config.warm_start.num_layers):
        states = embed(pool.texts, embedder=hidden_states(policy, layer=layer), progress=False)
        found[f"policy, layer {layer}"] = correlation(states, rates)
    found["policy, last layer"] = correlation(last, rates)
    return found | {
        "wordllama": correlation(words, rates),
        "both": correlation(np.concatenate([words, last], 1), rates),
    }


def success_rates(task: Task, policy: Policy, pool: PromptPool, num_rollouts: int) -> np.ndarray:
    """Return each prompt's share of correct completions among its judged ones."""
    sampling, engine, rates = Sampling(task.max_new_tokens, stop=task.stop), HFEngine(policy), []
    for start in range(0, len(pool), _AT_ONCE):
        ids = np.arange(start, min(start + _AT_ONCE, len(pool)))
        completions = engine.generate(pool.take(ids.tolist()).texts, num_rollouts, sampling, seed=start)
        groups = judge(task, pool, ids, completions)
        rates.append(groups.successes / np.maximum(groups.group_size, 1))
    return np.concatenate(rates)


def correlation(embeddings: np.ndarray, rates: np.ndarray) -> float:
    """Return Spearman's correlation of the rates with their predictions in cross-validation."""
    model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
    parts = KFold(_PARTS, shuffle=True, random_state=0)
    return float(metrics.spearman(np.asarray(cross_val_predict(model, embeddings, rates, cv=parts)), rates))


def _timed(compute: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    vectors = compute()
    return vectors, time.perf_counter() - start


def _table(found: dict[str, dict]) -> Table:
    names = list(dict.fromkeys(name for numbers in found.values() for name in numbers))
    rows = ([name, *(shown(numbers[name]) for numbers in found.values())] for name in names)
    title = "Spearman's correlation of predicted and measured success rates; standard error over seeds in brackets"
    return terminal_table(title, ("", *found), rows)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
