"""The numbers of a verdict: how well each method predicted the judged groups, and how sure that is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsel import metrics
from jaxsel.predictors.recalibration import Groups, isotonic
from jaxsel.report.cells import LEVELS, NUM_BINS, PARTS, Scored, parts_of, probability_bins
from jaxsel.report.rows import Rows, is_mixed

_GROUPS = 64  # groups of similar predictions that the isotonic curve is fitted to, as in `jaxsel.recalibrated`
NUMBERS = (
    "states",  # log score of the solve state
    "brier",
    "predicted",  # share of mixed groups
    "realised",
    "excess",  # predicted less realised share
    "covers 90%",
    "states behind",  # log score of the best method less that of this method, on the same groups
    "brier ahead",  # Brier score of the best method less that of this method
    "calibration",  # expected calibration error of P(mixed)
)


class Number(NamedTuple):
    """A number and its standard error, which counts all groups of one prompt as one observation."""

    value: float
    error: float


class Bins(NamedTuple):
    """The reliability of P(mixed) by bin, see `metrics.reliability`.

    Attributes:
        groups: Number of groups in each bin.
        predicted: Mean predicted probability of a mixed group; NaN in an empty bin.
        observed: Share of the groups that were mixed; NaN in an empty bin.
        chance: Standard deviation that the observed share has if the predictions are right.
    """

    groups: Float[np.ndarray, " k"]
    predicted: Float[np.ndarray, " k"]
    observed: Float[np.ndarray, " k"]
    chance: Float[np.ndarray, " k"]


class Judged(NamedTuple):
    """The judgement of one method.

    Attributes:
        groups: Number of judged groups.
        numbers: The metrics of `NUMBERS` by name.
        by_part: The same metrics of the parts of `PARTS` that have groups, and the numbers of groups.
        bins: Reliability by bin of P(mixed).
        by_chance: The mean calibration error that right predictions would show, because groups are few.
        miscalibration: The part of the Brier score that the curve of `corp` would remove (MCB of the same paper).
    """

    groups: int
    numbers: dict[str, Number]
    by_part: dict[str, tuple[int, dict[str, Number]]]
    bins: Bins
    by_chance: float
    miscalibration: float


class Corp(NamedTuple):
    """The isotonic curve of P(mixed).

    Attributes:
        predicted: Predicted probabilities, increasing.
        observed: Values of the curve there.
        miscalibration: The part of the Brier score that the curve would remove.
    """

    predicted: Float[np.ndarray, " g"]
    observed: Float[np.ndarray, " g"]
    miscalibration: float


def judged(rows: Rows, scores: Scored, best: Scored) -> Judged:
    """Return the judgement of one method's predictions for at least one group.

    Args:
        rows: The groups and their predictions.
        scores: The metrics of the groups.
        best: The metrics of the same groups under the best method, for the paired differences.
    """
    p, mixed = np.asarray(rows.prediction.mixed, np.float32), is_mixed(rows)
    columns = np.stack(
        [
            scores.states,
            scores.brier,
            p,
            mixed,
            p - mixed,
            scores.covered[:, LEVELS.index(0.9)],
            best.states - scores.states,
            best.brier - scores.brier,
        ],
        axis=1,
    )
    arrays = (columns.astype(np.float32), p, mixed)
    part = parts_of(rows.visits)
    by_part = {}
    for number, name in enumerate(PARTS):
        if (count := int((part == number).sum())) > 0:
            by_part[name] = (count, _numbers(_estimated(*arrays, rows.prompt_ids, part == number)))
    everywhere = _numbers(_estimated(*arrays, rows.prompt_ids, np.ones(len(p), bool)))
    bins, by_chance = _bins(p, mixed)
    return Judged(len(p), everywhere, by_part, bins, by_chance, corp(rows).miscalibration)


def best_of(scores: Mapping[str, Scored]) -> str:
    """Return the name of the method with the highest mean log score of solve states."""
    return max(scores, key=lambda name: float(np.mean(scores[name].states)))


def _bins(p: Float[np.ndarray, " m"], mixed: Bool[np.ndarray, " m"]) -> tuple[Bins, float]:
    table = _reliability(p, mixed)
    groups, predicted, observed = (np.asarray(x, np.float64) for x in (table.size, table.prediction, table.outcome))
    variance = np.bincount(probability_bins(p), p * (1.0 - p), NUM_BINS)
    # the mean of |x| for a normal x of standard deviation 1 is sqrt(2 / pi)
    by_chance = float(np.sqrt(2 / np.pi) * np.sqrt(variance).sum() / len(p))
    return Bins(groups, predicted, observed, np.sqrt(variance) / np.maximum(groups, 1)), by_chance


@jax.jit
def _reliability(p: Float[Any, " m"], mixed: Bool[Any, " m"]) -> metrics.Reliability:
    return metrics.reliability(p, mixed, num_bins=NUM_BINS)


@jax.jit
def _estimated(
    columns: Float[Any, "m k"],
    p: Float[Any, " m"],
    mixed: Bool[Any, " m"],
    prompt_ids: Int[Any, " m"],
    part: Bool[Any, " m"],
) -> metrics.Estimate:
    def metric(columns: Any, p: Any, mixed: Any, *, weights: Float[Array, " m"]) -> Float[Array, " k"]:
        error = metrics.expected_calibration_error(p, mixed, num_bins=NUM_BINS, weights=weights)
        return jnp.append(jnp.sum(weights[:, None] * columns, axis=0) / jnp.sum(weights), error)

    return metrics.estimate(metric, columns, p, mixed, weights=part.astype(jnp.float32), clusters=prompt_ids)


def _numbers(found: metrics.Estimate) -> dict[str, Number]:
    values, errors = (np.asarray(x, np.float64).tolist() for x in found)
    return {name: Number(*pair) for name, *pair in zip(NUMBERS, values, errors, strict=True)}


@jax.jit
def _isotonic_map(mixed: Float[Any, " m"], outcome: Bool[Any, " m"]) -> tuple[Any, Any, Any, Any]:
    table = metrics.reliability(mixed, outcome, num_bins=_GROUPS, binning="mass")
    filled = (jnp.nan_to_num(column) for column in (table.prediction, table.outcome))  # empty bins are NaN
    increasing = isotonic(Groups(table.size, *filled))
    better = metrics.brier_score(increasing(mixed), outcome)
    return table.size, table.prediction, increasing(table.prediction), metrics.brier_score(mixed, outcome) - better


def corp(rows: Rows) -> Corp:
    """Return the increasing curve nearest to the outcomes, fitted to at most 64 groups of similar predictions.

    A curve without a choice of bins is the C of CORP ("Stable reliability diagrams for probabilistic classifiers",
    Dimitriadis, Gneiting and Jordan 2021).
    """
    size, predicted, observed, gain = map(np.asarray, _isotonic_map(rows.prediction.mixed, is_mixed(rows)))
    return Corp(predicted[size > 0], observed[size > 0], float(gain))
