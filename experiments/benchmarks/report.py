"""Tables and figure of the select and observe benchmark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.table import Table

mpl.use("Agg")
from matplotlib import pyplot as plt

Rows = list[dict[str, Any]]

# Okabe and Ito's palette: distinct for colour-blind readers. Markers carry the same message in grey.
STYLES = {
    "jaxsel": ("#0072B2", "o", "jaxsel"),
    "numpy": ("#E69F00", "s", "NumPy, whole arrays"),
    "jax.random.beta": ("#009E73", "^", "jax.random.beta + lax.top_k"),
    "dictionary": ("#000000", "x", "dictionary, Python loops"),
}


def tables(results: dict[str, Rows]) -> Iterator[Table]:
    """Steps, Beta draws and checkpoints; all times in milliseconds."""
    yield _comparison("select + observe, ms", results["steps"], ("method", "num_prompts"))
    yield _comparison("one Beta draw a prompt, ms", results["beta_draws"], ("num_prompts",))
    columns = ("save, ms", "load, ms", "bytes/prompt", "on disk")
    table = Table("method", "pool", *columns, title="checkpoints")
    for row in results["checkpoints"]:
        numbers = (row["save"], row["load"], row["state_bytes_per_prompt"], row["disk_bytes_per_prompt"])
        table.add_row(row["method"], f"{row['num_prompts']:,}", *map(_number, numbers))
    yield table


def comparison_rows(rows: Rows, by: tuple[str, ...]) -> list[tuple[tuple[Any, ...], dict[str, float]]]:
    """Milliseconds by implementation, one entry a combination of the columns `by`."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in by), {})[row["implementation"]] = row["both"]
    return list(found.items())


def draw(rows: Rows, path: Path, *, batch_size: int) -> Path:
    """Milliseconds against pool size, one panel a method, both axes logarithmic."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, panels = plt.subplots(
        1, len(methods), figsize=(3.1 * len(methods), 4), sharey=True, layout="constrained", squeeze=False
    )
    for axes, method in zip(panels[0], methods, strict=True):
        for name, (colour, marker, label) in STYLES.items():
            points = [r for r in rows if r["method"] == method and r["implementation"] == name]
            x, y = [r["num_prompts"] for r in points], [r["both"] for r in points]
            if points:
                axes.loglog(x, y, color=colour, marker=marker, label=label, linewidth=1.8)
        axes.set(title=method, xlabel="prompts in the pool")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel(f"select + observe {batch_size} prompts, ms")
    handles = {label: line for axes in panels[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _comparison(title: str, rows: Rows, by: tuple[str, ...]) -> Table:
    """One column an implementation; the last is above 1 where jaxsel is quicker than NumPy."""
    measured = [name for name in STYLES if any(row["implementation"] == name for row in rows)]
    table = Table(*(name.replace("num_prompts", "pool") for name in by), *measured, "numpy / jaxsel", title=title)
    for key, times in comparison_rows(rows, by):
        ratio = times["numpy"] / times["jaxsel"]
        cells = [f"{part:,}" if isinstance(part, int) else part for part in key]
        table.add_row(*cells, *(_number(times.get(name)) for name in measured), f"{ratio:.2f}")
    return table


def _number(value: float | None) -> str:
    """Three figures; a dash for what was not measured."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
