"""Tables of a benchmark run, as plain text; all times are in milliseconds."""

from collections.abc import Iterator

from experiments.benchmarks.streaming import bytes_moved
from experiments.benchmarks.targets import Target
from experiments.benchmarks.timing import OPERATIONS, Row
from experiments.reporting.tables import text_table

NAMES = {
    "jaxsel": "PromptSelector",
    "kernels": "kernels",
    "fused kernels": "fused kernels",
    "numpy": "NumPy",
    "numpy threads": "NumPy threads",
    "trinity": "Trinity",
    "simdkalman": "simdkalman",
    "torch": "torch",
    "jax": "plain JAX",
    "tfp": "TFP",
    "dynamax": "Dynamax",
    "dictionary": "dictionary",
    "list": "list",
    "copy": "copy",
}
_ORDER = (*OPERATIONS, "one prompt", "save", "load", "keys alone", "save, keys", "load, keys")
LEGEND = """\
PromptSelector: the public class, with NumPy arrays in and out (its predict returns six fields).  kernels: the same
functions compiled alone, with batches on the device.  fused kernels: observe leaves the prediction of the pool in
the state, as all peers of dps do, so observe + predict costs what observe costs.  plain JAX: jax.random.beta +
lax.top_k; for dps matrices [3, 3, N].  NumPy threads: a thread per core draws for its part of the pool.  Trinity:
the arithmetic of Trinity-RFT's selector by difficulty, which discounts all prompts at every update.  dictionary:
per-prompt Python loops.  list: one random.choices per prompt.  copy: a stream over the bytes that the operation has
to move.  In brackets: time relative to the kernels; above 1 the kernels are quicker."""


def time_tables(rows: list[Row]) -> Iterator[str]:
    """Yield one table per method: a row per operation and pool, a column per implementation."""
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
        yield text_table(f"{method}, ms", ("operation", "pool", *(NAMES[name] for name in present)), lines)


def streaming_table(rows: list[Row]) -> str:
    """Return a table with the share of the streaming limit that each operation reaches."""
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
    return text_table("share of the streaming limit (bytes read and written)", headers, lines, labels=2)


def bytes_table(rows: list[Row], memory: list[Row]) -> str:
    """Return a table with the bytes per prompt, with keys and without, and the memory of a training step."""
    peaks = {(row["method"], row["num_prompts"]): row["peak_bytes"] / 2**20 for row in memory}
    lines = []
    for row in rows:
        sizes = (row["state"], row["all"], row["disk"])
        keys = row.get("keys", 0)
        peak = None if keys else peaks.get((row["method"], row["num_prompts"]))
        key = f"{keys} bytes" if keys else "-"
        lines.append([row["method"], f"{row['num_prompts']:,}", key, *map(number, sizes), number(peak)])
    headers = ["method", "pool", "a key", "state", "state, visits and hashes", "on disk", "peak of a step, MiB"]
    return text_table("bytes per prompt", headers, lines)


def targets_table(targets: list[Target]) -> str:
    """Return a table of the targets, with the measured values and whether they hold."""
    lines = []
    for target in targets:
        limit = f"{'>=' if target.at_least else '<='} {target.limit:g}"
        results = [(number(value), target.verdict(value)) for value in (target.kernels, target.public)]
        lines.append([target.text, limit, *results[0], *results[1]])
    headers = ["target", "limit", "kernels", "holds", "PromptSelector", "holds"]
    return text_table("targets", headers, lines)


def number(value: float | None) -> str:
    """Return the value to three significant figures, or a dash for None, which was not measured."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(time: float | None, kernels: float | None, name: str) -> str:
    if time is None or kernels is None or name in ("kernels", "copy"):
        return number(time)
    return f"{number(time)} ({number(time / kernels)})"


def _percent(limit: float, time: float | None) -> str:
    return "-" if not time else f"{limit / time:.0%}"


def _moves_as_much(row: Row) -> bool:
    """Return whether the row's implementation moves as many bytes as the copy.

    An implementation that predicts while it observes splits the bytes differently. Only its observe + predict can be
    compared with the copy.
    """
    return not row["fused"] or row["operation"] == "observe + predict"
