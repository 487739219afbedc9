"""The numbers of every method, and whether the four claims of `experiments.reproduce` hold."""

from pathlib import Path
from typing import Any

from experiments.reporting.spread import of_seeds
from experiments.reporting.summaries import Records, curve, probes, share_spent, summary
from experiments.running.method_config import PREDICTIVE_NAMES
from jaxsel import metrics
from jaxsel.integrations.history import read_history

_COMPILING = 10  # the first steps, in which functions are compiled
Runs = dict[str, list[Records]]
"""Runs by method, one per seed."""


def calibration(history: Path) -> float:
    """Return the expected calibration error of P(mixed) on the probes in the second half of a run.

    P(mixed) is the predicted probability that some but not all rollouts of a prompt are correct.
    """
    found = read_history(history).probes
    late = (found["step"] > found["step"].max() / 2) & (found["group_size"] > 0)
    mixed = (found["successes"] > 0) & (found["successes"] < found["group_size"])
    return float(metrics.expected_calibration_error(found["mixed"][late], mixed[late]))


def method_numbers(runs: Runs, calibration_errors: dict[str, list[float]]) -> dict[str, Any]:
    """Return the numbers of every method: per seed, their mean and its standard error.

    Args:
        runs: Runs by method, one per seed.
        calibration_errors: Results of `calibration` by method, one per seed.
    """
    uniform, dynamic = runs["uniform"], runs["dynamic_sampling"]
    result = {}
    for method, seeds in runs.items():
        found = [
            numbers(records, calibration_errors[method][at]) | against(records, uniform[at])
            for at, records in enumerate(seeds)
        ]
        result[method] = {name: of_seeds([one[name] for one in found]) for name in found[0]}
        result[method] |= {
            "share_of_steps": share_spent(seeds, uniform, "step"),
            "share_of_rollouts": share_spent(seeds, dynamic),
        }
    return result


def numbers(records: Records, calibration_error: float) -> dict[str, float]:
    """Return the numbers of one run by itself."""
    found = summary(records)
    error = probes(records, "mae")[1]
    kept = ("rollouts", "held_out_at_start", "held_out_accuracy", "mixed_share", "spearman")
    # Times come from the steps in which nothing is compiled.
    warm = summary([r for r in records if r["step"] >= _COMPILING] or records)
    return {
        **{name: found[name] for name in kept},
        "mean_absolute_error": float(error[len(error) // 2 :].mean()),
        "calibration_error": calibration_error,
        "ms_selecting": warm["median_ms_selecting"],
        "ms_step": warm["median_ms_step"],
        "selecting": warm["share_selecting"],
    }


def against(records: Records, uniform: Records) -> dict[str, float]:
    """Return the numbers of one run relative to the uniform run on the same seed."""
    found, plain = summary(records), summary(uniform)
    return {
        "gain": found["held_out_accuracy"] - plain["held_out_accuracy"],
        "mixed_share_ratio": found["mixed_share"] / plain["mixed_share"] if plain["mixed_share"] else float("nan"),
    }


def check_claims(result: dict[str, Any]) -> dict[str, Any]:
    """Check the four claims for every method that predicts; no method is picked on the reported seeds."""
    wanted = {
        "share_of_rollouts": ("at most", 0.3, "of dynamic sampling's rollouts to its final held-out accuracy"),
        "share_of_steps": ("at most", 1 / 1.5, "of uniform's steps to its final held-out accuracy"),
        "mixed_share_ratio": ("at least", 1.5, "times uniform's mixed groups"),
        "selecting": ("at most", 0.01, "of a step is spent waiting for choosing and learning"),
    }
    methods = [method for method in result if method in PREDICTIVE_NAMES]
    found = {}
    for name, (side, limit, what) in wanted.items():
        means = {method: result[method][name]["mean"] for method in methods}
        holds = {method: bool(mean <= limit if side == "at most" else mean >= limit) for method, mean in means.items()}
        kept, missed = (", ".join(m for m in methods if holds[m] is held) or "none" for held in (True, False))
        says = f"{side} {limit:.3g} {what}: holds for {kept}; missed by {missed}"
        found[name] = {"bar": limit, "means": means, "holds": holds, "says": says}
    return found


def curves(runs: Runs) -> dict[str, Any]:
    """Return the curves of the figure: steps, rollouts and held-out accuracies of every seed."""
    return {method: [curve(records) for records in seeds] for method, seeds in runs.items()}
