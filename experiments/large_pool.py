"""What is left of a method when the pool is so large that almost nothing is visited twice?

    python -m experiments.large_pool [--sizes 1e5 1e6 1e7] [--steps 200] [--seeds 0 1 2] [--among pool subset]

A simulated learner (`jaxsel.simulate`), 256 prompts a step, 8 rollouts each; the whole run is one `lax.scan`, on
whatever devices there are, and on several, those of other processes included, with the pool spread over them
(`experiments/cluster/several_nodes.sbatch`). Methods choose among the whole pool, or among a random subset of ten times
the batch, another one at every step, as the papers do. Regret is what a batch's share of mixed groups lacks to that of
an oracle, which knows the true success rates and trains a learner of its own.

Claim: a run of mopps or dps over 200 steps and 1e6 prompts takes less than two minutes on two cores. Open: how methods
age as the pool grows, when with 1e7 prompts and 256 a step visits are rare.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import jaxsel
from experiments import drawing
from experiments.provenance import RESULTS, provenance, write_result
from experiments.spread import over_seeds, shown
from jaxsel import plotting, simulate

Make = Callable[[np.ndarray], jaxsel.Selector]
"""Makes a method, given the embeddings of the pool; an oracle is made where its learner is."""

METHODS: dict[str, Make] = {
    "uniform": lambda embeddings: jaxsel.uniform(),
    "mopps": lambda embeddings: jaxsel.mopps(),
    "mopps, mean": lambda embeddings: jaxsel.mopps(acquisition=jaxsel.target_success_rate()),
    "dps": lambda embeddings: jaxsel.dps(),
    "gps": lambda embeddings: jaxsel.gps(embeddings),
}
ORACLE = "oracle"
SLOW_ABOVE = {"gps": 1_000_000}
"""The largest pool of which a method is asked to predict everything; above, a subset only."""


@dataclass(frozen=True)
class Config:
    """What the result depends on, beside size, method and seed.

    Attributes:
        steps: of training.
        batch_size: prompts a step.
        group_size: rollouts a prompt.
        subset: size of a random subset to choose among, in batches.
        num_features: of the embeddings that gps is given.
    """

    steps: int = 200
    batch_size: int = 256
    group_size: int = 8
    subset: int = 10
    num_features: int = 32


def run(config: Config, name: str, num_prompts: int, seed: int, among: str) -> dict[str, Any]:
    """One run: shares of mixed groups step by step, what was visited, and seconds without compilation."""
    learner_key, embed_key, run_key = jax.random.split(jax.random.key(seed), 3)
    learner = jax.jit(simulate.make_learner, static_argnums=1)(learner_key, num_prompts)
    selector = None
    if name != ORACLE:
        embeddings = np.zeros((0, 0), np.float16)
        if name == "gps":
            embeddings = np.asarray(simulate.embed(embed_key, learner, num_features=config.num_features), np.float16)
        selector = METHODS[name](embeddings)
        if len(jax.devices()) > 1:
            selector = jaxsel.shard(selector, jaxsel.prompts_mesh(), num_prompts)

    def simulated(key: jax.Array, learner: simulate.Learner) -> simulate.Trace:
        return simulate.simulate(
            key,
            simulate.oracle(learner, group_size=config.group_size) if selector is None else selector,
            learner,
            num_steps=config.steps,
            batch_size=config.batch_size,
            group_size=config.group_size,
            candidate_ratio=config.subset if among == "subset" else None,
        )

    compiled = jax.jit(simulated).lower(run_key, learner).compile()
    start = time.perf_counter()
    trace = jax.block_until_ready(compiled(run_key, learner))
    seconds = time.perf_counter() - start
    ids = np.asarray(trace.prompt_ids)
    return {
        "mixed_share": np.asarray(trace.mixed_share).tolist(),
        "coverage": len(np.unique(ids)) / num_prompts,
        "visited_before": 1 - len(np.unique(ids)) / ids.size,
        "mean_success_rate": float(trace.mean_success_rate[-1]),
        "spearman": float(np.nan_to_num(trace.spearman[-1])),
        "mean_absolute_error": float(trace.mean_absolute_error[-1]),
        "seconds_a_step": seconds / config.steps,
    }


def summarise(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of one size and way to choose: every method's numbers, mean and standard error over seeds."""
    best = [np.array(found["mixed_share"]) for found in runs[ORACLE]]
    summary = {}
    for name, by_seed in runs.items():
        shares = [np.array(found["mixed_share"]) for found in by_seed]
        late = slice(len(shares[0]) // 2, None)
        summary[name] = {
            "mixed_share": over_seeds([float(share.mean()) for share in shares]),
            "mixed_share_late": over_seeds([float(share[late].mean()) for share in shares]),
            "regret": over_seeds([float((top - share).mean()) for top, share in zip(best, shares, strict=True)]),
        }
        for metric in by_seed[0]:
            if metric != "mixed_share":
                summary[name][metric] = over_seeds([found[metric] for found in by_seed])
    return summary


def table(title: str, summary: dict[str, Any]) -> Table:
    """Methods by numbers."""
    columns = {
        "mixed_share": "mixed groups",
        "mixed_share_late": "second half",
        "regret": "regret",
        "coverage": "pool visited",
        "visited_before": "visits to visited",
        "spearman": "Spearman",
        "seconds_a_step": "seconds a step",
    }
    found = Table(title=title, title_justify="left")
    for column in ("method", *columns.values()):
        found.add_column(column, justify="left" if column == "method" else "right")
    for name, numbers in summary.items():
        found.add_row(name, *(shown(numbers[column]) for column in columns))
    return found


def draw(runs: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> Path:
    """The share of mixed groups over steps, one panel a setting."""
    figure, axes = drawing.plt.subplots(
        1, len(runs), figsize=(4 * len(runs) + 1, 3.8), layout="constrained", sharey=True, squeeze=False
    )
    for ax, (title, methods) in zip(axes[0], runs.items(), strict=True):
        for look, (name, by_seed) in enumerate(methods.items()):
            shares = np.array([found["mixed_share"] for found in by_seed])
            blocks = shares[:, : shares.shape[1] // 10 * 10].reshape(len(shares), -1, 10).mean(2)
            error = blocks.std(0, ddof=1) / np.sqrt(len(blocks)) if len(blocks) > 1 else None
            known = name if name in plotting.METHODS else look
            steps = 10 * np.arange(blocks.shape[1]) + 5
            plotting.over_steps(
                ax, steps, blocks.mean(0), standard_error=error, label=name, metric="share of mixed groups", look=known
            )
        ax.set_title(title, fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle("How methods age as the pool grows and visits become rare")
    return drawing.save(figure, path)


def main(arguments: list[str]) -> None:
    """Runs every size, method and seed; prints tables, writes JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: int(float(text)), nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--batch-size", type=int, default=Config.batch_size)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=list(METHODS))
    parser.add_argument("--among", nargs="+", choices=["pool", "subset"], default=["pool", "subset"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    jaxsel.initialize_distributed()
    writes = jax.process_index() == 0
    config = Config(steps=options.steps, batch_size=options.batch_size)
    plan = [
        (size, among, name, seed)
        for size in options.sizes
        for among in options.among
        for name in (ORACLE, *options.methods)
        if among == "subset" or size <= SLOW_ABOVE.get(name, size)
        for seed in options.seeds
    ]
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for size, among, name, seed in (bar := tqdm(plan, unit="run", disable=not writes)):
        bar.set_postfix_str(f"{name}, {size:,} prompts, {among}")
        setting = runs.setdefault(f"{size:,} prompts, among {'all' if among == 'pool' else 'a subset'}", {})
        setting.setdefault(name, []).append(run(config, name, size, seed, among))
    if not writes:
        return
    console = Console()
    summary = {title: summarise(methods) for title, methods in runs.items()}
    for title, numbers in summary.items():
        console.print(table(title, numbers))
    made = provenance(asdict(config) | {"sizes": options.sizes}, options.seeds)
    write_result(options.out / "large_pool.json", made | {"summary": summary})
    console.print(f"figure: {draw(runs, options.out / 'large_pool.png')}")


if __name__ == "__main__":
    main(sys.argv[1:])
