"""All numbers of one history, and their means over the histories of a setting, which differ only in the seed.

A history is a recorded run: its batches with their successes, and its probes. A probe is a set of fresh rollouts from
which no method learns. In a history without probes, each method is scored on the batches, one step ahead.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.calibration import scoring
from experiments.calibration.predictors import FITTED, make_predictors, middle
from experiments.calibration.scoring import Replayed, Rows
from experiments.reporting.spread import over_seeds
from jaxsel.integrations.history import Recorded
from jaxsel.report.rows import concatenated
from rl.progress import bar

CORRECTIONS = {
    "isotonic": {"method": "isotonic", "on": "batches"},
    "beta": {"method": "beta", "on": "batches"},
    "isotonic, on probes": {"method": "isotonic", "on": "probes"},
}
ERROR, CALIBRATION = "error", "calibration error"
WITHOUT_PROBES = (
    "Without probes (fresh rollouts of the pool), all scores are one step ahead on the chosen batches, and need not "
    "hold for other prompts."
)


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one history.

    Attributes:
        numbers: Numbers for JSON.
        raw: Probes of the second half with each method's predictions; without probes, the batches of the second half.
        corrected: The same rows with predictions recalibrated by isotonic regression on the batches.
    """

    numbers: dict[str, Any]
    raw: dict[str, Rows]
    corrected: dict[str, Rows]


def evaluate(recorded: Recorded, *, name: str) -> Evaluation:
    """Replay every method; fit on the first half of the steps and score the second half.

    Raises:
        ValueError: The history has no judged rollouts in its first half, or it has probes but none in its second half.
    """
    half = middle(recorded)
    if not (recorded.history.step < half).any():
        raise ValueError(f"{name} has no judged rollouts in its first half; give the history of a longer run")
    if has_probes(recorded) and not (recorded.probes["clock"] >= half).any():
        raise ValueError(f"{name} has no probe after step {half}; record with probe_size=0 and a smaller probe_every")
    chosen = make_predictors(recorded)
    seen: dict[str, Replayed] = {}
    for method, predictor in bar(chosen.predictors.items(), desc=name, unit="method"):
        seen[method] = scoring.replayed(recorded, predictor)
    raw = {method: _late(scoring.judged(replayed), half) for method, replayed in seen.items()}
    ahead = {method: _late(replayed.ahead, half) for method, replayed in seen.items()}
    corrected = {
        correction: {method: _late(scoring.recalibrated(replayed, **how), half) for method, replayed in seen.items()}
        for correction, how in CORRECTIONS.items()
        if has_probes(recorded) or how["on"] == "batches"
    }
    probes = _late(next(iter(seen.values())).probes, half)
    numbers = {
        "num_prompts": recorded.num_prompts,
        "steps": recorded.history.num_steps,
        "chosen_by": recorded.spec.get("method", "unknown"),
        "rollouts": int(recorded.history.group_size.sum()),
        "probe_rollouts": int(recorded.probes["group_size"].sum()),
        "probes": len(np.unique(probes.step)),
        "probed": len(np.unique(probes.prompt_ids)),
        "ceiling": scoring.ceiling(probes) if has_probes(recorded) else None,
        "probe": {method: scoring.scores(rows) for method, rows in raw.items()} if has_probes(recorded) else None,
        "ahead": {method: scoring.scores(rows) for method, rows in ahead.items()},
        "recalibrated": {
            correction: {method: scoring.scores(rows)[CALIBRATION] for method, rows in by_method.items()}
            for correction, by_method in corrected.items()
        },
        "fitted": {
            method: {
                "parameters": fit.parameters,
                "standard_errors": fit.standard_errors,
                "converged": fit.converged,
                "gain": scoring.gain(ahead[f"{method}, fitted"], ahead[method], FITTED[method][1]),
            }
            for method, fit in chosen.fits.items()
        },
        "by_part": {method: _by_part(rows) for method, rows in raw.items()},
    }
    return Evaluation(numbers, raw, corrected["isotonic"])


def has_probes(recorded: Recorded) -> bool:
    """Return whether the history has judged probes. The adapters for other trainers record none."""
    return bool((recorded.probes["group_size"] > 0).any())


def scored(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the scores by method: on the probes or, in a history without probes, one step ahead on the batches."""
    return numbers["probe"] or numbers["ahead"]


def _late(rows: Rows, half: int) -> Rows:
    return rows.taken(rows.step >= half)


def _by_part(rows: Rows) -> dict[str, Any]:
    found = {}
    for part, mask in scoring.parts_of(rows).items():
        scores = scoring.scores(rows, mask)
        found[part] = {name: scores[name] for name in (ERROR, CALIBRATION)} | {"rows": int(mask.sum())}
    return found


def averaged(by_history: list[Any]) -> Any:
    """Return the means over histories of nested numbers `{mean, standard_error}`, with new standard errors.

    A single history keeps its own numbers. Numbers that some histories lack are dropped.
    """
    first = by_history[0]
    if not isinstance(first, dict):
        return first if len(by_history) == 1 else None
    if set(first) == {"mean", "standard_error"}:
        return first if len(by_history) == 1 else over_seeds([found["mean"] for found in by_history])
    common = [name for name in first if all(name in found for found in by_history)]
    return {name: averaged([found[name] for found in by_history]) for name in common}


def pooled(rows: list[Rows]) -> Rows:
    """Return the rows of several histories, with distinct prompt ids for distinct histories."""
    shifts = np.cumsum([0, *(part.prompt_ids.max() + 1 for part in rows[:-1])])
    return concatenated([part._replace(prompt_ids=part.prompt_ids + s) for part, s in zip(rows, shifts, strict=True)])
