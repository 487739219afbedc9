"""How well embeddings rank prompts by success rate: WordLlama's, the policy's own hidden states, and others.

    python -m experiments.policy_embeddings [--seeds 0 1 2] [--prompts 1500] [--rollouts 32]

Claim: a linear regression on the vectors of WordLlama and of the policy together ranks prompts better than a regression
on either alone, on both tasks. The policy is the built-in one after its warm start, as at the start of a run. The rate
of a prompt comes from rollouts. Ridge regression predicts the rates in ten-fold cross-validation, and chooses its
penalty on the training folds alone. The measure is Spearman's correlation of the predictions and the rates. The rates
are noisy, so no prediction reaches 1.

Random Fourier features of the policy's hidden states (`kernel_features`) are measured beside these vectors too, without
a claim.

Where prompts have strata, their features (`rl.prompts.features`) are measured too. Claim, written before the runs: with
a pretrained policy, SmolLM2-135M-Instruct, the features of the difficulty rank the prompts of word_problems and of
reasoning_gym:chain_sum better than WordLlama's vectors. `--pretrained` takes this policy with the settings of
`experiments.pretrained`; add `--tasks word_problems reasoning_gym:chain_sum --name difficulty_embeddings`.

With `--train-steps 200`, the policy is then trained on this pool with uniform, and the rates of the trained policy are
predicted: from the hidden states at the start, as a run does, and from the states of the trained policy. Claim, written
before the runs: with WordLlama beside them, states that are computed again rank the prompts better by at least 0.02.
"""

import sys
import tempfile
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

from experiments.pretrained import SETTINGS
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import of_seeds, shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import Distinct, module_parser, quiet_pipe
from experiments.running.config import RunConfig, add_settings, clear_errors, configured
from experiments.running.embeddings import kernel_features
from experiments.running.runs import make_engine, make_policy, run
from experiments.running.tasks import task_of
from jaxsel import metrics
from jaxsel.integrations.embeddings import embed
from rl.groups import judge
from rl.hidden_states import hidden_states
from rl.policy import Policy, load_policy
from rl.prompts import PromptPool, Task
from rl.prompts.features import features_of
from rl.rollout import RolloutEngine, Sampling
from rl.run_folder.contents import POLICY

_AT_ONCE = 250  # prompts whose rollouts are in memory together
_PARTS = 10
_KERNEL_FEATURES = 256
_PENALTIES = np.logspace(-1, 6, 29)


def main(arguments: list[str]) -> None:
    """Measure every task at every seed, write the result and print the table."""
    parser = module_parser("experiments.policy_embeddings", __doc__)
    parser.add_argument("--tasks", nargs="+", default=["string_ops", "countdown"])
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=1500)
    parser.add_argument("--rollouts", type=int, default=32, help="rollouts per prompt")
    parser.add_argument("--warm-start-steps", type=int, default=RunConfig().warm_start.steps)
    parser.add_argument("--train-steps", type=int, default=0, help="steps of training before a second measurement")
    parser.add_argument("--pretrained", action="store_true", help="measure SmolLM2-135M-Instruct after fine-tuning")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="policy_embeddings", help="name of the result")
    add_settings(parser)
    options = parser.parse_args(arguments)
    with clear_errors():
        config = configured(dict(options.set), SETTINGS if options.pretrained else RunConfig())
        warm_start = replace(config.warm_start, steps=options.warm_start_steps)
        steps = options.train_steps or config.train.steps
        train = replace(config.train, steps=steps, probe_every=0, checkpoint_every=0)
        config = replace(config, pool_size=options.prompts, warm_start=warm_start, train=train)
        tasks = {name: task_of(replace(config, task=name)) for name in options.tasks}
    found: dict[str, dict] = {}
    for task_name, task in tasks.items():
        one = replace(config, task=task_name)
        seeds = [
            measured(replace(one, seed=seed), task, options.rollouts, trained=options.train_steps > 0)
            for seed in options.seeds
        ]
        found[task_name] = {name: of_seeds([numbers[name] for numbers in seeds]) for name in seeds[0]}
    settings = {"tasks": options.tasks, "rollouts": options.rollouts, "run": asdict(config)}
    settings |= {"train_steps": options.train_steps}
    write_result(options.results / f"{options.name}.json", provenance(settings, options.seeds) | {"tasks": found})
    Console(width=110).print(_table(found))


def measured(config: RunConfig, task: Task, num_rollouts: int, *, trained: bool) -> dict[str, float]:
    """Return the correlations and the mean success rate for one policy and pool, and the seconds to embed the pool.

    If `trained` is true, the same after training, from the old and from new hidden states.
    """
    policy = make_policy(config, task, progress=False)
    pool = task.pool(config.pool_size, config.seed)
    with make_engine(config.engine, policy) as engine:
        rates = success_rates(task, engine, pool, num_rollouts)
    words, seconds_of_words = _timed(lambda: embed(pool.texts, cache=None, progress=False))
    last, seconds = _timed(lambda: embed(pool.texts, embedder=hidden_states(policy), progress=False))
    found = {"mean_rate": float(rates.mean()), "wordllama_seconds": seconds_of_words, "policy_seconds": seconds}
    for layer in range(1, 1 if config.policy else config.warm_start.num_layers):
        states = embed(pool.texts, embedder=hidden_states(policy, layer=layer), progress=False)
        found[f"policy, layer {layer}"] = correlation(states, rates)
    found["policy, last layer"] = correlation(last, rates)
    if pool.strata is not None:
        found["difficulty"] = correlation(features_of(list(pool.strata)), rates)
    found |= {"wordllama": correlation(words, rates), "both": correlation(np.concatenate([words, last], 1), rates)}
    features = kernel_features(last, _KERNEL_FEATURES)
    found["policy and kernel features"] = correlation(np.concatenate([last, features], 1), rates)
    found["both and kernel features"] = correlation(np.concatenate([words, last, features], 1), rates)
    if trained:
        later = trained_policy(config)
        with make_engine(config.engine, later) as engine:
            rates = success_rates(task, engine, pool, num_rollouts)
        new = embed(pool.texts, embedder=hidden_states(later), progress=False)
        found |= {"mean_rate, trained": float(rates.mean()), "wordllama, trained": correlation(words, rates)}
        for name, states in {"states of the start": last, "new states": new}.items():
            found[f"{name}, trained"] = correlation(states, rates)
            found[f"{name} and wordllama, trained"] = correlation(np.concatenate([words, states], 1), rates)
    return found


def trained_policy(config: RunConfig) -> Policy:
    """Train with uniform on the pool of the configuration, and return the policy at the end."""
    config = replace(config, method=replace(config.method, name="uniform"))
    with tempfile.TemporaryDirectory() as folder:
        run(config, Path(folder))
        return load_policy(Path(folder) / POLICY)


def success_rates(task: Task, engine: RolloutEngine, pool: PromptPool, num_rollouts: int) -> np.ndarray:
    """Return each prompt's share of correct completions among its judged ones."""
    sampling, rates = Sampling(task.max_new_tokens, stop=task.stop), []
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
