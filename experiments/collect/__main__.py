"""Gather many runs into one table, one figure, one JSON and one page, and name the runs that did not finish.

    python -m experiments.collect RUNS... [--out runs] [--name collected]

RUNS are folders of runs, or folders that contain runs at any depth, such as the folder of a sweep. Runs that differ
only in the seed share one row, with means over the finished seeds and standard errors in brackets.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from experiments.collect.folders import find_runs
from experiments.collect.groups import common, grouped
from experiments.collect.sections import draw, printed, sections
from experiments.reporting import drawing
from experiments.reporting.page import write_page
from experiments.reporting.provenance import holds_result, provenance, write_result
from experiments.running.command import module_parser, quiet_pipe

_MARK = "left_out"  # the entry of the JSON file that no other command writes
_LOG_WIDTH = 160  # characters per line of a log, which no terminal limits


def main(arguments: list[str]) -> None:
    """Print the table and the runs that do not count, and write JSON, figure and page."""
    parser = module_parser("experiments.collect", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the files to write")
    parser.add_argument("--name", default="collected", help="name of the files")
    options = parser.parse_args(arguments)
    if not options.name or Path(options.name).name != options.name:
        parser.error(f"--name is {options.name!r}; give a file name without a suffix")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out is {options.out}, which is a file; give a folder")
    files = {kind: options.out / f"{options.name}.{kind}" for kind in ("json", "png", "html")}
    try:
        _check_replaceable(files)
        runs = find_runs(options.runs)
    except ValueError as error:
        sys.exit(str(error))
    groups, left_out = grouped(runs), [run for run in runs if run.trouble]
    counted = f"{len(runs) - len(left_out)} of {len(runs)} runs count"
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    if groups:
        title = f"{counted}: means over seeds (standard error)"
        console.print(printed(groups, title, console.width), soft_wrap=False)
    else:
        console.print(counted)
    for run in left_out:
        console.print(f"does not count: {run.folder}: {run.trouble}")
    made = provenance(
        {"runs": [str(place) for place in options.runs], "alike in all runs": common(runs)},
        sorted({run.seed for group in groups for run in group.runs}),
    )
    result = {
        group.label: {"seeds": [run.seed for run in group.runs], "folders": [str(run.folder) for run in group.runs]}
        | group.numbers()
        for group in groups
    }
    trouble = {str(run.folder): run.trouble for run in left_out}
    write_result(files["json"], made | {"groups": result, _MARK: trouble})
    if groups:
        drawing.save(draw(groups), files["png"])
    else:
        files["png"].unlink(missing_ok=True)  # the figure of an earlier call would look like the figure of this call
    page = write_page(
        files["html"],
        title="Training runs",
        lead=f"{counted}. Each row and each line is one choice of settings, averaged over its seeds.",
        sections=sections(groups, left_out),
        footer={"command": shlex.join(["python", "-m", "experiments.collect", *arguments]), **made},
    )
    console.print(f"page: {page}" + (f"    figure: {files['png']}" if groups else ""))


def _check_replaceable(files: Mapping[str, Path]) -> None:
    """Refuse to replace files of another origin. The JSON file, which is written first, says whose the files are."""
    if holds_result(files["json"], _MARK):
        return
    for path in files.values():
        if path.exists():
            cure = "give another --name or --out, or move it away"
            raise ValueError(f"{path} exists and was not written by this command; {cure}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
