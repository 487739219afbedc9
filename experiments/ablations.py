"""What each setting is worth: one changes, the others stay, on string operations.

    python -m experiments.ablations [--sweeps decay_of_dps ...] [--seeds 101 102 103] [--print]

Claim: none. These are the seeds on which settings are chosen, never those on which anything is reported. `--print` says
how to run the same as Hydra sweeps, on a cluster too. Gains are over uniform prompts with the same batch size, group
size and learning rate on the same seed; accuracies are the mean of a run's last two probes; how many of uniform's steps
it takes to uniform's final accuracy is read off the mean curves of the seeds, as in `experiments.reproduce`. A run that
was interrupted goes on; delete `--out` to start anew.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from experiments.reporting import drawing
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import over_seeds, shown
from experiments.reporting.summaries import Records, share_spent, summary
from experiments.reporting.tables import terminal_table
from experiments.running.command import quiet_pipe
from experiments.running.compare import commits, run_many
from experiments.running.config import RunConfig, add_settings, configured
from experiments.running.folders import name_of
from jaxsel import plotting

SHARED = ("method.batch_size", "train.group_size", "train.learning_rate")
"""What uniform has to have in common with those that are compared with it."""


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in one setting.

    Attributes:
        over: the setting.
        values: that it takes.
        fixed: settings of all its runs, which differ from the defaults.
    """

    over: str
    values: tuple[Any, ...]
    fixed: dict[str, Any]

    def settings(self) -> list[dict[str, Any]]:
        """The settings of every run, but for the seed."""
        return [self.fixed | {self.over: value} for value in self.values]


_MOPPS, _DPS, _GPS = ({"method.name": name} for name in ("mopps", "dps", "gps"))
SWEEPS = {
    "decay_of_mopps": Sweep("method.decay", (0.0, 0.25, 0.5, 0.8, 1.0), _MOPPS),
    "decay_of_dps": Sweep("method.dps_decay", (0.5, 0.7, 0.9, 0.97), _DPS),
    "target_of_mopps": Sweep("method.target", (0.3, 0.5, 0.7), _MOPPS),
    "acquisition_and_rule": Sweep("method.name", ("mopps", "mopps_mean", "mopps_mixed", "threshold"), {}),
    "prior_counts_of_dps": Sweep("method.prior_counts", ("ones", "progress", "stability", "local"), _DPS),
    "entropy_weight_of_dps": Sweep("method.entropy_weight", (0.0, 0.3, 1.0), _DPS),
    "diversity_of_gps": Sweep("method.diversity_weight", (0.0, 0.1, 1.0), _GPS),
    "candidates_of_mopps": Sweep("method.candidate_ratio", (2, 4, 8, 0), _MOPPS),
    "candidates_of_dps": Sweep("method.candidate_ratio", (2, 4, 8, 0), _DPS),
    "learning_rate": Sweep("train.learning_rate", (2e-5, 4e-5, 8e-5), _DPS),
    "batch_size": Sweep("method.batch_size", (8, 16, 32), _MOPPS),
    "group_size": Sweep("train.group_size", (4, 8, 16), _MOPPS),
}


def main(arguments: list[str]) -> None:
    """Runs what is missing, prints tables, writes JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="+", choices=sorted(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    add_settings(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--print", action="store_true", help="print the commands of the same as Hydra sweeps")
    options = parser.parse_args(arguments)
    console = Console()
    if options.print:
        for name in options.sweeps:
            console.print(command(SWEEPS[name], options.seeds), soft_wrap=True, highlight=False)
        return
    common = dict(options.set)
    if fixed := common.keys() & {"seed", "method.name", *(sweep.over for sweep in SWEEPS.values())}:
        parser.error(f"--set {min(fixed)}: that is what runs differ in; set something else")
    configs: dict[Path, RunConfig] = {}
    folders: dict[str, list[Path]] = {}
    for settings in needed(options.sweeps):
        # with what is common, of which not everything keeps a run from going on where another was
        folders[place(settings)] = [options.out / folder_of(common | settings, seed) for seed in options.seeds]
        for seed, folder in zip(options.seeds, folders[place(settings)], strict=True):
            configs[folder] = configured(common | settings | {"seed": seed})
    records = run_many(configs, resume=True)
    found = {name: [records[folder] for folder in of_seeds] for name, of_seeds in folders.items()}
    result = {name: judge(SWEEPS[name], found) for name in options.sweeps}
    for name, by_value in result.items():
        console.print(table(name, by_value))
    made = provenance({"set": common}, options.seeds)
    write_result(options.results / "ablations.json", made | {"commits": commits(configs), "sweeps": result})
    console.print(f"figure: {draw(result, options.results / 'ablations.png')}")


def beside(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the uniform run to compare with."""
    return {"method.name": "uniform"} | {name: settings[name] for name in SHARED if name in settings}


def needed(sweeps: list[str]) -> list[dict[str, Any]]:
    """The settings of all runs of the sweeps, each once."""
    chosen = [settings for name in sweeps for settings in SWEEPS[name].settings()]
    return list({place(settings): settings for settings in (*map(beside, chosen), *chosen)}.values())


def place(settings: dict[str, Any]) -> str:
    """A name for the settings, those of the defaults left out: runs that sweeps have in common have one."""
    default = OmegaConf.structured(RunConfig)
    other = {name: value for name, value in settings.items() if value != OmegaConf.select(default, name)}
    method = other.pop("method.name", default.method.name)
    return ",".join([method, *(f"{name}={value}" for name, value in sorted(other.items()))])


def folder_of(settings: dict[str, Any], seed: int) -> Path:
    """Of a run."""
    return Path(name_of({"method": place(settings)}).removeprefix("method=")) / f"seed-{seed}"


def command(sweep: Sweep, seeds: list[int]) -> str:
    """The same runs as a Hydra sweep, without those of uniform."""
    values = ",".join(map(str, sweep.values))
    fixed = [f"{name}={value}" for name, value in sweep.fixed.items() if name != sweep.over]
    swept = [*fixed, f"{sweep.over}={values}", f"seed={','.join(map(str, seeds))}"]
    return " ".join(["python -m experiments.train -m", *swept])


def judge(sweep: Sweep, found: dict[str, list[Records]]) -> dict[str, Any]:
    """Every value's numbers: mean over seeds and its standard error.

    Args:
        sweep: whose values.
        found: all runs, one a seed, by `place`.
    """
    result = {}
    for value, settings in zip(sweep.values, sweep.settings(), strict=True):
        runs, uniform = found[place(settings)], found[place(beside(settings))]
        by_seed = [numbers(summary(run), summary(plain)) for run, plain in zip(runs, uniform, strict=True)]
        result[str(value)] = over_seeds(by_seed) | {"share_of_steps": share_spent(runs, uniform, "step")}
    return result


def numbers(run: dict[str, float], uniform: dict[str, float]) -> dict[str, float]:
    """Of a run, by the summaries of it and of uniform's on the same seed."""
    return {name: run[name] for name in ("rollouts", "held_out_accuracy", "mixed_share", "spearman")} | {
        "gain": run["held_out_accuracy"] - uniform["held_out_accuracy"],
        "mixed_share_of_uniform": uniform["mixed_share"],
    }


_COLUMNS = {
    "gain": "gain over uniform",
    "share_of_steps": "of its steps",
    "mixed_share": "mixed",
    "mixed_share_of_uniform": "uniform's",
    "spearman": "Spearman",
}


def table(name: str, by_value: dict[str, Any]) -> Table:
    """Values by numbers, 80 columns wide."""
    rows = (
        [value, *(shown(found[column], digits=3 if column == "gain" else 2) for column in _COLUMNS)]
        for value, found in by_value.items()
    )
    return terminal_table(name.replace("_", " "), ("value", *_COLUMNS.values()), rows)


def draw(result: dict[str, Any], path: Path) -> Path:
    """A column a sweep: the share of mixed groups above, the gain over uniform below."""
    columns = min(4, len(result))
    blocks = -(-len(result) // columns)
    figure, axes = drawing.plt.subplots(
        2 * blocks, columns, figsize=(3.1 * columns, 4.6 * blocks), layout="constrained", squeeze=False, sharey="row"
    )
    for ax in axes.ravel():
        ax.set_visible(False)
    for at, (name, by_value) in enumerate(result.items()):
        row, column = 2 * (at // columns), at % columns
        x = np.arange(len(by_value))
        for ax, measure, title in (
            (axes[row, column], "mixed_share", "share of mixed groups"),
            (axes[row + 1, column], "gain", "gain over uniform"),
        ):
            ax.set_visible(True)
            mean, error = ([one[measure][part] for one in by_value.values()] for part in ("mean", "standard_error"))
            ax.errorbar(x, mean, np.nan_to_num(error), **plotting.style("mopps") | {"linestyle": "none"}, capsize=3)
            if measure == "gain":
                ax.axhline(0, color="#777777", linewidth=1)
                ax.set_xticks(x, [value.replace("mopps_", "mopps\n") for value in by_value], fontsize=8)
            else:
                uniform = [one["mixed_share_of_uniform"]["mean"] for one in by_value.values()]
                ax.plot(x, uniform, **plotting.style("uniform") | {"linestyle": "none"})
                ax.set_xticks(x, [])
                ax.set_title(name.replace("_", " "), fontsize=10)
            ax.set_xlim(-0.5, len(x) - 0.5)
            drawing.tidy(ax)
            if column == 0:
                ax.set_ylabel(title, fontsize=9)
    figure.suptitle("One setting at a time (crosses: uniform prompts; bars: one standard error)")
    return drawing.save(figure, path)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
