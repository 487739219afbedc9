"""The section of the page on one setting (recorded runs that differ only in the seed): its text and tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.calibration.drawings import drawings
from experiments.calibration.evaluate import (
    CALIBRATION,
    CORRECTIONS,
    ERROR,
    WITHOUT_PROBES,
    Evaluation,
    averaged,
    pooled,
    scored,
)
from experiments.reporting.page import Section
from experiments.reporting.spread import shown
from experiments.reporting.tables import PageTable

_STATES = ("UNSOLVED", "MIXED", "SOLVED")
_COLUMNS = {
    "spearman": "Spearman",
    ERROR: "error",
    "log score": "log score, counts",
    "state log score": "log score, states",
    "state F1": "F1 of states",
    "Brier": "Brier, mixed",
    CALIBRATION: "ECE, mixed",
    "mixed, excess": "mixed, predicted less observed",
    "90% covers": "90% covers",
    "PIT distance": "PIT distance",
}
_AHEAD = "One step ahead, on the chosen batches of the second half, as in the papers"
HOW_TO_READ = """Every method observes the same recorded batches and predicts the pool before each probe. A probe is
a set of fresh rollouts of the whole pool, or of a fixed random part of it, from which no method learns. Probes of the
second half count; fits use the first half. A history without probes is scored on the batches of its second half, each
predicted before the methods observe it. Brackets contain standard errors: over histories where there are several,
and otherwise over prompts.

`Spearman` is the rank correlation of the predicted success rate with s / n; even the true rates do not exceed the
ceiling. `error` is the mean absolute error against s / n, which includes the noise of n rollouts. Log scores are in
nats: for the number of correct answers (as a Beta-Binomial of the predicted mean and variance) and for the solve state
(none, some or all correct). `Brier` and `ECE`, the expected calibration error, score P(mixed), the probability that
some but not all answers are correct. `90% covers` is the share of outcomes in the central 90% interval: above 0.9 the
intervals are too wide. `PIT distance` measures how far the ranks of outcomes among predictions are from uniform: 0 is
perfect."""


def section(label: str, evaluations: Sequence[Evaluation]) -> Section:
    """Return the section on one setting."""
    numbers = [one.numbers for one in evaluations]
    mean, first = averaged(numbers), numbers[0]
    text = (
        f"{len(numbers)} {'history' if len(numbers) == 1 else 'histories'} of {first['num_prompts']:,} prompts and "
        f"{first['steps']} steps, with batches chosen by {first['chosen_by']}: {first['rollouts']:,} rollouts for "
        f"training{_about_probes(numbers)}"
    )
    names = list(scored(mean))
    raw, corrected = (
        {name: pooled([getattr(one, which)[name] for one in evaluations]) for name in names}
        for which in ("raw", "corrected")
    )
    return Section(label, text, drawings(raw, corrected, mean["by_part"]), _tables(mean, numbers))


def _about_probes(numbers: Sequence[dict[str, Any]]) -> str:
    """Return the rest of a sentence: the rollouts and the ceiling of the probes, or that there are none."""
    first = numbers[0]
    if not first["probe"]:
        return f". {WITHOUT_PROBES}"
    return (
        f", and {first['probe_rollouts']:,} more for the probes of {first['probed']:,} prompts. The ceiling of "
        f"Spearman is {np.mean([one['ceiling'] for one in numbers]):.3f}."
    )


def _tables(mean: dict[str, Any], by_history: Sequence[dict[str, Any]]) -> list[PageTable]:
    ways = [how for how in CORRECTIONS if how in mean["recalibrated"]]
    all_scores = PageTable(
        ["method", *_COLUMNS.values()],
        [[name, *(shown(scores[metric]) for metric in _COLUMNS)] for name, scores in scored(mean).items()],
        "On probes of the whole pool, second half" if mean["probe"] else _AHEAD,
    )
    recalibrated = PageTable(
        ["method", "as predicted", *ways],
        [
            [name, shown(scores[CALIBRATION]), *(shown(mean["recalibrated"][how][name]) for how in ways)]
            for name, scores in scored(mean).items()
        ],
        "Expected calibration error of P(mixed), as predicted and recalibrated: on the chosen batches, which cost"
        " nothing, or on earlier probes, which cost extra rollouts",
    )
    ahead = PageTable(
        ["method", "log score, counts", "log score, states", "Spearman", "ECE, mixed"],
        [
            [name, *(shown(s[m]) for m in ("log score", "state log score", "spearman", CALIBRATION))]
            for name, s in mean["ahead"].items()
        ],
        _AHEAD,
    )
    fitted = PageTable(
        ["method", "history", "parameter", "fitted", "gain on the second half, nats per visit"],
        [row for number, one in enumerate(by_history) for row in _fitted_rows(one["fitted"], number)],
        "Fitted to the first half, with standard errors; the gain is in the log score that each method is fitted by,"
        " over the values set by hand",
    )
    return [all_scores, recalibrated, *([ahead] if mean["probe"] else []), fitted]


def _fitted_rows(fits: dict[str, Any], number: int) -> list[list[str]]:
    rows = []
    for method, fit in fits.items():
        for name, value in fit["parameters"].items():
            values, errors = (np.atleast_1d(x) for x in (value, fit["standard_errors"][name]))
            for i, pair in enumerate(zip(values, errors, strict=True)):
                which = f"{name} from {_STATES[i]}" if np.ndim(values) > 1 else name
                cells = [f"{v:.2f} ({e:.2f})" for v, e in zip(*map(np.atleast_1d, pair), strict=True)]
                parameter = f"{which}: {_STATES[i]}" if np.shape(value) == (3,) else which
                rows.append([method, number + 1, parameter, ", ".join(cells), shown(fit["gain"])])
    return rows
