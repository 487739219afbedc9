"""What selection adds to a training step, with a pool of a million prompts.

    python -m experiments.selection_overhead [--pool-size 1000000] [--rounds 6] [--steps 12] [--unprepared]

Claim: choosing the prompts and updating the belief add less than 1% to a step that chooses uniformly. The steps are
real steps of the built-in policy (2 million weights, 64 x 8 rollouts), with torch on one core: rollouts, verification,
update. The verification invents its verdicts, because an untrained policy would solve nothing: one group of 8 rollouts
in four is mixed (has both successes and failures), as in training. JAX chooses while torch updates the policy. So the
measure is how much longer the whole step takes than uniform's step, not how long the loop waits. Methods take turns in
short runs for several rounds, because the load of the machine changes. A step of a policy on a GPU cluster takes
seconds to minutes; compare the milliseconds with such a step.
"""

import copy
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.summaries import column
from experiments.reporting.tables import terminal_table
from experiments.running.command import module_parser, quiet_pipe
from experiments.running.compare import SETTINGS, run_config
from experiments.running.config import RunConfig
from experiments.running.curricula import make_curriculum
from experiments.running.method_config import METHOD_NAMES
from experiments.running.runs import make_policy
from experiments.running.tasks import task_of
from rl.engines.hf import HFEngine
from rl.policy import Policy
from rl.probe import Probe
from rl.prompts import PromptPool, Task, Verdict
from rl.train import train

_WARM_UP = 4  # steps, in which functions are compiled


@dataclass(frozen=True)
class Variant:
    """One way of selecting prompts, to be measured.

    Attributes:
        method: Name of the method: uniform, mopps, dps or gps.
        among: Prompts to choose among: "window" for an epoch-shuffled window of four batches (for uniform, one batch),
            or "whole pool".
        prepared: Whether the choice is dispatched before the policy is updated, or only when the next step needs it.
    """

    method: str
    among: str = "window"
    prepared: bool = True


@dataclass(frozen=True)
class World:
    """The objects that all runs share, because a pool of a million prompts takes seconds to make."""

    config: RunConfig
    task: Task
    pool: PromptPool
    policy: Policy


def main(arguments: list[str]) -> None:
    """Measure every method against uniform, print the table and write the result."""
    parser = module_parser("experiments.selection_overhead", __doc__)
    parser.add_argument("--pool-size", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12, help=f"steps per run; the first {_WARM_UP} do not count")
    parser.add_argument(
        "--methods", nargs="+", choices=METHOD_NAMES, default=["mopps", "dps"], help="methods besides uniform"
    )
    parser.add_argument("--among", nargs="+", choices=["window", "whole pool"], default=["window", "whole pool"])
    parser.add_argument("--unprepared", action="store_true", help="also measure each method without `prepare`")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    world = make_world(options.pool_size, options.steps)
    variants = [Variant("uniform")]
    for method, among in itertools.product(options.methods, options.among):
        variants += [Variant(method, among, prepared) for prepared in (True, False)[: 1 + options.unprepared]]
    runs: dict[Variant, list[dict[str, float]]] = {variant: [] for variant in variants}
    for number in range(options.rounds):
        for variant in np.roll(np.array(variants, object), number):
            runs[variant].append(measure(world, variant))
    rows = [asdict(variant) | summary(runs[variant], runs[variants[0]]) for variant in variants]
    config = {name: value for name, value in vars(options).items() if name != "results"} | {"run": asdict(world.config)}
    name = f"selection_overhead_{options.pool_size}.json"
    write_result(options.results / name, provenance(config, 0) | {"rows": rows})
    Console(width=110).print(_table(rows, options.pool_size))


def make_world(pool_size: int, steps: int) -> World:
    """Return a pool, and an untrained policy of 2 million weights: its skill does not change the time of a step."""
    config = run_config(SETTINGS["string_ops"], "uniform", seed=0)
    config = replace(
        config,
        pool_size=pool_size,
        method=replace(config.method, batch_size=64),
        warm_start=replace(config.warm_start, hidden_size=192, num_layers=5, feed_forward_size=768, steps=2),
        train=replace(config.train, steps=steps, probe_every=0, checkpoint_every=0),
    )
    verdicts = itertools.cycle([Verdict(True, 1.0)] + (4 * config.train.group_size - 1) * [Verdict(False, 0.0)])
    task = task_of(config)._replace(verify=lambda completion, answer: next(verdicts))
    return World(config, task, task.pool(pool_size, config.seed), make_policy(config, task, progress=False))


def measure(world: World, variant: Variant) -> dict[str, float]:
    """Return median milliseconds of a step, of its update, and of waiting for selection, in a run of its own."""
    config, policy = world.config, copy.deepcopy(world.policy)
    ratio = 0 if variant.among == "whole pool" else config.method.candidate_ratio
    method = replace(config.method, name=variant.method, candidate_ratio=ratio)
    curriculum = make_curriculum(replace(config, method=method), world.pool, policy=policy)
    if not variant.prepared:
        curriculum.prepare = lambda: None
    seconds: list[float] = []

    def timed(steps: range) -> Iterator[int]:
        for step in steps:
            start = time.perf_counter()
            yield step
            seconds.append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder:
        records = train(
            config.train,
            task=world.task,
            pool=world.pool,
            policy=policy,
            engine=HFEngine(policy),
            curriculum=curriculum,
            probe=Probe(world.task, world.pool, world.task.held_out(8), num_pool_prompts=8, group_size=1),
            run_dir=Path(folder) / "run",
            progress=timed,
        )
    waited = column(records, "seconds/selecting")
    updating = column(records, "seconds/updating")
    return {
        name: float(1e3 * np.median(values[_WARM_UP:]))
        for name, values in {"ms_step": seconds, "ms_waited": waited, "ms_updating": updating}.items()
    }


def summary(runs: list[dict[str, float]], uniform: list[dict[str, float]]) -> dict[str, Any]:
    """Return medians over the rounds, and the mean difference from uniform's step in the same round with its error."""
    step, waited, other = (
        np.array([run[name] for run in of])
        for of, name in ((runs, "ms_step"), (runs, "ms_waited"), (uniform, "ms_step"))
    )
    added = step - other
    error = added.std(ddof=1) / np.sqrt(len(added)) if len(added) > 1 else float("nan")
    return {
        "ms_step": round(float(np.median(step)), 1),
        "ms_updating": round(float(np.median([run["ms_updating"] for run in runs])), 1),
        "ms_waited": round(float(np.median(waited)), 2),
        "ms_added": round(float(added.mean()), 2),
        "ms_added_median": round(float(np.median(added)), 2),
        "ms_added_standard_error": round(float(error), 2),
        "share_added": round(float(added.mean() / other.mean()), 5),
        "share_added_standard_error": round(float(error / other.mean()), 5),
        "ms_added_by_round": [round(float(value), 1) for value in added],
    }


def _table(rows: list[dict[str, Any]], pool_size: int) -> Table:
    title = f"Selection in a training step, pool of {pool_size:,} prompts"
    columns = ("method", "among", "prepared", "step, ms", "of it updating", "waited, ms", "added, ms", "added")
    cells = (
        [
            row["method"],
            row["among"],
            "yes" if row["prepared"] else "no",
            f"{row['ms_step']:.0f}",
            f"{row['ms_updating']:.0f}",
            f"{row['ms_waited']:.2f}",
            f"{row['ms_added']:.1f} ({row['ms_added_standard_error']:.1f})",
            f"{row['share_added']:.2%} ({row['share_added_standard_error']:.2%})",
        ]
        for row in rows
    )
    return terminal_table(title, columns, cells, labels=3)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
