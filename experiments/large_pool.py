"""What is left of a method when the pool is so large that almost nothing is visited twice?

    python -m experiments.large_pool [--sizes 1e5 1e6 1e7] [--steps 200] [--seeds 0 1 2] [--methods mopps dps ...]

A simulated learner (`jaxsel.simulate`), 256 prompts a step, 8 rollouts each; a whole run is one `lax.scan`, on whatever
devices there are, and on several, those of other processes included, with the pool spread over them
(`experiments/cluster/several_nodes.sbatch`). Methods choose among the whole pool, or among a random subset of ten times
the batch, another one at every step, as the papers do. Regret is what a batch's share of mixed groups lacks to that of
an oracle, which knows the true success rates, chooses likewise, and trains a learner of its own. Spearman and error are
of the predictions of 1,024 random prompts at the end.

Claim: a run of mopps or dps over 200 steps and 1e6 prompts takes less than two minutes on two cores. Open: how methods
age as the pool grows, when with 1e7 prompts and 256 a step visits are rare.

A run is written to `--runs` when it ends, and is not run again; the result is of all that are there with these
settings, so that seeds can be added to one size.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import jaxsel
from experiments import drawing
from experiments.figures import with_band
from experiments.provenance import RESULTS, provenance, write_result
from experiments.spread import over_seeds
from jaxsel import plotting, simulate

ORACLE = "oracle"
METHODS: dict[str, Callable[[], jaxsel.Selector]] = {
    "uniform": jaxsel.uniform,
    "mopps": jaxsel.mopps,
    "mopps, posterior mean": lambda: jaxsel.mopps(acquisition=jaxsel.target_success_rate()),
    "mopps, P(mixed)": lambda: jaxsel.mopps(acquisition=jaxsel.mixed_probability()),
    "threshold": jaxsel.threshold,
    "dps": jaxsel.dps,
}
"""But for gps, which is made of the pool's embeddings, and the oracle, which is made of its learner."""
NAMES = (*METHODS, "gps")
AMONG = {"pool": "the whole pool", "subset": "a random subset"}
_BLOCK = 10  # steps that are one point of a curve
_LOOKS: dict[str, str | int] = {ORACLE: 6, "mopps, posterior mean": 3, "mopps, P(mixed)": 2}


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside size, method and seed.

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
    """One run in numbers; its seconds are without those of compilation."""

    def learner_of(seed: jax.Array | np.uint32) -> tuple[simulate.Learner, jax.Array]:
        learner_key, run_key = jax.random.split(jax.random.key(seed))
        return simulate.make_learner(learner_key, num_prompts), run_key

    selector = None if name == ORACLE else _selector(config, name, num_prompts, lambda: jax.jit(learner_of)(seed))

    def simulated(seed: jax.Array | np.uint32, belief: Any) -> simulate.Trace:
        learner, key = learner_of(seed)
        return simulate.simulate(
            key,
            simulate.oracle(learner, group_size=config.group_size) if selector is None else selector,
            learner,
            num_steps=config.steps,
            batch_size=config.batch_size,
            group_size=config.group_size,
            candidate_ratio=config.subset if among == "subset" else None,
            belief=belief,
        )

    # not inside, where the embeddings of gps would be constants of what is compiled
    belief = None if selector is None else jax.jit(selector.init, static_argnums=1)(jax.random.key(seed), num_prompts)
    compiled = jax.jit(simulated).lower(np.uint32(seed), belief).compile()
    start = time.perf_counter()
    trace = jax.block_until_ready(compiled(np.uint32(seed), belief))
    seconds = time.perf_counter() - start
    ids = np.asarray(trace.prompt_ids)
    shares = np.asarray(trace.mixed_share)
    return {
        "mixed_shares": [float(block.mean()) for block in np.split(shares, range(_BLOCK, len(shares), _BLOCK))],
        "mixed_share": float(shares.mean()),
        "mixed_share_late": float(shares[len(shares) // 2 :].mean()),
        "coverage": len(np.unique(ids)) / num_prompts,
        "visited_before": 1 - len(np.unique(ids)) / ids.size,
        "mean_success_rate": float(trace.mean_success_rate[-1]),
        "spearman": float(np.nan_to_num(trace.spearman[-1])),
        "mean_absolute_error": float(trace.mean_absolute_error[-1]),
        "seconds_a_step": seconds / config.steps,
    }


def _selector(config: Config, name: str, num_prompts: int, learner: Callable[[], Any]) -> jaxsel.Selector:
    if name == "gps":
        made, key = learner()
        features = jax.jit(simulate.embed, static_argnames="num_features")(key, made, num_features=config.num_features)
        selector = jaxsel.gps(np.asarray(features, np.float16), context_size=config.batch_size)
    else:
        selector = METHODS[name]()
    return selector if len(jax.devices()) == 1 else jaxsel.shard(selector, jaxsel.prompts_mesh(), num_prompts)


Found = dict[tuple[int, str], dict[str, list[dict[str, Any]]]]
"""Runs, by size and what was chosen among, by method; one a seed."""


def find(config: Config, folder: Path) -> Found:
    """All runs of these settings in the folder: smallest pools first, methods in their order, by seed."""

    def place(one: dict[str, Any]) -> tuple[Any, ...]:
        name = one["method"]
        return one["size"], list(AMONG).index(one["among"]), (ORACLE, *NAMES).index(name), one["seed"]

    everything = (json.loads(path.read_text()) for path in folder.glob("*.json"))
    found: Found = {}
    for one in sorted((one for one in everything if one["config"] == asdict(config)), key=place):
        found.setdefault((one["size"], one["among"]), {}).setdefault(one["method"], []).append(one)
    return found


def summarise(by_method: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of one size and way to choose: every method's numbers, mean and standard error over seeds."""
    best = {one["seed"]: one["found"]["mixed_share"] for one in by_method.get(ORACLE, [])}
    summary = {}
    for name, runs in by_method.items():
        regrets = [best.get(one["seed"], np.nan) - one["found"]["mixed_share"] for one in runs]
        curve = np.array([one["found"]["mixed_shares"] for one in runs])
        numbers = [{k: v for k, v in one["found"].items() if k != "mixed_shares"} for one in runs]
        summary[name] = {"seeds": [one["seed"] for one in runs]} | over_seeds(numbers)
        summary[name] |= {"regret": over_seeds(regrets), "mixed_shares": curve.mean(0).round(4).tolist()}
    return summary


_COLUMNS = {
    "mixed_share": "mixed",
    "mixed_share_late": "2nd half",
    "regret": "regret",
    "coverage": "visited",
    "visited_before": "revisits",
    "spearman": "Spearman",
    "seconds_a_step": "s/step",
}


def table(title: str, summary: dict[str, Any]) -> Table:
    """Methods by numbers: means over seeds, the errors of which are in the JSON."""
    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in ("method", *_COLUMNS.values()):
        found.add_column(column, justify="left" if column == "method" else "right", no_wrap=column == "method")
    for name, numbers in summary.items():
        found.add_row(name, *(f"{numbers[column]['mean']:.3f}" for column in _COLUMNS))
    return found


def draw(found: Found, path: Path) -> Path:
    """The share of mixed groups over steps: a column a size, a row a way to choose."""
    sizes, ways = (list(dict.fromkeys(key[part] for key in found)) for part in (0, 1))
    figure, axes = drawing.plt.subplots(
        len(ways),
        len(sizes),
        figsize=(3.9 * len(sizes) + 0.5, 3.1 * len(ways) + 0.8),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    handles: dict[str, Any] = {}
    for (size, way), by_method in found.items():
        ax = axes[ways.index(way), sizes.index(size)]
        for name, runs in by_method.items():
            shares = np.array([one["found"]["mixed_shares"] for one in runs])
            steps = _BLOCK * (np.arange(shares.shape[1]) + 0.5)
            look = plotting.style(_LOOKS.get(name, name)) | {"markersize": 4, "label": name}
            with_band(ax, steps, shares, look)
            handles.setdefault(name, ax.lines[-1])
        ax.set_title(f"{size:,} prompts, among {AMONG[way]}", fontsize=10)
        drawing.tidy(ax)
    for ax in axes[:, 0]:
        ax.set_ylabel("share of mixed groups")
    for ax in axes[-1]:
        ax.set_xlabel("training step")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(2 * len(sizes), 4), frameon=False)
    return drawing.save(figure, path)


def missing(config: Config, options: argparse.Namespace) -> Iterator[tuple[int, str, str, int, Path]]:
    """The runs asked for that are not there."""
    for size in options.sizes:
        for among in options.among:
            for name in (ORACLE, *options.methods):
                for seed in options.seeds:
                    settings = "-".join(map(str, asdict(config).values()))
                    label = name.replace(", ", "_").replace(" ", "_")
                    path = options.runs / f"{label}-{size}-{among}-{seed}-{settings}.json"
                    if not path.exists():
                        yield size, among, name, seed, path


def main(arguments: list[str]) -> None:
    """Runs every size, method and seed; prints tables, writes JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: int(float(text)), nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--batch-size", type=int, default=Config.batch_size)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--among", nargs="+", choices=AMONG, default=list(AMONG))
    parser.add_argument("--runs", type=Path, default=Path("runs/large_pool"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    jaxsel.initialize_distributed()
    writes = jax.process_index() == 0
    config = Config(steps=options.steps, batch_size=options.batch_size)
    plan = list(missing(config, options))
    for size, among, name, seed, path in (bar := tqdm(plan, unit="run", disable=not writes)):
        bar.set_postfix_str(f"{name}, {size:,} prompts, among {AMONG[among]}")
        what = {"size": size, "among": among, "method": name}
        found = run(config, name, size, seed, among)
        if writes:
            write_result(path, provenance(asdict(config), seed) | what | {"found": found})
    if not writes:
        return
    console = Console()
    found = find(config, options.runs)
    summary = {f"{size:,} prompts, among {AMONG[way]}": summarise(methods) for (size, way), methods in found.items()}
    for title, numbers in summary.items():
        console.print(table(title, numbers))
    seeds = sorted({one["seed"] for methods in found.values() for runs in methods.values() for one in runs})
    write_result(options.out / "large_pool.json", provenance(asdict(config), seeds) | {"summary": summary})
    console.print(f"figure: {draw(found, options.out / 'large_pool.png')}")


if __name__ == "__main__":
    main(sys.argv[1:])
