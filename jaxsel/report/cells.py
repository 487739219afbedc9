"""Groups in cells: what a report shows of millions of groups are the sums of a few thousand cells.

A cell holds the groups of one method and one kind of outcome whose predicted P(mixed), step and number of earlier
visits are alike, and perhaps the mean and the standard deviation of their predicted success rate. All metrics of a
report are means over groups, so that a page can select cells and add them up.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Key

from jaxsel import metrics
from jaxsel.base import Prediction
from jaxsel.report.rows import Rows, is_mixed, mixed_groups

NUM_BINS = 10
"""Number of bins of the predicted probability of a mixed group, and of the probability integral transform."""
DEVIATION_BINS, _DEVIATION = 5, 0.1
"""Number of bins of the standard deviation of a predicted success rate, and their width. It is 0.5 at most."""
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PARTS = {
    "unseen": "never visited before",
    "visits 1": "visited once before",
    "visits 2-4": "visited 2 to 4 times before",
    "visits 5+": "visited 5 times or more before",
}
"""Plain names of the parts by visits that `metrics.slices` returns."""
SCORES = ("states", "counts", "brier", "error")
_KEYS = ("step", "part", "bin", "rate_bin", "deviation_bin")  # what the groups of a cell have in common
_MOST_STEPS = 24  # bins of the step
_LOWEST = float(np.log(1e-9))  # log scores are cut here, so that one outcome held impossible does not hide all others
_CHUNK = 2**15  # rows at a time, so that any number of rows compiles once


class Scored(NamedTuple):
    """The metrics of single groups.

    Attributes:
        states: Log score of the solve state, in nats.
        counts: Log score of the number of successes, in nats.
        brier: Brier score of P(mixed).
        error: Absolute error of the predicted success rate.
        pit: Randomised probability integral transform.
        covered: The part of each group that lies in the central interval of each of `LEVELS`.
    """

    states: Float[Any, " m"]
    counts: Float[Any, " m"]
    brier: Float[Any, " m"]
    error: Float[Any, " m"]
    pit: Float[Any, " m"]
    covered: Float[Any, "m levels"]


@jax.jit
def _scored(key: Key[Any, ""], prediction: Prediction, successes: Int[Any, " m"], group_size: Int[Any, " m"]) -> Scored:
    def of_one(p: Prediction, s: Int[Any, ""], n: Int[Any, ""]) -> tuple[Any, ...]:
        p, s, n = jax.tree.map(lambda value: value[None], (p, s, n))
        return (
            metrics.solve_state_log_score(p, s, n),
            metrics.beta_binomial_log_score(p, s, n),
            metrics.brier_score(p.mixed, mixed_groups(s, n)),
            metrics.mean_absolute_error(p.success_rate, s / n),
            metrics.success_coverage(p, s, n, LEVELS),
        )

    states, counts, brier, error, covered = jax.vmap(of_one)(prediction, successes, group_size)
    pit = metrics.randomised_pit(key, prediction, successes, group_size)
    return Scored(states, counts, brier, error, pit, covered)


def scored(rows: Rows, *, seed: int = 0) -> Scored:
    """Return the metrics of every group: each is the metric of `jaxsel.metrics` over one group alone.

    An outcome to which the method gave a probability below 1e-9 has the log score of 1e-9.

    Args:
        rows: The groups and their predictions.
        seed: Seed of the randomised PIT. Parts of a history that are scored one by one need a seed each.
    """
    columns = (rows.prediction, rows.successes.astype(np.int32), rows.group_size.astype(np.int32))
    key, parts = jax.random.key(seed), []
    for number, start in enumerate(range(0, max(len(rows.step), 1), _CHUNK)):
        chunk = jax.tree.map(lambda column, at=start: _padded(column[at : at + _CHUNK]), columns)
        parts.append(jax.tree.map(np.asarray, _scored(jax.random.fold_in(key, number), *chunk)))
    found = jax.tree.map(lambda *values: np.concatenate(values)[: len(rows.step)], *parts)
    return found._replace(states=np.maximum(found.states, _LOWEST), counts=np.maximum(found.counts, _LOWEST))


def _padded(column: np.ndarray) -> np.ndarray:
    """Return the column with ones up to the length of a chunk; a group with one success of one rollout is possible."""
    return np.concatenate([column, np.ones(_CHUNK - len(column), column.dtype)])


def probability_bins(mixed: Float[Any, " m"]) -> Int[np.ndarray, " m"]:
    """Return the bin of each probability, the same bins of equal width as in `metrics.reliability`."""
    return np.clip((np.asarray(mixed, np.float32) * NUM_BINS).astype(np.int32), 0, NUM_BINS - 1)


def deviation_bins(variance: Float[Any, " m"]) -> Int[np.ndarray, " m"]:
    """Return the bin of the standard deviation of each predicted success rate, from its variance."""
    deviation = np.sqrt(np.maximum(np.asarray(variance, np.float64), 0))
    return np.clip((deviation / _DEVIATION).astype(np.int32), 0, DEVIATION_BINS - 1)


def belief_bins(prediction: Prediction) -> dict[str, Int[np.ndarray, " m"]]:
    """Return the place of each prediction on the map of beliefs, in bins: `rate_bin` and `deviation_bin`."""
    rates = probability_bins(prediction.success_rate)
    return {"rate_bin": rates, "deviation_bin": deviation_bins(prediction.variance)}


def parts_of(visits: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Return the position in `PARTS` of each number of earlier visits."""
    part = _parts_of_few()
    return part[np.minimum(visits, len(part) - 1)]


@functools.cache
def _parts_of_few() -> Int[np.ndarray, " k"]:
    """Return the part of 0, 1, 2, ... visits; all larger numbers are in the part of the last."""
    few = np.arange(8)
    masks = jax.jit(metrics.slices)(few, few, 0)  # one compilation; without jit, each of its operations has one
    return np.argmax([np.asarray(masks[name]) for name in PARTS], axis=0)


def step_bins(steps: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Return a step in the middle of each step's bin. Few distinct steps, for example of probes, are not binned."""
    distinct = np.flatnonzero(np.bincount(steps))
    if len(distinct) <= _MOST_STEPS:
        return steps
    edges = np.linspace(distinct[0], distinct[-1] + 1, _MOST_STEPS + 1)
    bins = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, _MOST_STEPS - 1)
    return ((edges[:-1] + edges[1:]) / 2).astype(int)[bins]


def numbered_again(numbers: Int[np.ndarray, " m"]) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " m"]]:
    """Return the distinct numbers and each number's position among them, as `np.unique` does, but without sorting.

    The numbers are at least 0, and the largest is not much larger than there are numbers.
    """
    there = np.bincount(numbers) > 0
    return np.flatnonzero(there), (np.cumsum(there) - 1)[numbers]


def cells(
    rows: Rows, scores: Scored, step: Int[np.ndarray, " m"] | None = None, *, by_belief: bool = False
) -> dict[str, np.ndarray]:
    """Return the sums of every cell as columns by name.

    The columns are `bin` (of P(mixed)), `step`, `part` (position in `PARTS`), with `by_belief` also the columns of
    `belief_bins`, `groups` (their number), the sums `predicted` (of P(mixed)), `mixed` (groups that were mixed),
    `chance` (the variance of that number if the predictions are right), the sums of `SCORES` and of their squares
    (`states2`, `counts2`, ...), the histogram `pit0`, `pit1`, ..., and the coverage `cover0`, `cover1`, ....

    Args:
        rows: The groups and their predictions.
        scores: The metrics of the groups.
        step: Each group's step or bin of the step, which its cell has as `step`. None: `step_bins` of the steps.
        by_belief: Whether the groups of a cell have similar means and standard deviations of the success rate, too.
    """
    steps, place = numbered_again(step_bins(rows.step) if step is None else step)
    keys = {"step": place, "part": parts_of(rows.visits), "bin": probability_bins(rows.prediction.mixed)}
    if by_belief:
        keys |= belief_bins(rows.prediction)
    sizes = [int(values.max(initial=0)) + 1 for values in keys.values()]
    distinct, cell = numbered_again(np.ravel_multi_index(list(keys.values()), sizes))
    at = dict(zip(keys, np.unravel_index(distinct, sizes), strict=True))

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(cell, np.asarray(values, np.float64), len(distinct))

    p = np.asarray(rows.prediction.mixed, np.float64)
    pit = np.clip((scores.pit * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    return {
        **at,
        "step": steps[at["step"]],
        "groups": np.bincount(cell, minlength=len(distinct)),
        "predicted": summed(p),
        "mixed": summed(is_mixed(rows)),
        "chance": summed(p * (1 - p)),
        **{name: summed(getattr(scores, name)) for name in SCORES},
        **{f"{name}2": summed(np.asarray(getattr(scores, name), np.float64) ** 2) for name in SCORES},
        **{f"pit{k}": summed(pit == k) for k in range(NUM_BINS)},
        **{f"cover{k}": summed(scores.covered[:, k]) for k in range(len(LEVELS))},
    }


def merged(tables: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the cells of all tables as one table, where cells with the same bins, part and step are one cell."""
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    names = [name for name in _KEYS if name in joined]
    keys, cell = np.unique(np.stack([joined[name] for name in names]), axis=1, return_inverse=True)
    sums = {
        name: np.bincount(cell.ravel(), column, keys.shape[1]) for name, column in joined.items() if name not in names
    }
    return dict(zip(names, keys, strict=True)) | sums
