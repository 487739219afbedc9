"""Groups of runs that differ only in the seed, as a table, a figure and the sections of a page."""

import math
import textwrap
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from experiments.collect.folders import Run
from experiments.collect.groups import Group
from experiments.reporting.figures import held_out
from experiments.reporting.page import Drawing, Section
from experiments.reporting.spread import shown, standard_error
from experiments.reporting.tables import PageTable, terminal_table
from jaxsel import plotting

COLUMNS = ("runs of", "seeds", "steps", "rollouts", "mixed", "held-out", "Spearman", "selecting", "seconds")
HOW_TO_READ = """Runs that differ only in their seed share one row, named by the settings in which the rows differ.
Cells are means over the finished seeds, with standard errors in brackets where there are several seeds. A dash means
that a seed has no such number.

`mixed` is the share of mixed groups over all steps: groups of rollouts with right and wrong answers, which teach the
policy. `held-out` is the accuracy on prompts that are never trained on, the mean of the last two probes. `Spearman` is
the rank correlation of predicted success rates with the success rates in probes, as the mean over the later half of the
probes. `selecting` is the share of a step's time (choosing, rolling out, updating) that choosing takes. `seconds` is
all timed work, with probes and without the warm start: compare it on one machine only."""

_WITH_BANDS = 8  # the most lines that get bands; more bands would hide each other
_CHARACTERS = 15  # characters of a legend per inch
_WIDE = 100  # characters; on narrower terminals columns stand closer


def rows(groups: list[Group]) -> list[list[Any]]:
    """Return one row per group, with cells in the order of `COLUMNS`."""
    return [
        [
            group.label,
            len(group.runs),
            round(numbers["steps"]["mean"]),
            round(numbers["rollouts"]["mean"]),
            *(shown(numbers[name]) for name in ("mixed_share", "held_out_accuracy", "spearman", "share_selecting")),
            shown(numbers["seconds"], digits=1),
        ]
        for group in groups
        for numbers in [group.numbers()]
    ]


def printed(groups: list[Group], title: str, width: int) -> Table:
    """Return the table for a terminal of `width` characters."""
    cells = ([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows(groups))
    table = terminal_table(title, COLUMNS, cells, fold=True, gap=int(width >= _WIDE))
    table.show_edge = False
    return table


def draw(groups: list[Group], panel: str | None = None) -> Figure:
    """Draw held-out accuracy against rollouts, with a panel per set of held-out prompts and a line per group.

    Args:
        groups: One or more groups.
        panel: Name of the only panel to draw; lines look as they do in the figure of all panels. None: all panels.
    """
    looks = {line: number for number, line in enumerate(dict.fromkeys(group.line for group in groups))}
    drawn = [group for group in groups if panel in (None, group.panel)]
    panels = list(dict.fromkeys(group.panel for group in drawn))
    lines = list(dict.fromkeys(group.line for group in drawn))
    crowded = len(lines) > _WITH_BANDS
    across = min(len(panels), 2)
    down = math.ceil(len(panels) / across)
    width = 5.5 if across == 1 else 9.0
    columns = max(1, min(len(lines), int(width * _CHARACTERS / (max(map(len, lines)) + 7))))
    height = (5.0 if crowded else 3.6) * down + 0.2 * math.ceil(len(lines) / columns)
    figure = Figure((width, height), layout="constrained")
    all_axes = list(figure.subplots(down, across, squeeze=False).flat)
    handles: dict[str, Any] = {}
    for axes, name in zip(all_axes, panels, strict=False):
        for group in drawn:
            if group.panel == name:
                handles[group.line] = _draw_line(axes, group, looks[group.line], crowded=crowded)
        bottom, top = axes.get_ylim()
        axes.set(title=plotting.plain(name), xlabel="rollouts (thousands)", ylim=(max(bottom, -0.03 * top), top))
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    wrapped = [plotting.plain(textwrap.fill(line, int(width * _CHARACTERS))) for line in lines]
    figure.legend(
        [handles[line] for line in lines], wrapped, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
    return figure


def _draw_line(axes: Any, group: Group, number: int, *, crowded: bool) -> Any:
    rollouts, values = held_out([run.records for run in group.runs], "rollouts")
    plotting.over_steps(
        axes,
        rollouts / 1000,
        values.mean(0),
        standard_error=None if crowded or len(values) < 2 else standard_error(values),
        label=group.line,
        metric="held-out accuracy",
        look=group.line if group.line in plotting.METHODS else number,
    )
    if crowded:
        axes.lines[-1].set(linewidth=1.2, markersize=4)
    return axes.lines[-1]


def sections(groups: list[Group], left_out: list[Run]) -> list[Section]:
    """Return the sections of the page: the finished runs, and the runs that do not count."""
    found = []
    if groups:
        caption = "Mean accuracy over seeds on held-out prompts, against the rollouts spent on training."
        drawings = []
        for panel in dict.fromkeys(group.panel for group in groups):
            figure = draw(groups, panel)
            bands = " Bands show one standard error." if any(axes.collections for axes in figure.axes) else ""
            alt = f"Held-out accuracy against rollouts on {panel}, one line per row of the table"
            drawings.append(Drawing(figure, alt, f"{caption}{bands}"))
        table = PageTable(COLUMNS, rows(groups), "Means over seeds (standard error)")
        found.append(Section("Finished runs", HOW_TO_READ, drawings, [table]))
    if left_out:
        listed = [[str(run.folder), run.trouble] for run in left_out]
        table = PageTable(("run", "reason"), listed, "In no row of the table and in no line of the figure")
        found.append(Section("Runs that do not count", tables=[table]))
    return found
