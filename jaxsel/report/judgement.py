"""The numbers of a verdict: how well each method predicted the judged groups, and how sure that is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsel import metrics
from jaxsel.predictors.recalibration import Groups, isotonic
from jaxsel.report.cells import LEVELS, NUM_BINS, PARTS, Scored, numbered_again, parts_of, probability_bins
from jaxsel.report.rows import Rows, is_mixed

_GROUPS = 64  # groups of similar predictions that the isotonic curve is fitted to, as in `jaxsel.recalibrated`
_FINE = 4000  # bins into which the predictions are counted first: an integer multiple of NUM_BINS
NUMBERS = (
    "states",  # log score of the solve state
    "brier",
    "predicted",  # share of mixed groups
    "realised",
    "excess",  # predicted minus realised share
    "covers 90%",
    "states behind",  # log score of the best method minus the log score of this method, on the same groups
    "brier ahead",  # Brier score of the best method minus the Brier score of this method
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


class Corp(NamedTuple):
    """The isotonic curve of P(mixed).

    Attributes:
        predicted: Predicted probabilities, increasing.
        observed: Values of the curve there.
        miscalibration: The part of the Brier score that the curve would remove (MCB of the paper in `corp`).
        bins: The reliability by bin.
    """

    predicted: Float[np.ndarray, " g"]
    observed: Float[np.ndarray, " g"]
    miscalibration: float
    bins: Bins


class Sampled(NamedTuple):
    """How sure a mean gap between P(mixed) and the outcome is.

    Attributes:
        error: Its standard error, which counts all groups of one prompt as one observation; NaN for a single prompt.
        prompts: Number of distinct prompts.
    """

    error: float
    prompts: int


class Judged(NamedTuple):
    """The judgement of one method.

    Attributes:
        groups: Number of judged groups.
        numbers: The metrics of `NUMBERS` by name.
        by_part: The same metrics of the parts of `PARTS` that have groups, and the numbers of groups.
        curve: Isotonic curve and reliability of P(mixed).
        by_chance: The mean calibration error that right predictions would show, because groups are few.
        sampled: How sure the gaps of P(mixed) are: of all groups ("all"), of each part, and of each bin by its number.
    """

    groups: int
    numbers: dict[str, Number]
    by_part: dict[str, tuple[int, dict[str, Number]]]
    curve: Corp
    by_chance: float
    sampled: dict[str | int, Sampled]


def judged(rows: Rows, scores: Scored, best: Scored) -> Judged:
    """Return the judgement of one method's predictions for at least one group.

    Args:
        rows: The groups and their predictions.
        scores: The metrics of the groups.
        best: The metrics of the same groups under the best method, for the paired differences.
    """
    curve = corp(rows)
    columns = _columns(rows, scores, best, curve.bins)
    ids, prompt = numbered_again(rows.prompt_ids)
    part = parts_of(rows.visits)
    by_part = {
        name: (int((part == number).sum()), _numbers(columns[part == number], prompt[part == number], len(ids)))
        for number, name in enumerate(PARTS)
        if (part == number).any()
    }
    # the mean of |x| for a normal x of standard deviation 1 is sqrt(2 / pi)
    by_chance = float(np.sqrt(2 / np.pi) * (curve.bins.chance * curve.bins.groups).sum() / len(part))
    gaps, bins = columns[:, NUMBERS.index("excess")], probability_bins(rows.prediction.mixed)
    masks: dict[str | int, np.ndarray] = {"all": np.ones(len(part), bool)}
    masks |= {name: part == number for number, name in enumerate(PARTS)} | {k: bins == k for k in range(NUM_BINS)}
    surely = {name: sampled(gaps[mask], prompt[mask]) for name, mask in masks.items() if mask.any()}
    return Judged(len(part), _numbers(columns, prompt, len(ids)), by_part, curve, by_chance, surely)


def sampled(values: Float[np.ndarray, " m"], prompts: Int[np.ndarray, " m"]) -> Sampled:
    """Return how sure the mean of some values is, one per group of the given prompts."""
    number = int((np.bincount(prompts) > 0).sum())
    sums = np.bincount(prompts, values - values.mean())
    spread = float(np.sqrt((sums**2).sum() * number / (number - 1))) if number > 1 else float("nan")
    return Sampled(spread / len(values), number)


def _columns(rows: Rows, scores: Scored, best: Scored, bins: Bins) -> Float[np.ndarray, "m k"]:
    """Return the values of single groups whose means are the metrics of `NUMBERS`."""
    p, mixed = np.asarray(rows.prediction.mixed, np.float64), is_mixed(rows)
    # the calibration error is the sum over bins of |sum of (p - mixed)|; with each bin's sign it is a mean
    side = np.sign(np.nan_to_num(bins.predicted - bins.observed))[probability_bins(p)]
    columns = [scores.states, scores.brier, p, mixed, p - mixed, scores.covered[:, LEVELS.index(0.9)]]
    columns += [best.states - scores.states, best.brier - scores.brier, side * (p - mixed)]
    return np.stack(columns, axis=1)


def _numbers(columns: Float[np.ndarray, "m k"], prompt: Int[np.ndarray, " m"], prompts: int) -> dict[str, Number]:
    """Return the means of the columns; all groups of a prompt are one observation.

    One row per prompt, with the number of its groups as weight, gives `metrics.estimate` the same mean and the same
    standard error as all groups with the prompts as clusters, and it is quicker.
    """
    groups = np.bincount(prompt, minlength=prompts)
    sums = np.stack([np.bincount(prompt, column, prompts) for column in columns.T], axis=1)
    centre = columns.mean(axis=0)  # in float64; the small rest of the mean has no rounding in float32
    rest = _mean_with_error(sums / np.maximum(groups, 1)[:, None] - centre, groups)
    values, errors = (np.asarray(x, np.float64) for x in rest)
    return {name: Number(*map(float, pair)) for name, *pair in zip(NUMBERS, centre + values, errors, strict=True)}


@jax.jit
def _mean_with_error(columns: Float[Any, "m k"], weights: Int[Any, " m"]) -> metrics.Estimate:
    def mean(columns: Float[Array, "m k"], *, weights: Float[Array, " m"]) -> Float[Array, " k"]:
        return jnp.sum(weights[:, None] * columns, axis=0) / jnp.sum(weights)

    return metrics.estimate(mean, columns, weights=weights.astype(jnp.float32))


def best_of(scores: Mapping[str, Scored]) -> str:
    """Return the name of the method with the highest mean log score of solve states; NaN is below all others."""
    return max(scores, key=lambda name: float(np.nan_to_num(np.mean(scores[name].states), nan=-np.inf)))


def corp(rows: Rows) -> Corp:
    """Return the increasing curve nearest to the outcomes, and the reliability by bin.

    The curve is fitted to at most 64 groups of similar predictions. A curve without a choice of bins is the C of CORP
    ("Stable reliability diagrams for probabilistic classifiers", Dimitriadis, Gneiting and Jordan 2021).
    """
    return corp_of(counted(rows))


def counted(rows: Rows) -> Float[np.ndarray, "4 fine"]:
    """Return sums over groups of similar P(mixed): 1, P(mixed), whether mixed, and the variance of the latter.

    Sums of several parts of a run add up, and `corp_of` needs no more than the sums.
    """
    p, mixed = np.asarray(rows.prediction.mixed, np.float64), is_mixed(rows)
    fine = np.clip((p * _FINE).astype(int), 0, _FINE - 1)
    return np.stack([np.bincount(fine, values, _FINE) for values in (np.ones_like(p), p, mixed, p * (1 - p))])


def corp_of(sums: Float[np.ndarray, "4 fine"]) -> Corp:
    """Return what `corp` returns, from the sums that `counted` returns."""
    size, predicted, observed, variance = sums
    some = np.maximum(size, 1)
    rank = (np.cumsum(size) - size / 2) / max(size.sum(), 1)
    group = np.clip((rank * _GROUPS).astype(int), 0, _GROUPS - 1)  # groups of about equal size
    sizes, said, happened = (np.bincount(group, values, _GROUPS) for values in (size, predicted, observed))
    means: list[Any] = [sizes, said / np.maximum(sizes, 1), happened / np.maximum(sizes, 1)]
    found = _isotonic(Groups(*means), predicted / some, observed / some, size)
    table, curve, gain = jax.tree.map(np.asarray, found)
    chance = np.sqrt(np.bincount(probability_bins(predicted / some), variance, NUM_BINS))
    groups, rate, share = (np.asarray(x, np.float64) for x in (table.size, table.prediction, table.outcome))
    bins = Bins(groups, rate, share, chance / np.maximum(groups, 1))
    return Corp(means[1][sizes > 0], curve[sizes > 0], float(gain), bins)


@jax.jit
def _isotonic(
    groups: Groups, mixed: Float[Any, " m"], outcome: Float[Any, " m"], weights: Float[Any, " m"]
) -> tuple[metrics.Reliability, Any, Any]:
    table = metrics.reliability(mixed, outcome, num_bins=NUM_BINS, weights=weights)
    increasing = isotonic(groups)
    before, after = (metrics.brier_score(p, outcome, weights=weights) for p in (mixed, increasing(mixed)))
    return table, increasing(groups.predicted), before - after
