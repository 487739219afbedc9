"""The worth of each setting: sweeps, whose training runs on string operations differ from each other in one setting.

    python -m experiments.ablations [--sweeps decay_of_dps ...] [--seeds 101 102 103] [--print]

There is no claim, because the defaults of other experiments are chosen on these seeds. `--print` prints the commands of
the same runs as Hydra sweeps, which also run on a cluster.

A gain is the held-out accuracy minus the accuracy of a run with uniform prompts. Both runs have the same pool size,
batch size, group size, learning rate and seed. An accuracy is the mean over a run's last two probes, which test the
policy between steps. The tables also tell after which share of uniform's steps a method reaches uniform's final
accuracy. This share is measured on curves that are averaged over the seeds, as in `experiments.reproduce`.

The command resumes interrupted runs; delete the folder `--out` to start anew.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from experiments.ablations.presentation import draw, sweep_numbers, table
from experiments.ablations.sweeps import SWEEPS, command, folder_of, needed, place
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.running.command import Distinct, module_parser, quiet_pipe
from experiments.running.compare import commits, run_many
from experiments.running.config import RunConfig, add_settings, clear_errors, configured


def main(arguments: list[str]) -> None:
    """Do the runs that are missing, print tables, and write JSON and figure."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console()
    if options.print:
        for name in options.sweeps:
            print(command(SWEEPS[name], options.seeds))
        return
    common = dict(options.set)
    own = {name for sweep in options.sweeps for name in (SWEEPS[sweep].over, *SWEEPS[sweep].fixed)}
    if fixed := common.keys() & (own | {"seed", "method.name"}):
        parser.error(f"--set {min(fixed)}: a sweep sets it itself; give another setting, or other --sweeps")
    configs: dict[Path, RunConfig] = {}
    folders: dict[str, list[Path]] = {}
    for settings in needed(options.sweeps):
        # The folder's name includes the settings of --set. Without them, a call with another --set could resume these
        # runs, because a resumed run may change some of its settings.
        folders[place(settings)] = [options.out / folder_of(common | settings, seed) for seed in options.seeds]
        for seed, folder in zip(options.seeds, folders[place(settings)], strict=True):
            with clear_errors():
                configs[folder] = configured(common | settings | {"seed": seed})
    records = run_many(configs, resume=True)
    found = {name: [records[folder] for folder in of_seeds] for name, of_seeds in folders.items()}
    result = {name: sweep_numbers(SWEEPS[name], found) for name in options.sweeps}
    for name, by_value in result.items():
        console.print(table(name, by_value))
    made = provenance({"set": common}, options.seeds)
    write_result(options.results / f"{options.name}.json", made | {"commits": commits(configs), "sweeps": result})
    print(f"figure: {draw(result, options.results / f'{options.name}.png')}")


def _parser() -> argparse.ArgumentParser:
    parser = module_parser("experiments.ablations", __doc__)
    parser.add_argument("--sweeps", nargs="+", choices=sorted(SWEEPS), default=list(SWEEPS))
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
