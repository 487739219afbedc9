"""The worth of each setting: sweeps, whose training runs on string operations differ from each other in one setting.

    python -m experiments.ablations [--sweeps decay_of_dps ...] [--values 0.9 0.95] [--seeds 101 102 103] [--print]

There is no claim, because the defaults of other experiments are chosen on these seeds. `--values` gives one sweep other
values than its own. `--print` prints the commands of the same runs as Hydra sweeps, which also run on a cluster.

A gain is the held-out accuracy minus the accuracy of a run with uniform prompts. Both runs have the same pool size,
batch size, group size, learning rate and seed. An accuracy is the mean over a run's last two probes, which test the
policy between steps. The tables also tell after which share of uniform's steps a method reaches uniform's final
accuracy. This share is measured on curves that are averaged over the seeds, as in `experiments.reproduce`.

The command resumes interrupted runs; delete the folder `--out` to start anew.
"""

import argparse
import sys
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from rich.console import Console

from experiments.ablations.presentation import draw, sweep_numbers, table
from experiments.ablations.sweeps import SWEEPS, Sweep, command, folder_of, needed, place
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.running.command import Distinct, module_parser, quiet_pipe
from experiments.running.compare import commits, run_many
from experiments.running.config import RunConfig, add_settings, clear_errors, configured


def main(arguments: list[str]) -> None:
    """Do the runs that are missing, print tables, and write JSON and figure."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console()
    common = dict(options.set)
    sweeps = _chosen(parser, options, common)
    if options.print:
        for sweep in sweeps.values():
            print(command(sweep, options.seeds))
        return
    own = {name for sweep in sweeps.values() for name in (sweep.over, *sweep.fixed)}
    if fixed := common.keys() & (own | {"seed", "method.name"}):
        parser.error(f"--set {min(fixed)}: a sweep sets it itself; give another setting, or other --sweeps")
    configs: dict[Path, RunConfig] = {}
    folders: dict[str, list[Path]] = {}
    for settings in needed(sweeps.values()):
        # The folder's name includes the settings of --set. Without them, a call with another --set could resume these
        # runs, because a resumed run may change some of its settings.
        folders[place(settings)] = [options.out / folder_of(common | settings, seed) for seed in options.seeds]
        for seed, folder in zip(options.seeds, folders[place(settings)], strict=True):
            with clear_errors():
                configs[folder] = configured(common | settings | {"seed": seed})
    records = run_many(configs, resume=True)
    found = {name: [records[folder] for folder in of_seeds] for name, of_seeds in folders.items()}
    result = {name: sweep_numbers(sweep, found) for name, sweep in sweeps.items()}
    for name, by_value in result.items():
        console.print(table(name, by_value))
    made = provenance({"set": common}, options.seeds)
    write_result(options.results / f"{options.name}.json", made | {"commits": commits(configs), "sweeps": result})
    print(f"figure: {draw(result, options.results / f'{options.name}.png')}")


def _chosen(parser: argparse.ArgumentParser, options: argparse.Namespace, common: dict[str, str]) -> dict[str, Sweep]:
    """Return the chosen sweeps by name, with the values of `--values`."""
    sweeps = {name: SWEEPS[name] for name in options.sweeps}
    if options.values is None:
        return sweeps
    if len(sweeps) > 1:
        parser.error(f"--values changes one sweep, and there are {len(sweeps)}; give one with --sweeps")
    (name, sweep) = sweeps.popitem()
    with clear_errors():
        configs = [configured(common | sweep.fixed | {sweep.over: value}) for value in options.values]
    typed = tuple(map(attrgetter(sweep.over), configs))  # "0.50" and 0.5 are one run
    return {name: replace(sweep, values=tuple(dict.fromkeys(typed)))}


def _parser() -> argparse.ArgumentParser:
    parser = module_parser("experiments.ablations", __doc__)
    parser.add_argument("--sweeps", nargs="+", choices=sorted(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--values", nargs="+", action=Distinct, help="values of the sweep's setting, for one sweep")
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[101, 102, 103])
    add_settings(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="ablations", help="name of the result and the figure")
    parser.add_argument("--print", action="store_true", help="print the commands of the same Hydra sweeps")
    return parser


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
