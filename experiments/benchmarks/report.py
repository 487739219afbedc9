"""Tables of a run, as plain text; all times in milliseconds."""

from collections.abc import Iterator

from experiments.benchmarks.bars import Bar
from experiments.benchmarks.streaming import bytes_moved
from experiments.benchmarks.timing import OPERATIONS, Row

NAMES = {
    "jaxsel": "PromptSelector",
    "kernels": "kernels",
    "fused kernels": "fused kernels",
    "numpy": "NumPy",
    "torch": "torch",
    "jax": "plain JAX",
    "tfp": "TFP",
    "dynamax": "Dynamax",
    "dictionary": "dictionary",
    "list": "list",
    "copy": "copy",
}
_ORDER = (*OPERATIONS, "one prompt", "save", "load")
LEGEND = """\
PromptSelector: the public class, NumPy in and out (its predict returns six fields).  kernels: the same functions
compiled alone, batches on the device.  fused kernels: their prediction of the pool is what observe left in the
state, as with all peers of dps: observe is the whole of observe + predict.  plain JAX: jax.random.beta +
lax.top_k; for dps matrices [3, 3, N].  dictionary: per-prompt Python loops.  list: one random.choices a prompt.
copy: the bytes that the operation has to move, streamed.  In brackets: times as long as the kernels; above 1 the
kernels are quicker."""


def text_table(title: str, headers: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be; text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    numeric = [all(cell == "-" or cell[:1].isdigit() for cell in column) for column in zip(*rows, strict=True)]

    def line(row: list[str]) -> str:
        cells = zip(row, widths, numeric or [False] * len(row), strict=True)
        return "  ".join(f"{cell:>{width}}" if right else f"{cell:<{width}}" for cell, width, right in cells).rstrip()

    return "\n".join([title, line(headers), "  ".join("-" * width for width in widths), *map(line, rows)])


def time_tables(rows: list[Row]) -> Iterator[str]:
    """One table a method: its operations and pools below one another, implementations side by side."""
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        present = [name for name in NAMES if any(row["implementation"] == name for row in mine)]
        cells: dict[tuple[str, int], dict[str, float]] = {}
        for row in mine:
            cells.setdefault((row["operation"], row["num_prompts"]), {})[row["implementation"]] = row["ms"]
        lines = [
            [operation, f"{size:,}", *(_cell(times.get(name), times.get("kernels"), name) for name in present)]
            for (operation, size), times in sorted(cells.items(), key=lambda item: _ORDER.index(item[0][0]))
        ]
        yield text_table(f"{method}, ms", ["operation", "pool", *(NAMES[name] for name in present)], lines)


def streaming_table(rows: list[Row]) -> str:
    """The share of the streaming limit that each operation reaches."""
    lines = []
    for row in rows:
        moved = bytes_moved(row["method"], row["operation"], row["num_prompts"])
        if row["implementation"] != "copy":
            continue
        label = {name: row[name] for name in ("method", "operation", "num_prompts")}
        times = {r["implementation"]: r["ms"] for r in rows if label.items() <= r.items() and _moves_as_much(r)}
        shares = [_percent(row["ms"], times.get(name)) for name in ("kernels", "fused kernels", "jaxsel", "numpy")]
        lines.append(
            [
                row["method"],
                row["operation"],
                f"{row['num_prompts']:,}",
                f"{moved / 1e6:,.4g}",
                number(row["ms"]),
                f"{moved / row['ms'] / 1e6:.1f}",
                *shares,
            ]
        )
    headers = ["method", "operation", "pool", "MB moved", "copy, ms", "copy, GB/s"]
    headers += ["kernels", "fused kernels", "PromptSelector", "NumPy"]
    return text_table("share of the streaming limit (bytes read and written)", headers, lines)


def bytes_table(rows: list[Row], memory: list[Row]) -> str:
    """Bytes a prompt, and the memory of a training step."""
    peaks = {(row["method"], row["num_prompts"]): row["peak_bytes"] / 2**20 for row in memory}
    lines = []
    for row in rows:
        peak = peaks.get((row["method"], row["num_prompts"]))
        sizes = (row["state"], row["all"], row["disk"])
        lines.append([row["method"], f"{row['num_prompts']:,}", *map(number, sizes), number(peak)])
    headers = ["method", "pool", "state", "with visits", "on disk", "peak of a step, MiB"]
    return text_table("bytes a prompt", headers, lines)


def bars_table(bars: list[Bar]) -> str:
    """Bar, measured, holds."""
    lines = []
    for bar in bars:
        limit = f"{'>=' if bar.at_least else '<='} {bar.limit:g}"
        results = [(number(value), bar.verdict(value)) for value in (bar.kernels, bar.public)]
        lines.append([bar.text, limit, *results[0], *results[1]])
    headers = ["bar", "limit", "kernels", "holds", "PromptSelector", "holds"]
    return text_table("bars", headers, lines)


def number(value: float | None) -> str:
    """Three figures; a dash for what was not measured."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(time: float | None, kernels: float | None, name: str) -> str:
    if time is None or kernels is None or name in ("kernels", "copy"):
        return number(time)
    return f"{number(time)} ({number(time / kernels)})"


def _percent(limit: float, time: float | None) -> str:
    return "-" if not time else f"{limit / time:.0%}"


def _moves_as_much(row: Row) -> bool:
    """Who predicts when observing moves other bytes in each of the two; both together are the same for all."""
    return not row["fused"] or row["operation"] == "observe + predict"
