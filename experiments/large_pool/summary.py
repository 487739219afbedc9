"""The numbers and the table of many runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments.large_pool.runs import AMONG, NAMES, ORACLE, Config
from experiments.reporting.spread import over_seeds
from experiments.reporting.tables import terminal_table

Found = dict[tuple[int, str], dict[str, list[dict[str, Any]]]]
"""Runs by pool size and set of candidates, then by method; every method has one run per seed."""


def find(config: Config, folder: Path) -> Found:
    """Return all runs of these settings in the folder, ordered by size, method and seed."""

    def place(one: dict[str, Any]) -> tuple[Any, ...]:
        name = one["method"]
        return one["size"], list(AMONG).index(one["among"]), (ORACLE, *NAMES).index(name), one["seed"]

    everything = (json.loads(path.read_text()) for path in folder.glob("*.json"))
    known = (one for one in everything if one["config"] == asdict(config) and one["method"] in (ORACLE, *NAMES))
    found: Found = {}
    for one in sorted(known, key=place):
        found.setdefault((one["size"], one["among"]), {}).setdefault(one["method"], []).append(one)
    return found


def summarise(by_method: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return every method's means over seeds and their standard errors, for one size and one set of candidates.

    Regret is the oracle's share of mixed groups minus the method's. Gain is the method's mean success rate minus that
    of random prompts. Both compare runs with the same seed, and are NaN if the other run is missing.
    """

    def of(method: str, number: str) -> dict[int, float]:
        return {one["seed"]: one["found"][number] for one in by_method.get(method, [])}

    best, usual = of(ORACLE, "mixed_share"), of("uniform", "mean_success_rate")
    summary = {}
    for name, runs in by_method.items():
        regrets = [best.get(one["seed"], np.nan) - one["found"]["mixed_share"] for one in runs]
        gains = [one["found"]["mean_success_rate"] - usual.get(one["seed"], np.nan) for one in runs]
        curve = np.array([one["found"]["mixed_shares"] for one in runs])
        numbers = [{k: v for k, v in one["found"].items() if k != "mixed_shares"} for one in runs]
        summary[name] = {"seeds": [one["seed"] for one in runs]} | over_seeds(numbers)
        compared = {"regret": over_seeds(regrets), "gain": over_seeds(gains)}
        summary[name] |= compared | {"mixed_shares": curve.mean(0).round(4).tolist()}
    return summary


_COLUMNS = {
    "mixed_share": "mixed",
    "mean_success_rate": "accuracy",
    "gain": "gain",
    "calibration_error": "ECE",
    "calibration_error_of_batches": "batch",
    "visited_before": "revisits",
    "spearman": "rank",
    "seconds_a_step": "s/step",
}


def table(title: str, summary: dict[str, Any]) -> Table:
    """Return a table of means over seeds, one row per method; the JSON file also has the standard errors."""
    rows = ([name, *(f"{numbers[column]['mean']:.3f}" for column in _COLUMNS)] for name, numbers in summary.items())
    return terminal_table(title, ("method", *_COLUMNS.values()), rows)
