"""The figure: milliseconds against pool size on logarithmic axes, one column per method and one row per operation."""

from pathlib import Path

import matplotlib as mpl

from experiments.benchmarks.timing import Row

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from jaxsel.plotting import COLOURS

# markers tell the lines apart in greyscale prints
STYLES = {
    "kernels": {"color": COLOURS["blue"], "marker": "o", "label": "jaxsel, kernels alone", "linewidth": 2.2},
    "jaxsel": {"color": COLOURS["sky blue"], "marker": "D", "label": "jaxsel, PromptSelector"},
    "numpy": {"color": COLOURS["orange"], "marker": "s", "label": "NumPy, whole arrays"},
    "numpy threads": {"color": COLOURS["orange"], "marker": "h", "label": "NumPy, a thread per core", "linestyle": ":"},
    "trinity": {"color": COLOURS["purple"], "marker": "<", "label": "NumPy, as in Trinity-RFT", "linestyle": ":"},
    "simdkalman": {"color": COLOURS["purple"], "marker": ">", "label": "simdkalman"},
    "torch": {"color": COLOURS["vermilion"], "marker": "v", "label": "torch, whole tensors"},
    "jax": {"color": COLOURS["green"], "marker": "^", "label": "plain JAX"},
    "tfp": {"color": COLOURS["yellow"], "marker": "*", "label": "TFP", "markeredgecolor": "black"},
    "dynamax": {"color": COLOURS["yellow"], "marker": "P", "label": "Dynamax", "markeredgecolor": "black"},
    "dictionary": {"color": COLOURS["black"], "marker": "x", "label": "dictionary, Python loops"},
    "list": {"color": COLOURS["purple"], "marker": "p", "label": "list, one call per prompt"},
    "copy": {"color": COLOURS["grey"], "linestyle": "--", "label": "copy of the same bytes"},
}
OPERATIONS = ("select", "observe", "observe + predict")


def draw(rows: list[Row], path: Path, *, title: str) -> Path:
    """Draw and write the figure; missing measurements leave gaps."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, panels = plt.subplots(
        len(OPERATIONS),
        len(methods),
        figsize=(3.0 * len(methods) + 0.6, 8.6),
        sharex=True,
        sharey="row",
        layout="constrained",
        squeeze=False,
    )
    for line, operation in zip(panels, OPERATIONS, strict=True):
        for axes, method in zip(line, methods, strict=True):
            mine = [row for row in rows if (row["method"], row["operation"]) == (method, operation)]
            _draw_panel(axes, mine)
        line[0].set_ylabel(f"{operation}, ms")
    for axes, method in zip(panels[0], methods, strict=True):
        axes.set_title(method)
    for axes in panels[-1]:
        axes.set_xlabel("prompts in the pool")
    lines = {label: line for axes in panels.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = [style["label"] for style in STYLES.values() if style["label"] in lines]
    figure.legend(
        [lines[label] for label in labels], labels, loc="outside lower center", ncols=len(methods) + 1, frameon=False
    )
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _draw_panel(axes: Axes, rows: list[Row]) -> None:
    for name, style in STYLES.items():
        points = [(row["num_prompts"], row["ms"]) for row in rows if row["implementation"] == name]
        points = [(size, ms) for size, ms in points if ms > 0]
        if points:
            axes.loglog(*zip(*points, strict=True), **{"linewidth": 1.5, "markersize": 5, **style})
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
