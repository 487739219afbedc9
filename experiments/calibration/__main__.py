"""Are the predictions any good? All methods on recorded histories: one page, one table, one small JSON.

    python -m experiments.calibration [LABEL=]HISTORY... [--out runs] [--name calibration]

A history is the folder `history` of a run with `train.history=true` (best with `probe_size=0`, a probe of the whole
pool), or what `experiments.simulated_history` writes. Histories of one label are one setting, its seeds. Without a
label it is made of who chose and of the size of the pool.

Claims: fitted on the first half of a history, decay and prior raise the one-step-ahead log score of mopps and of dps on
the second; and after online recalibration the expected calibration error of P(mixed) is below 0.03 for every method on
the simulator.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.calibration.evaluate import CALIBRATION, Evaluation, averaged, evaluate
from experiments.calibration.overview import compact, overview
from experiments.calibration.report import HOW_TO_READ, section
from experiments.reporting.page import Section, write_page
from experiments.reporting.provenance import provenance, write_result
from experiments.reporting.spread import shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import quiet_pipe
from jaxsel.integrations.history import read_history


def labelled(arguments: list[str]) -> dict[str, list[Path]]:
    """Folders by label."""
    found: dict[str, list[Path]] = {}
    for argument in arguments:
        label, _, folder = ("", "", argument) if Path(argument).exists() else argument.partition("=")
        path = Path(folder)
        if not label:
            recorded = read_history(path)
            label = f"chosen by {recorded.spec.get('method', 'unknown')}, {recorded.num_prompts:,} prompts"
        found.setdefault(label, []).append(path)
    return found


def table(label: str, mean: dict[str, Any]) -> Table:
    """What the terminal shows of a setting."""
    title = f"{label}: probes of the whole pool, second half. ECE: of P(mixed), as predicted and after recalibration"
    rows = []
    for name, scores in mean["probe"].items():
        family, _, fitted = name.partition(", ")
        gain = shown(mean["fitted"][family]["gain"]) if fitted else ""
        recalibrated = shown(mean["recalibrated"]["isotonic"][name])
        cells = (shown(scores[m]) for m in ("spearman", "log score", CALIBRATION))
        rows.append([name, *cells, recalibrated, shown(scores["90% covers"]), gain])
    columns = ("method", "Spearman", "log score", "ECE", "ECE after", "90% covers", "fit gains")
    return terminal_table(title, columns, rows)


def main(arguments: list[str]) -> None:
    """Evaluates, prints, writes."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("histories", nargs="+", metavar="[LABEL=]HISTORY")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="calibration", help="of the files")
    options = parser.parse_args(arguments)
    settings: dict[str, list[Evaluation]] = {
        label: [evaluate(read_history(path), name=str(path)) for path in paths]
        for label, paths in labelled(options.histories).items()
    }
    console = Console()
    means = {label: averaged([one.numbers for one in found]) for label, found in settings.items()}
    for label, mean in means.items():
        console.print(table(label, mean))
    made = provenance({"histories": {label: len(found) for label, found in settings.items()}}, 0)
    result = {
        label: {"mean": means[label], "histories": [compact(one.numbers) for one in found]}
        for label, found in settings.items()
    }
    write_result(options.out / f"{options.name}.json", made | {"settings": result})
    page = write_page(
        options.out / f"{options.name}.html",
        title="Are the predictions any good?",
        lead="What each method would have predicted of recorded runs, judged on fresh rollouts of the whole pool.",
        sections=[Section("How to read this", HOW_TO_READ), *(section(*of) for of in settings.items())],
        footer={"command": shlex.join(["python", "-m", "experiments.calibration", *arguments]), **made},
    )
    figure = overview(means, options.out / f"{options.name}.png")
    console.print(f"page: {page}    figure: {figure}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
