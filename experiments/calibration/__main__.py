"""Are the predictions any good? All predictors on recorded runs: a page, a figure, a table per setting, a small JSON.

    python -m experiments.calibration [LABEL=]HISTORY... [--out runs] [--name calibration]

A history is the record of a run: its batches with their successes, and its probes, which are fresh rollouts of many
prompts from which nothing is learnt. It is the folder `history` of a run with `train.history=true`, or a folder that
`experiments.simulated_history` writes. Record a run with `probe_size=0`, which probes the whole pool. The history of an
adapter (for TRL, verl or Tunix, for example) has no probes: the methods are then scored on the batches of the second
half, each predicted before it is observed. Histories with the same label are the seeds of one setting. Without a label,
the method that chose the batches and the size of the pool make the label.

Claims: decay (the factor on earlier evidence) and prior, fitted on the first half of a history, raise the
one-step-ahead log score of mopps and of dps on the second half. After online recalibration the expected calibration
error of P(mixed), the probability of both right and wrong rollouts, is below 0.03 for every method on the simulator.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.calibration.evaluate import (
    CALIBRATION,
    WITHOUT_PROBES,
    Evaluation,
    averaged,
    evaluate,
    has_probes,
    scored,
)
from experiments.calibration.overview import compact, overview
from experiments.calibration.sections import HOW_TO_READ, section
from experiments.reporting.page import Section, write_page
from experiments.reporting.provenance import provenance, write_result
from experiments.reporting.spread import shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import module_parser, quiet_pipe
from experiments.running.compiled_programs import keep_compiled_programs
from experiments.running.config import clear_errors
from jaxsel.integrations.history import Recorded, read_history


def labelled(arguments: list[str]) -> dict[str, list[Path]]:
    """Return the folders by label."""
    found: dict[str, list[Path]] = {}
    for argument in arguments:
        label, _, folder = ("", "", argument) if Path(argument).exists() else argument.partition("=")
        path = Path(folder)
        if not label:
            recorded = read_history(path)
            label = f"chosen by {recorded.spec.get('method', 'unknown')}, {recorded.num_prompts:,} prompts"
        found.setdefault(label, []).append(path)
    return found


def read_settings(arguments: list[str]) -> dict[str, list[tuple[Path, Recorded]]]:
    """Return the folders and their histories by label.

    Raises:
        ValueError: A folder holds no history, or some histories of a label have probes and others have none.
    """
    found = {label: [(path, read_history(path)) for path in paths] for label, paths in labelled(arguments).items()}
    for label, histories in found.items():
        bare = [path for path, recorded in histories if not has_probes(recorded)]
        if 0 < len(bare) < len(histories):
            raise ValueError(
                f"{bare[0]} has no probes, but other histories of the label {label!r} have; give it another label, "
                f"for example 'batches only={bare[0]}'"
            )
    return found


def table(label: str, mean: dict[str, Any]) -> Table:
    """Return the terminal's table of a setting, one row per method."""
    where = "probes of the whole pool, second half" if mean["probe"] else "batches of the second half, one step ahead"
    title = f"{label}: {where}. ECE: of P(mixed), as predicted and after recalibration"
    rows = []
    for name, scores in scored(mean).items():
        family, _, fitted = name.partition(", ")
        gain = shown(mean["fitted"][family]["gain"]) if fitted else ""
        recalibrated = shown(mean["recalibrated"]["isotonic"][name])
        cells = (shown(scores[m]) for m in ("spearman", "log score", CALIBRATION))
        rows.append([name, *cells, recalibrated, shown(scores["90% covers"]), gain])
    columns = ("method", "Spearman", "log score", "ECE", "ECE after", "90% covers", "fit gains")
    return terminal_table(title, columns, rows)


def main(arguments: list[str]) -> None:
    """Evaluate all histories, print the tables, and write JSON, page and figure."""
    parser = module_parser("experiments.calibration", __doc__)
    parser.add_argument("histories", nargs="+", metavar="[LABEL=]HISTORY")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="calibration", help="name of the files")
    options = parser.parse_args(arguments)
    keep_compiled_programs()
    with clear_errors():
        read = read_settings(options.histories)
        settings: dict[str, list[Evaluation]] = {
            label: [evaluate(recorded, name=str(path)) for path, recorded in histories]
            for label, histories in read.items()
        }
    console = Console()
    means = {label: averaged([one.numbers for one in found]) for label, found in settings.items()}
    for label, mean in means.items():
        console.print(table(label, mean))
        if not mean["probe"]:
            console.print(WITHOUT_PROBES)
    made = provenance({"histories": {label: len(found) for label, found in settings.items()}}, 0)
    result = {
        label: {"mean": means[label], "histories": [compact(one.numbers) for one in found]}
        | ({} if means[label]["probe"] else {"note": WITHOUT_PROBES})
        for label, found in settings.items()
    }
    judged = "fresh rollouts of the whole pool"
    if not all(mean["probe"] for mean in means.values()):
        judged += ", or on the recorded batches"
    write_result(options.out / f"{options.name}.json", made | {"settings": result})
    page = write_page(
        options.out / f"{options.name}.html",
        title="Are the predictions any good?",
        lead=f"What each method would have predicted in recorded runs, scored on {judged}.",
        sections=[Section("How to read this", HOW_TO_READ), *(section(*of) for of in settings.items())],
        footer={"command": shlex.join(["python", "-m", "experiments.calibration", *arguments]), **made},
    )
    figure = overview(means, options.out / f"{options.name}.png")
    print(f"page: {page}    figure: {figure}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
