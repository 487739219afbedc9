"""Where accuracy goes in training: how solve rates change in hard, middle and easy prompts, by selection method.

    python -m experiments.accuracy_by_stratum LABEL=FOLDER [LABEL=FOLDER ...]

Every FOLDER holds runs with a recorded history (`train.history=true`), for example those of `experiments.reproduce`.
Their probes are fresh rollouts of a fixed random sample of the pool, before training and every few steps. The first
probe divides the sample: hard prompts had no correct rollout, easy ones only correct rollouts, middle ones both. All
methods of a seed start from the same weights and the same first probe, so that they have the same strata. The first
probe itself says nothing about a stratum's rate, since it decided who is in it; the later probes do.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.collect.folders import Run, find_runs
from experiments.reporting import drawing
from experiments.reporting.figures import look_of, with_band
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import of_seeds, shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import module_parser, quiet_pipe
from experiments.running.config import clear_errors
from jaxsel.integrations.history import read_history

STRATA = ("hard", "middle", "easy")
_LAST = 3  # probes whose mean is the rate at the end
_OF_A_METHOD = ("method.", "train.steps", "train.probe_every")  # dynamic sampling takes fewer steps
_Runs = dict[str, dict[int, "Probed"]]


class Probed(NamedTuple):
    """The probes of one run.

    Attributes:
        steps: The steps of the probes after the first one.
        rates: The mean success rate per stratum at each of these steps.
        shares: The share of the sample per stratum.
    """

    steps: np.ndarray
    rates: dict[str, np.ndarray]
    shares: dict[str, float]


def probed(folder: Path) -> Probed:
    """Return the rates of a run's strata.

    Raises:
        ValueError: The run has no history or fewer than two probes, or a stratum has no prompt that all probes judged.
    """
    rows = read_history(folder / "history").probes
    steps = np.unique(rows["step"])
    if len(steps) < 2:
        raise ValueError(f"{folder} has {len(steps)} recorded probes; give a run with at least 2")
    by_step = [_rates(rows, step) for step in steps]
    ids = sorted(set.intersection(*(set(rates) for rates in by_step)))
    table = np.array([[rates[prompt] for prompt in ids] for rates in by_step])
    members = {"hard": table[0] == 0, "middle": (table[0] > 0) & (table[0] < 1), "easy": table[0] == 1}
    empty = [name for name in STRATA if not members[name].any()]
    if empty:
        raise ValueError(
            f"{folder} has no {' and no '.join(empty)} prompt in its first probe; give a larger probe_size"
        )
    return Probed(
        steps[1:],
        {name: table[1:, members[name]].mean(1) for name in STRATA},
        {name: float(members[name].mean()) for name in STRATA},
    )


def _rates(rows: dict[str, np.ndarray], step: int) -> dict[int, float]:
    chosen = (rows["step"] == step) & (rows["group_size"] > 0)
    return dict(zip(rows["prompt_id"][chosen], rows["successes"][chosen] / rows["group_size"][chosen], strict=True))


def read(folder: Path) -> _Runs:
    """Return the probes of all finished runs with a history in and below the folder, by method and seed.

    Raises:
        ValueError: Two runs have the same method and seed, or a method has no seed in common with uniform. Or two runs
            differ in a setting that is neither the method's nor the number of steps, or two of a method in the steps
            of their probes.
    """
    runs: dict[tuple[str, int], Path] = {}
    found: _Runs = defaultdict(dict)
    first: Run | None = None
    for run in find_runs([folder]):
        if run.trouble or not (run.folder / "history").is_dir():
            continue
        method = run.settings["method.name"]
        if (other := runs.setdefault((method, run.seed), run.folder)) != run.folder:
            raise ValueError(
                f"{other} and {run.folder} are both runs of {method} with seed {run.seed}; give each of them a label "
                "of its own, with a folder that holds no other run of this method and seed"
            )
        first = first or run
        _check_comparable(first, run)
        found[method][run.seed] = one = probed(run.folder)
        if (other := next(iter(found[method].values()))).steps.tolist() != one.steps.tolist():
            raise ValueError(
                f"{run.folder} was probed at the steps {one.steps.tolist()}, and another run of {method} at "
                f"{other.steps.tolist()}; give runs of the same steps"
            )
    if "uniform" not in found:
        raise ValueError(f"{folder} has no finished run of uniform with a history; the gains are over uniform")
    for method, seeds in found.items():
        if not set(seeds) & set(found["uniform"]):
            raise ValueError(
                f"{folder} has runs of {method} with the seeds {sorted(seeds)}, and of uniform with the seeds "
                f"{sorted(found['uniform'])}; give runs with a seed in common"
            )
    return dict(found)


def _check_comparable(first: Run, run: Run) -> None:
    """Refuse two runs that differ in a setting that is not the method's."""
    for name, value in sorted(run.choices.items()):
        if not name.startswith(_OF_A_METHOD) and (other := first.choices.get(name)) != value:
            raise ValueError(
                f"{first.folder} has {name} {other!r}, and {run.folder} has {value!r}; give the runs of each setting a "
                "folder and a label of their own"
            )


def summary(runs: _Runs) -> dict[str, Any]:
    """Return by method and stratum the rate at the end and its gain over uniform on the same seeds, with errors."""
    result: dict[str, Any] = {}
    for method, seeds in runs.items():
        common = sorted(set(seeds) & set(runs["uniform"]))
        result[method] = {"seeds": common, "steps": seeds[common[0]].steps.tolist()}
        for name in STRATA:
            ends = np.array([_end(seeds[seed], name) for seed in common])
            gains = ends - [_end(runs["uniform"][seed], name) for seed in common]
            curve = np.mean([seeds[seed].rates[name] for seed in common], 0)
            result[method][name] = {
                "share": float(np.mean([seeds[seed].shares[name] for seed in common])),
                "rate": of_seeds(ends),
                "gain": of_seeds(gains),
                "curve": curve.tolist(),
            }
    return result


def _end(run: Probed, stratum: str) -> float:
    return float(run.rates[stratum][-_LAST:].mean())


def draw(runs: dict[str, _Runs], path: Path) -> Path:
    """Draw a row of panels per label: the rates of each stratum over the steps."""
    figure, panels = drawing.plt.subplots(
        len(runs), len(STRATA), figsize=(11, 3.3 * len(runs)), layout="constrained", squeeze=False, sharex=True
    )
    for row, (label, methods) in zip(panels, runs.items(), strict=True):
        for axes, name in zip(row, STRATA, strict=True):
            for method, seeds in methods.items():
                steps = next(iter(seeds.values())).steps
                with_band(axes, steps, np.array([run.rates[name] for run in seeds.values()]), look_of(method))
            axes.set_title(f"{drawing.plain(label)}: {name} prompts", fontsize=10)
            drawing.tidy(axes)
        row[0].set_ylabel("success rate in the sample")
    for axes in panels[-1]:
        axes.set_xlabel("training step")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return drawing.save(figure, path)


def _table(label: str, methods: dict[str, Any]) -> Table:
    shares = {name: f"{name} ({100 * methods['uniform'][name]['share']:.0f}%)" for name in STRATA}
    columns = (column for name in STRATA for column in (shares[name], "gain"))
    rows = (
        [method, *(shown(numbers[name][kind]) for name in STRATA for kind in ("rate", "gain"))]
        for method, numbers in methods.items()
    )
    title = (
        f"{label}: success rates of hard, middle and easy prompts (share of the sample) in the last {_LAST} probes, "
        "and gains over uniform; standard error over seeds in brackets"
    )
    return terminal_table(title, ("method", *columns), rows)


def main(arguments: list[str]) -> None:
    """Read all runs, print a table per label, and write the result and the figure."""
    parser = module_parser("experiments.accuracy_by_stratum", __doc__)
    parser.add_argument("runs", nargs="+", metavar="LABEL=FOLDER", help="name of a setting, and the folder of its runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    unnamed = [pair for pair in options.runs if not all(pair.partition("=")[::2])]
    if unnamed:
        parser.error(f"{unnamed[0]!r} is not LABEL=FOLDER")
    labels = [pair.partition("=")[0] for pair in options.runs]
    if repeated := [label for label in labels if labels.count(label) > 1]:
        parser.error(f"the label {repeated[0]!r} stands for several folders; give every folder a label of its own")
    with clear_errors():
        runs = {label: read(Path(folder)) for label, _, folder in (pair.partition("=") for pair in options.runs)}
    found, console = {label: summary(methods) for label, methods in runs.items()}, Console(width=122)
    for label, methods in found.items():
        console.print(_table(label, methods))
    seeds = sorted({seed for methods in found.values() for seed in methods["uniform"]["seeds"]})
    write_result(options.results / "accuracy_by_stratum.json", provenance({"last": _LAST}, seeds) | {"runs": found})
    print(f"figure: {draw(runs, options.results / 'accuracy_by_stratum.png')}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
