"""The published comparison at a small scale: all methods use the same pool, warm start and evaluation prompts.

    python -m experiments.reproduce [--tasks string_ops countdown] [--seeds 10 11 12 13 14] [--out runs/reproduce]

The baselines are uniform, which takes random prompts, and dynamic sampling, which draws random prompts until the batch
is full of mixed groups. (A group, the rollouts of one prompt in one step, is mixed if some but not all are correct.)
Each claim is about every method that predicts, and about the mean over seeds. The result names the methods that miss a
claim. (A claim about the best of eight methods would be too optimistic, because the same seeds would choose it.)
1. The method reaches dynamic sampling's final held-out accuracy with at most 30% of its rollouts.
2. The method reaches uniform's final held-out accuracy in at most 1 / 1.5 of uniform's steps.
3. The share of mixed groups is at least 1.5 times uniform's.
4. A step waits less than 1% of its time for the selector, which chooses and learns while the policy is updated.

An accuracy is the mean of two neighbouring probes (500 held-out prompts, 8 fresh rollouts each), and belongs to the
point halfway between them. A single noisy probe would cross a threshold too early. The crossing is measured on the mean
curve of the seeds. A share of steps or rollouts is relative to what the baseline spent up to halfway between its last
two probes. All settings were chosen on seeds 101 to 103 (see `experiments.ablations`); the seeds here vary warm start,
pool and sampling together. Differences from the papers: the policy has 0.3 million weights and is trained on the spot,
and dynamic sampling runs for half of the others' steps, at about three times their rollouts per step. The command
resumes interrupted runs; delete the folder `--out` to start anew.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reproduce.claims import Runs, calibration, check_claims, curves, method_numbers
from experiments.reproduce.presentation import draw, tables
from experiments.running.command import Distinct, module_parser, quiet_pipe
from experiments.running.compare import SETTINGS, commits, described, run_config, run_many
from experiments.running.config import RunConfig, add_settings, clear_errors, configured
from experiments.running.folders import name_of
from experiments.running.method_config import METHOD_NAMES


def main(arguments: list[str]) -> None:
    """Do the runs that are missing, write the result of every task and the figure, and print tables and claims."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not {"uniform", "dynamic_sampling"} <= set(options.methods):
        parser.error("methods are compared with uniform and dynamic_sampling; name both")
    common = dict(options.set)
    if fixed := common.keys() & {"task", "seed", "method.name", "train.history"}:
        parser.error(f"--set {min(fixed)}: the experiment itself sets this; give another setting")
    with clear_errors():
        shared = {task: configured(common, SETTINGS[task]) for task in options.tasks}
    out = options.out / name_of(dict(sorted(common.items())))
    console, drawn = Console(), {}
    for task in options.tasks:
        drawn[task], result = compare(task, shared[task], out / task, options)
        for table in tables(task, result["methods"]):
            console.print(table)
        for claim in result["claims"].values():
            console.print(claim["says"], highlight=False)
    # with the name of its only task, so that the comparison on another task does not replace the figure
    figure = "_".join([options.name, *drawn]) if len(drawn) == 1 else options.name
    print(f"figure: {draw(drawn, options.results / f'{figure}.png')}")


def compare(task: str, shared: RunConfig, out: Path, options: argparse.Namespace) -> tuple[Runs, dict[str, Any]]:
    """Run all methods and seeds on one task, write the result, and return the runs and the result."""
    folders = {(m, s): out / f"seed-{s}" / m for s in options.seeds for m in options.methods}
    configs = {folder: run_config(shared, m, s, history=True) for (m, s), folder in folders.items()}
    records = run_many(configs, resume=True)
    runs = {m: [records[folders[m, s]] for s in options.seeds] for m in options.methods}
    errors = {m: [calibration(folders[m, s] / "history") for s in options.seeds] for m in options.methods}
    methods = method_numbers(runs, errors)
    result = provenance(described(shared), options.seeds) | {
        "commits": commits(configs),
        "claims": check_claims(methods),
        "methods": methods,
        "curves": curves(runs),
    }
    write_result(options.results / f"{options.name}_{task}.json", result)
    return runs, result


def _parser() -> argparse.ArgumentParser:
    parser = module_parser("experiments.reproduce", __doc__)
    parser.add_argument("--tasks", nargs="+", choices=sorted(SETTINGS), default=["string_ops", "countdown"])
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[10, 11, 12, 13, 14])
    parser.add_argument("--methods", nargs="+", choices=METHOD_NAMES, default=list(METHOD_NAMES))
    add_settings(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="reproduce", help="start of the names of the results and the figure")
    return parser


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
