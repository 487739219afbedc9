"""Numbers that summarise training runs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from experiments.reporting.tables import terminal_table

Records = list[dict[str, Any]]
"""The metrics of a run as `rl.train` returns them and `metrics.jsonl` holds them: one dictionary per step."""
_PARTS = ("selecting", "generating", "updating")


def probes(records: Records, name: str, at: str = "rollouts") -> tuple[np.ndarray, np.ndarray]:
    """Return the rollouts before every probe (or its step) and the value of `probe/NAME` there.

    A probe tests the policy and its selector on extra rollouts, between two steps.

    Args:
        records: Metrics of a run from its first step on. The probe of a step precedes its rollouts, but
            the record of the step already counts these rollouts.
        name: Name of the metric.
        at: "rollouts" or "step".
    """
    before = [0, *(r["rollouts"] for r in records[:-1])]
    spent = before if at == "rollouts" else [r[at] for r in records]
    rows = [(x, r[f"probe/{name}"]) for x, r in zip(spent, records, strict=True) if _known(r.get(f"probe/{name}"))]
    pairs = np.array(rows, float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def curve(records: Records) -> dict[str, list[float]]:
    """Return the held-out accuracy at every probe, with the steps and rollouts before it, for a JSON result."""
    steps, values = probes(records, "held_out_accuracy", "step")
    rollouts = probes(records, "held_out_accuracy")[0]
    return {"step": steps.tolist(), "rollouts": rollouts.tolist(), "held_out_accuracy": values.round(4).tolist()}


def column(records: Records, name: str) -> np.ndarray:
    """Return the values of one metric, in the steps that have it."""
    return np.array([r[name] for r in records if _known(r.get(name))], float)


def per_step(runs: Sequence[Records], name: str) -> np.ndarray:
    """Return the values of one metric by run and step; NaN where a step has no value, such as a reward of no group."""
    return np.array([[r[name] for r in records if name in r] for records in runs], float)


def smoothed(values: np.ndarray, width: int = 20) -> np.ndarray:
    """Return running means of `width` values along the last axis, without NaN; the first are over the values so far."""
    known = np.isfinite(values)
    ends = np.arange(1, values.shape[-1] + 1)
    starts = np.maximum(ends - width, 0)

    def total(of: np.ndarray) -> np.ndarray:
        sums = np.cumsum(np.insert(of, 0, 0, axis=-1), axis=-1)
        return sums[..., ends] - sums[..., starts]

    with np.errstate(invalid="ignore"):  # NaN where no value is known
        return total(np.where(known, values, 0.0)) / total(known.astype(int))


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def summary(records: Records) -> dict[str, float]:
    """Return the numbers of a finished run. A number that the run lacks is NaN."""
    mixed = column(records, "train/mixed_share")
    spearman, held_out = (probes(records, name)[1] for name in ("spearman", "held_out_accuracy"))
    step_seconds = _step_seconds(records)
    return {
        "steps": len(step_seconds),
        "rollouts": records[-1]["rollouts"],
        "mixed_share_first_half": _mean(mixed[: len(mixed) // 2]),
        "mixed_share": _mean(mixed),
        "held_out_at_start": _mean(held_out[:1]),
        # The mean of two probes, because a single probe is noisier than the differences between methods.
        "held_out_accuracy": _mean(held_out[-2:]),
        "spearman": _mean(spearman[len(spearman) // 2 :]),
        **{f"seconds_{part}": float(column(records, f"seconds/{part}").sum()) for part in _PARTS},
        "share_selecting": float(column(records, "seconds/selecting").sum() / step_seconds.sum()),
        # All seconds that were measured, including the probes.
        "seconds": float(sum(v for r in records for k, v in r.items() if k.startswith("seconds/") and _known(v))),
        # Medians, because the first steps compile functions.
        "median_ms_selecting": float(1e3 * np.median(column(records, "seconds/selecting"))),
        "median_ms_step": float(1e3 * np.median(step_seconds)),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _step_seconds(records: Records) -> np.ndarray:
    updates = (r for r in records if "train/mixed_share" in r)
    return np.array([sum(r.get(f"seconds/{part}") or 0.0 for part in (*_PARTS, "handing_over")) for r in updates])


def summary_table(runs: dict[str, Records]) -> Table:
    """Return the summaries as a table for a terminal of 80 columns."""
    start = summary(next(iter(runs.values())))["held_out_at_start"]
    table = terminal_table(
        "Only mixed groups, with right and wrong answers, teach the policy.",
        ("method", "steps", "rollouts", "mixed", "held-out", "Spearman", "sel/gen/upd"),
        ([method, *_summary_cells(summary(records))] for method, records in runs.items()),
    )
    table.caption = f"seconds selecting/generating/updating; held-out accuracy before training: {start:.3f}"
    return table


def _summary_cells(numbers: dict[str, float]) -> list[str]:
    return [
        f"{numbers['steps']:.0f}",
        f"{numbers['rollouts']:,.0f}",
        f"{numbers['mixed_share']:.0%}",
        f"{numbers['held_out_accuracy']:.3f}",
        f"{numbers['spearman']:.2f}",
        "/".join(f"{numbers[f'seconds_{part}']:.0f}" for part in _PARTS),
    ]


def held_out_curve(runs: Sequence[Records], of: str = "rollouts") -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over seeds of rollouts (or steps) and of held-out accuracy.

    A point of the curve is the mean of two neighbouring probes, so the curve ends in the final accuracy.
    """
    spent, values = np.mean([probes(records, "held_out_accuracy", of) for records in runs], 0)
    return (spent[:-1] + spent[1:]) / 2, (values[:-1] + values[1:]) / 2


def spent_to_reach(runs: Sequence[Records], accuracy: float, of: str = "rollouts") -> float:
    """Return the rollouts (or steps) at which `held_out_curve` first reaches `accuracy`; inf if it never does."""
    spent, values = held_out_curve(runs, of)
    reached = np.flatnonzero(values >= accuracy)
    if len(reached) == 0:
        return float("inf")
    at = reached[0]
    if at == 0:
        return float(spent[0])
    part = (accuracy - values[at - 1]) / (values[at] - values[at - 1])
    return float(spent[at - 1] + part * (spent[at] - spent[at - 1]))


def share_spent(runs: Sequence[Records], others: Sequence[Records], of: str = "rollouts") -> dict[str, float]:
    """Return how many rollouts (or steps) `runs` need to reach the others' final accuracy, as a share of the others'.

    The share is inf if `runs` never reach that accuracy. It is measured on the mean curves, because a single seed may
    miss an accuracy that the mean reaches. The standard error is the jackknife's: it leaves out one seed of
    both groups at a time.

    Args:
        runs: Runs, one per seed.
        others: Runs to compare with, of the same seeds.
        of: "rollouts" or "step".
    """

    def share(seeds: Sequence[int]) -> float:
        spent, values = held_out_curve([others[seed] for seed in seeds], of)
        return spent_to_reach([runs[seed] for seed in seeds], values[-1], of) / spent[-1]

    seeds = range(len(runs))
    left_out = np.array([share([seed for seed in seeds if seed != out]) for out in seeds if len(seeds) > 1])
    error = np.sqrt((len(seeds) - 1) * left_out.var()) if len(left_out) and np.isfinite(left_out).all() else np.nan
    return {"mean": share(seeds), "standard_error": float(error)}
