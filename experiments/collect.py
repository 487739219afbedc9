"""Gathers many runs into one table, one figure and one page; runs that did not finish are named, not hidden.

    python -m experiments.collect RUNS... [--out runs] [--name collected]

RUNS are run folders, or folders that hold some, such as that of a sweep. Runs of the same settings but for the seed are
one row: its numbers are means over the seeds that finished, with standard errors in brackets.
"""

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table as RichTable

from experiments import drawing
from experiments.page import Drawing, Section, Table, write_page
from experiments.provenance import provenance, write_result
from experiments.spread import over_seeds, shown
from experiments.summaries import Records, column, probes
from jaxsel import plotting
from rl.run_log import read_metrics

_ABOUT_THE_PLACE = ("resume", "threads", "seed")


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: of the run.
        settings: as they were given, flat: `method.name`; empty where the run died before it wrote them.
        records: of its steps.
        trouble: why it does not count; empty: it finished.
    """

    folder: Path
    settings: dict[str, Any]
    records: Records
    trouble: str


def read_run(folder: Path) -> Run:
    """What there is of a run, however far it came."""
    config = folder / ".hydra" / "config.yaml"
    settings = _flat(OmegaConf.to_container(OmegaConf.load(config))) if config.exists() else {}
    try:
        records = read_metrics(folder / "metrics.jsonl")
    except (OSError, ValueError) as error:
        return Run(folder, settings, [], f"metrics.jsonl cannot be read: {error}")
    steps = settings.get("train.steps")
    if not records:
        return Run(folder, settings, [], "no step was written")
    last = records[-1]["step"]
    if not settings:
        return Run(folder, settings, records, f"no settings (.hydra/config.yaml); {last} steps")
    return Run(folder, settings, records, "" if last == steps else f"{last} of {steps} steps")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def find_runs(places: list[Path]) -> list[Run]:
    """All runs in and below the places.

    Raises:
        ValueError: there is none.
    """
    marks = [mark for place in places for name in ("metrics.jsonl", ".hydra") for mark in place.rglob(name)]
    folders = sorted({mark.parent for mark in marks})
    if not folders:
        raise ValueError(f"there is no run in {', '.join(map(str, places))}; give folders with a metrics.jsonl")
    return [read_run(folder) for folder in folders]


def grouped(runs: list[Run]) -> dict[str, list[Run]]:
    """Finished runs that differ in their seed alone, by the settings in which the groups differ."""
    done = [run for run in runs if not run.trouble]
    settings = [{k: v for k, v in run.settings.items() if k not in _ABOUT_THE_PLACE} for run in done]
    names = sorted({name for one in settings for name in one})
    differ = [name for name in names if len({json.dumps(one.get(name)) for one in settings}) > 1]
    found: dict[str, list[Run]] = {}
    for run, one in zip(done, settings, strict=True):
        label = ", ".join(_said(name, one.get(name)) for name in differ) or str(one.get("method.name", "runs"))
        found.setdefault(label, []).append(run)
    return found


def _said(name: str, value: Any) -> str:
    return str(value) if name in ("method.name", "task") else f"{name}={value}"


def numbers(runs: list[Run]) -> dict[str, Any]:
    """Means over seeds."""

    def of(measure: Any) -> dict[str, float]:
        return over_seeds([float(measure(run.records)) for run in runs])

    def seconds(records: Records, *, selecting: bool) -> float:
        parts = {
            name: sum(r.get(name, 0.0) for r in records) for r in records for name in r if name.startswith("seconds")
        }
        return (
            parts.get("seconds/selecting", 0.0) / max(sum(parts.values()), 1e-9) if selecting else sum(parts.values())
        )

    return {
        "seeds": sorted(run.settings.get("seed", 0) for run in runs),
        "rollouts": of(lambda records: records[-1]["rollouts"]),
        "held_out_accuracy": of(lambda records: probes(records, "held_out_accuracy")[1][-1]),
        "mixed_share": of(lambda records: np.mean(column(records, "train/mixed_share"))),
        "spearman": of(lambda records: probes(records, "spearman")[1][-1]),
        "selecting": of(lambda records: seconds(records, selecting=True)),
        "seconds": of(lambda records: seconds(records, selecting=False)),
    }


_COLUMNS = {
    "rollouts": "rollouts",
    "held_out_accuracy": "held-out accuracy",
    "mixed_share": "mixed groups",
    "spearman": "Spearman, last probe",
    "selecting": "share of time selecting",
    "seconds": "seconds",
}


def _rows(groups: dict[str, list[Run]]) -> list[list[Any]]:
    return [
        [label, len(runs), *(shown(found[name]) for name in _COLUMNS)]
        for label, runs in groups.items()
        for found in [numbers(runs)]
    ]


def draw(groups: dict[str, list[Run]]) -> Figure:
    """Held-out accuracy against rollouts, a line a group."""
    figure = Figure((5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for look, (label, runs) in enumerate(groups.items()):
        curves = [probes(run.records, "held_out_accuracy") for run in runs]
        grid = np.linspace(0, min(rollouts[-1] for rollouts, _ in curves), 30)
        values = np.array([np.interp(grid, *curve) for curve in curves])
        error = values.std(0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
        known = label if label in plotting.METHODS else look
        plotting.over_steps(
            axes, grid / 1000, values.mean(0), standard_error=error, label=label, metric="held-out accuracy", look=known
        )
    axes.set_xlabel("rollouts (thousands)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main(arguments: list[str]) -> None:
    """Prints the table and the runs that did not finish; writes JSON, figure and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="collected")
    options = parser.parse_args(arguments)
    runs = find_runs(options.runs)
    groups, unfinished = grouped(runs), [run for run in runs if run.trouble]
    console = Console()
    columns, rows = ["runs of", "seeds", *_COLUMNS.values()], _rows(groups)
    printed = RichTable(title=f"{len(runs) - len(unfinished)} of {len(runs)} runs finished", title_justify="left")
    for name in columns:
        printed.add_column(name, justify="left" if name == columns[0] else "right")
    for row in rows:
        printed.add_row(*map(str, row))
    console.print(printed)
    for run in unfinished:
        console.print(f"not finished: {run.folder}: {run.trouble}")
    made = provenance(
        {"runs": [str(run.folder) for run in runs]}, sorted({run.settings.get("seed", 0) for run in runs})
    )
    trouble = {str(run.folder): run.trouble for run in unfinished}
    result = {label: numbers(found) for label, found in groups.items()}
    write_result(options.out / f"{options.name}.json", made | {"groups": result, "unfinished": trouble})
    sections = [Section("Runs that finished", "", [], [Table(columns, rows, "Means over seeds (standard error)")])]
    if groups:
        drawing.save(draw(groups), options.out / f"{options.name}.png")
        figure = Drawing(
            draw(groups), "Held-out accuracy against rollouts", "The mean over seeds, and one standard error."
        )
        sections[0] = Section("Runs that finished", "", [figure], sections[0].tables)
    if unfinished:
        rows = [[str(run.folder), run.trouble] for run in unfinished]
        sections.append(Section("Runs that did not", "", [], [Table(["run", "how far"], rows, "They count nowhere")]))
    page = write_page(
        options.out / f"{options.name}.html",
        title="Training runs",
        lead=f"{len(runs) - len(unfinished)} of {len(runs)} runs finished.",
        sections=sections,
        footer={"command": shlex.join(["python", "-m", "experiments.collect", *arguments]), **made},
    )
    console.print(f"page: {page}")


if __name__ == "__main__":
    main(sys.argv[1:])
