"""The predictions that a method would have made in a history, and their scores: one step ahead, and on probes.

A history is a recorded run. A visit is one prompt's rollouts in one training step. A probe is a set of fresh rollouts
between steps, from which no method learns.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from jaxsel import Prediction, metrics
from jaxsel.integrations.history import Recorded
from jaxsel.predictors.recalibration import MAPS, Pairs, grouped, no_pairs, with_mixed, with_pairs
from jaxsel.report.rows import Replayed, Rows, is_mixed, mixed_groups
from jaxsel.report.rows import replayed as rows_of

WINDOW = 4096  # the last pairs of prediction and outcome, which fit a recalibration; `jaxsel.recalibrated`'s default
LEVELS = (0.5, 0.8, 0.9, 0.95)


def replayed(recorded: Recorded, predictor: jaxsel.Predictor) -> Replayed:
    """Return the predictor's predictions in the history, which it observes batch by batch."""
    selector = jaxsel.make_selector(predictor, jaxsel.thompson(), jaxsel.top_k())  # acquisition and rule are not used
    return rows_of(recorded.history, recorded.probes, selector, num_prompts=recorded.num_prompts)


@partial(jax.jit, static_argnums=0)
def _corrected(method: str, pairs: Pairs, mixed: jax.Array) -> jax.Array:
    return MAPS[method](grouped(pairs))(mixed)


_with_pairs = jax.jit(with_pairs)


def judged(seen: Replayed) -> Rows:
    """Return the rows to score: the probes, or the batches one step ahead in a history without probes."""
    return seen.probes if len(seen.probes.step) else seen.ahead


def recalibrated(seen: Replayed, *, method: str = "isotonic", on: str = "batches") -> Rows:
    """Return the rows of `judged` with the P(mixed) that `jaxsel.recalibrated` would have predicted.

    Args:
        seen: Predictions of the method in the history.
        method: Map from predicted to corrected P(mixed), "isotonic" or "beta".
        on: Outcomes that the map is fitted on: earlier "batches", which cost nothing, or earlier "probes", which cost
            extra rollouts.
    """
    source, target = seen.ahead if on == "batches" else seen.probes, judged(seen)
    pairs, step, corrected = no_pairs(WINDOW), 0, target.prediction.mixed.copy()
    for clock in np.unique(target.step):
        while step < clock:
            rows = source.step == step
            if rows.any():
                mixed = is_mixed(source)[rows].astype(np.float32)
                can_be_mixed = source.group_size[rows] > 1  # as in `jaxsel.recalibrated`
                pairs = _with_pairs(pairs, source.prediction.mixed[rows], mixed, can_be_mixed)
            step += 1
        rows = target.step == clock
        corrected[rows] = np.asarray(_corrected(method, pairs, target.prediction.mixed[rows]))
    prediction = jax.tree.map(np.asarray, with_mixed(target.prediction, jnp.asarray(corrected)))
    return target._replace(prediction=prediction)


def _rate(prediction: Prediction) -> Any:
    return prediction.success_rate


_METRICS: dict[str, Callable[..., Any]] = {
    "spearman": lambda p, s, n, u, **w: metrics.spearman(_rate(p), s / n, **w),
    "error": lambda p, s, n, u, **w: metrics.mean_absolute_error(_rate(p), s / n, **w),
    "log score": lambda p, s, n, u, **w: metrics.beta_binomial_log_score(p, s, n, **w),
    "state log score": lambda p, s, n, u, **w: metrics.solve_state_log_score(p, s, n, **w),
    "state F1": lambda p, s, n, u, **w: metrics.solve_state_f1(p, s, n, **w).macro,
    "Brier": lambda p, s, n, u, **w: metrics.brier_score(p.mixed, mixed_groups(s, n), **w),
    "calibration error": lambda p, s, n, u, **w: metrics.expected_calibration_error(p.mixed, mixed_groups(s, n), **w),
    "90% covers": lambda p, s, n, u, **w: metrics.success_coverage(p, s, n, (0.9,), **w)[0],
    "PIT distance": lambda p, s, n, u, **w: metrics.uniformity(u, **w).distance,
    "mixed, excess": lambda p, s, n, u, **w: metrics.mixed_shares(p, s, n, **w).excess,
}
"""Metrics of a prediction p, the successes s, the group sizes n and u, the probability integral transform (PIT)."""


@jax.jit
def _estimated(rows: Rows, weights: jax.Array) -> dict[str, metrics.Estimate]:
    pit = metrics.randomised_pit(jax.random.key(0), rows.prediction, rows.successes, rows.group_size)
    arrays = (rows.prediction, rows.successes, rows.group_size, pit)
    return {
        name: metrics.estimate(metric, *arrays, weights=weights, clusters=rows.prompt_ids)
        for name, metric in _METRICS.items()
    }


def scores(rows: Rows, part: np.ndarray | None = None) -> dict[str, dict[str, float]]:
    """Return every metric of the rows with its standard error, which is clustered by prompt.

    Args:
        rows: Predictions and outcomes.
        part: Mask of the rows that count; None: all rows.
    """
    weights = np.ones(len(rows.step)) if part is None else np.asarray(part, float)
    found = _estimated(rows, jnp.asarray(weights, jnp.float32))
    return {
        name: {"mean": float(estimate.value), "standard_error": float(estimate.standard_error)}
        for name, estimate in found.items()
    }


_ceiling = jax.jit(metrics.spearman_ceiling)


def ceiling(rows: Rows) -> float:
    """Return the rank correlation with s / n that the true success rates would reach."""
    return float(_ceiling(jax.random.key(0), rows.successes, rows.group_size))


@partial(jax.jit, static_argnums=2)
def _gained(one: Rows, other: Rows, score: str) -> metrics.Estimate:
    of = {"counts": metrics.beta_binomial_log_score, "states": metrics.solve_state_log_score}[score]

    def difference(first: Any, second: Any, s: Any, n: Any, *, weights: Any) -> jax.Array:
        return of(first, s, n, weights=weights) - of(second, s, n, weights=weights)

    arrays = (one.prediction, other.prediction, one.successes, one.group_size)
    return metrics.estimate(difference, *arrays, clusters=one.prompt_ids)


def gain(one: Rows, other: Rows, score: str) -> dict[str, float]:
    """Return the mean log score of `one` less the mean log score of `other` on the same rows.

    Args:
        one: Rows with the predictions of one method.
        other: The same rows with the predictions of another method.
        score: "counts" for the Beta-Binomial log score, or "states" for the log score of solve states.
    """
    found = _gained(one, other, score)
    return {"mean": float(found.value), "standard_error": float(found.standard_error)}


def parts_of(rows: Rows) -> dict[str, np.ndarray]:
    """Return masks of the rows by number of visits and steps since the last visit, as `metrics.slices` names them."""
    found = metrics.slices(rows.visits, -rows.waiting, 0)
    return {name: np.asarray(part) for name, part in found.items()}
