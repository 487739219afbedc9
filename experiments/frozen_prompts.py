"""Are predictions better if prompts may be frozen, that is, solved never or always? On recorded runs.

    python -m experiments.frozen_prompts LABEL=HISTORY [LABEL=HISTORY ...]

Every HISTORY is the folder `history` of a run with `train.history=true`; histories with the same label are the seeds
of one setting. `state_space` predicts every batch before it observes it, and every probe (fresh rollouts of a sample of
the pool, from which nothing is learnt), with `frozen=False` and with `frozen=True`. Scores are the log score per group
in nats and the expected calibration error of the probability of a mixed group, by quarter of the run.

Claims for pools of 20,000 string operations, before the runs of their seeds: in the first quarter the log score on
probes rises by at least 0.03, and the calibration error on the batches is below 0.05. For Countdown the log scores on
probes change by less than 0.02.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import jaxsel
from experiments.calibration.__main__ import read_settings
from experiments.calibration.predictors import embeddings_of
from experiments.calibration.scoring import replayed
from experiments.reporting import drawing
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import of_seeds, shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import module_parser, quiet_pipe
from experiments.running.compiled_programs import keep_compiled_programs
from experiments.running.config import clear_errors
from jaxsel import metrics
from jaxsel.integrations.history import Recorded
from jaxsel.plotting import COLOURS
from jaxsel.report.rows import Rows, is_mixed
from rl.progress import bar

QUARTERS = ("1st", "2nd", "3rd", "4th")
MODELS = {"logits alone": False, "with frozen prompts": True}
SCORES = ("log score", "calibration error")


def scores(recorded: Recorded) -> dict[str, Any]:
    """Return by model the scores on batches and on probes, one number per quarter of the run.

    Raises:
        ValueError: A quarter of the run has no probe.
    """
    embeddings, group_size = embeddings_of(recorded), int(np.median(recorded.history.group_size))
    ends = np.linspace(0, recorded.history.num_steps, len(QUARTERS) + 1).astype(int)
    found: dict[str, Any] = {}
    for model, frozen in MODELS.items():
        seen = replayed(recorded, jaxsel.state_space(embeddings, group_size=group_size, frozen=frozen))
        rows = {"batches": _by_quarter(seen.ahead, ends), "probes": _by_quarter(seen.probes, ends)}
        found[model] = {f"{score} on {name}": of[score] for name, of in rows.items() for score in SCORES}
    return found


def _by_quarter(rows: Rows, ends: np.ndarray) -> dict[str, list[float]]:
    """Return the scores of the rows after the first step of each quarter, up to the first step of the next."""
    found: dict[str, list[float]] = {score: [] for score in SCORES}
    for first, last in pairwise(ends):
        part = rows.taken((rows.step > first) & (rows.step <= last))
        if not len(part.step):
            raise ValueError(f"a history has no judged rollouts in steps {first} to {last}; give a smaller probe_every")
        log_score = metrics.beta_binomial_log_score(part.prediction, part.successes, part.group_size)
        error = metrics.expected_calibration_error(part.prediction.mixed, is_mixed(part))
        found["log score"].append(float(log_score))
        found["calibration error"].append(float(error))
    return found


def summary(by_seed: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the means over seeds of the scores of both models, and of their differences."""
    named = {model: [one[model] for one in by_seed] for model in MODELS}
    named["difference"] = [
        {name: np.subtract(new[name], old[name]).tolist() for name in new}
        for old, new in zip(*named.values(), strict=True)
    ]
    return {
        model: {
            name: [of_seeds(column) for column in zip(*(seed[name] for seed in seeds), strict=True)]
            for name in seeds[0]
        }
        for model, seeds in named.items()
    }


def _table(label: str, found: dict[str, Any]) -> Table:
    names = list(next(iter(found.values())))
    rows = [
        [model, name, *(shown(number) for number in numbers[name])]
        for name in names
        for model, numbers in found.items()
    ]
    title = f"{label}: scores by quarter of the run; standard error over seeds in brackets"
    return terminal_table(title, ("model", "score", *QUARTERS), rows)


def draw(found: dict[str, Any], path: Path) -> Path:
    """Draw a row of panels per label: both scores on probes and on batches over the quarters."""
    names = list(next(iter(found[next(iter(found))].values())))
    figure, panels = drawing.plt.subplots(
        len(found), len(names), figsize=(12, 2.7 * len(found)), layout="constrained", squeeze=False, sharex=True
    )
    for row, (label, models) in zip(panels, found.items(), strict=True):
        for axes, name in zip(row, names, strict=True):
            for model, colour in zip(MODELS, ("black", "vermilion"), strict=True):
                numbers = models[model][name]
                means = [number["mean"] for number in numbers]
                errors = np.nan_to_num([number["standard_error"] for number in numbers])
                axes.errorbar(QUARTERS, means, errors, color=COLOURS[colour], label=model, marker="o", markersize=3)
            drawing.tidy(axes)
        row[0].set_ylabel(drawing.plain(label))
    for axes, name in zip(panels[0], names, strict=True):
        axes.set_title(name, fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("quarter of the run")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return drawing.save(figure, path)


def _seed(history: Path) -> int | None:
    """Return the seed of the run, or None if the history is not in the folder of a run."""
    config = history.parent / "config.json"
    return json.loads(config.read_text())["seed"] if config.is_file() else None


def main(arguments: list[str]) -> None:
    """Score both models on all histories, print a table per label, and write the result and the figure."""
    parser = module_parser("experiments.frozen_prompts", __doc__)
    parser.add_argument("histories", nargs="+", metavar="LABEL=HISTORY", help="name of a setting, and a history")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    keep_compiled_programs()
    found, console = {}, Console(width=122)
    with clear_errors():
        read = read_settings(options.histories)
        for label, histories in read.items():
            found[label] = summary([scores(recorded) for _, recorded in bar(histories, desc=label, unit="history")])
    for label, models in found.items():
        console.print(_table(label, models))
    seeds = {label: [_seed(path) for path, _ in histories] for label, histories in read.items()}
    every = sorted({seed for of_label in seeds.values() for seed in of_label if seed is not None})
    made = provenance({"seeds": seeds}, every)
    write_result(options.results / "frozen_prompts.json", made | {"scores": found})
    print(f"figure: {draw(found, options.results / 'frozen_prompts.png')}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
