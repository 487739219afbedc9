"""What does a method still gain when the pool is so large that almost no prompt is visited twice?

    python -m experiments.large_pool [--sizes 1e5 1e6 1e7] [--steps 200] [--seeds 0 1 2] [--methods mopps dps ...]
        [--learner default | training_like]

A simulated learner (`jaxsel.simulate`) trains on 256 prompts per step with 8 rollouts each; a whole run is one
`lax.scan`. The default learner forgets nothing. With `--learner training_like`, which uses `simulate.TRAINING_LIKE`,
training on some skills lowers all skills a little. If there are several devices, in one process or in many, the pool is
sharded over all of them (`experiments/cluster/several_nodes.sbatch`). Methods choose among the whole pool, or among a
random subset. The subset has ten times as many prompts as the batch, and is drawn anew at every step; the papers use an
epoch-shuffled window of that size instead.

A group is the 8 rollouts of one prompt, and is mixed if some but not all of them are correct. The columns of the tables
are measured on 16,384 random prompts, unless they are about batches:

* mixed: share of mixed groups in the batches;
* accuracy: mean true success rate at the end;
* gain: accuracy minus the accuracy of random prompts ("uniform") with the same seed;
* ECE: calibration error of P(mixed), as the mean over four parts of the run; the column "batch" has it for the batches;
* revisits: share of the choices that had been made before;
* rank: rank correlation of the true success rates at the end with their predictions.

The JSON file also has the regret: the share of mixed groups in an oracle's batches, minus the share in the method's
batches. The oracle takes the prompts whose true success rate is nearest to 1/2, and trains a learner of its own. Two
baselines are not run, because "uniform" shows what they would do. History resampling, which drops prompts that the
policy solves, drops none before the end of its first epoch: step 391 with 1e5 prompts. Dynamic sampling draws as
uniform does; it trains on the mixed groups only, but pays for the rollouts of all groups.

Claims: a run of mopps or dps over 200 steps and 1e6 prompts takes less than two minutes on two cores. With choices from
a whole pool of 1e6, adaptive at a temperature of 1/30 has at least 0.88 mixed groups with the default learner; with
training_like, adaptive at its default temperature gains more than mopps, dps, gps and arcus, by more than two standard
errors. From subsets, adaptive has at least the mixed groups of gps. The calibration error of adaptive is below 0.02 on
random prompts and below 0.03 on its batches.

A finished run is kept in `--runs` and not run again. The result covers all kept runs with these settings, so that seeds
can be added for one size. Delete the runs when a method has changed.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import jax
from rich.console import Console
from tqdm import tqdm

import jaxsel
from experiments.large_pool.runs import AMONG, LEARNERS, NAMES, ORACLE, Config, run
from experiments.large_pool.summary import find, summarise, table
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.running.command import Distinct, module_parser, quiet_pipe
from experiments.running.compiled_programs import keep_compiled_programs

try:
    from experiments.large_pool.figure import draw
except ImportError:  # some GPU machines have no Matplotlib
    draw = None


def missing(config: Config, options: argparse.Namespace) -> Iterator[tuple[int, str, str, int, Path]]:
    """Yield the requested runs that are not in `--runs` yet."""
    settings = "-".join(map(str, asdict(config).values()))
    wanted = itertools.product(options.sizes, options.among, (ORACLE, *options.methods), options.seeds)
    for size, among, name, seed in wanted:
        path = options.runs / f"{name}-{size}-{among}-{seed}-{settings}.json"
        if not path.exists():
            yield size, among, name, seed, path


def main(arguments: list[str]) -> None:
    """Run every size, method and seed, print tables, and write JSON and figure."""
    options = _parser().parse_args(arguments)
    keep_compiled_programs()
    jaxsel.initialize_distributed()
    writes = jax.process_index() == 0
    config = Config(steps=options.steps, batch_size=options.batch_size, learner=options.learner)
    plan = list(missing(config, options))
    # Only a terminal gets a moving bar; a log gets one line per run. `rl.progress` would import torch.
    moving = writes and sys.stderr.isatty()
    for number, (size, among, name, seed, path) in enumerate(bar := tqdm(plan, unit="run", disable=not moving), 1):
        said = f"{name}, {size:,} prompts, among {AMONG[among]}"
        bar.set_postfix_str(said)
        if writes and not moving:
            print(f"run {number} of {len(plan)}: {said}", file=sys.stderr, flush=True)
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
    write_result(options.out / f"{options.name}.json", provenance(asdict(config), seeds) | {"summary": summary})
    if draw is not None:
        print(f"figure: {draw(found, options.out / f'{options.name}.png')}")


def _parser() -> argparse.ArgumentParser:
    parser = module_parser("experiments.large_pool", __doc__)
    parser.add_argument("--sizes", type=lambda text: int(float(text)), nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--batch-size", type=int, default=Config.batch_size)
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--learner", choices=LEARNERS, default=Config.learner)
    parser.add_argument("--among", nargs="+", choices=AMONG, default=list(AMONG))
    parser.add_argument("--runs", type=Path, default=Path("runs/large_pool"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="large_pool", help="name of the result and the figure")
    return parser


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
