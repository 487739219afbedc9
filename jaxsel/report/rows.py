"""Predictions next to their outcomes, one row per judged group: of the batches of a run, and of its probes.

A group is one prompt's rollouts in one step. A probe is a set of fresh rollouts from which no method learns.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxsel.base import Prediction, Selector
from jaxsel.evaluation.replay import History, earlier_visits, replay
from jaxsel.numerics.beta_binomial import log_prob, spread_of
from jaxsel.predictors.recalibration import group_size_of


class Rows(NamedTuple):
    """Predictions and outcomes, one row per judged group.

    Attributes:
        prediction: Predictions, with fields of shape `[m]`.
        step: Step before which each row was predicted.
        prompt_ids: Rows of the pool.
        successes: Numbers of successes s.
        group_size: Numbers of rollouts n, at least 1.
        visits: Numbers of earlier visits to the prompt.
        waiting: Steps since the last visit; -1 without an earlier visit.
    """

    prediction: Prediction
    step: Int[np.ndarray, " m"]
    prompt_ids: Int[np.ndarray, " m"]
    successes: Int[np.ndarray, " m"]
    group_size: Int[np.ndarray, " m"]
    visits: Int[np.ndarray, " m"]
    waiting: Int[np.ndarray, " m"]

    def taken(self, rows: Bool[np.ndarray, " m"] | Int[np.ndarray, " k"]) -> "Rows":
        """Return the rows of a mask, or at the given positions."""
        return jax.tree.map(lambda column: column[rows], self)


class Replayed(NamedTuple):
    """A method's predictions in a history.

    Attributes:
        ahead: Every batch, predicted before it was observed.
        probes: Every probe.
        pools: Predictions of the whole pool by step, each made before the step is observed.
    """

    ahead: Rows
    probes: Rows
    pools: dict[int, Prediction]


def replayed(
    history: History,
    probes: Mapping[str, np.ndarray],
    selector: Selector,
    *,
    num_prompts: int,
    seed: int = 0,
    pool_steps: Sequence[int] = (),
) -> Replayed:
    """Return the method's predictions in a history, which it observes batch by batch.

    Args:
        history: The batches.
        probes: Columns `clock`, `prompt_id`, `successes` and `group_size` of the probes, as in
            `jaxsel.integrations.history`.
        selector: The method. Its acquisition and its rule are not used.
        num_prompts: Number of prompts in the pool.
        seed: Seed of the `PromptSelector`.
        pool_steps: More steps before which the whole pool is predicted, for `pools`.
    """
    clocks = clocks_of(history, probes)
    steps = sorted({*np.unique(clocks).tolist(), *pool_steps})
    found = replay(history, selector, num_prompts=num_prompts, seed=seed, probe_steps=steps)
    ahead = Rows(found.prediction, *history, found.visits, found.waiting)
    parts = [_probed(history, probes, clocks, found.probes[clock], clock) for clock in np.unique(clocks).tolist()]
    empty = Rows(jax.tree.map(lambda field: field[:0], found.prediction), *[np.zeros(0, np.int32)] * 6)
    return Replayed(ahead, concatenated(parts or [empty]), found.probes)


def clocks_of(history: History, columns: Mapping[str, np.ndarray]) -> Int[np.ndarray, " q"]:
    """Return the step of every recorded row, of a probe or of a batch, at most the end of the history.

    The last batches may have no judged rollouts; then a probe after them has a clock beyond the end.
    """
    return np.minimum(columns["clock"], history.num_steps)


def _probed(
    history: History, probes: Mapping[str, np.ndarray], clocks: Int[np.ndarray, " q"], pool: Prediction, clock: int
) -> Rows:
    rows = (clocks == clock) & (probes["group_size"] > 0)
    ids, s, n = (probes[name][rows] for name in ("prompt_id", "successes", "group_size"))
    prediction = jax.tree.map(lambda field: np.asarray(field)[ids], pool)
    step = np.full(len(ids), clock)
    return Rows(prediction, step, ids, s, n, *earlier_visits(history, ids, step))


def known_size(spec: Mapping[str, Any]) -> int | None:
    """Return the number of rollouts for which a method predicts, from its spec; None where the spec does not say."""
    size = group_size_of(dict(spec))
    return size if isinstance(size, int) and size > 0 else None


def at_own_sizes(rows: Rows, group_size: int | None) -> Rows:
    """Return the rows with the probabilities of each solve state at the group's own number of rollouts.

    A method predicts them for groups of one size. For groups of another size they are those of the Beta-Binomial with
    the predicted mean and variance of the success rate, as in `jaxsel.metrics.beta_binomial_log_score`.

    Args:
        rows: The groups and their predictions.
        group_size: The number of rollouts for which the method predicts. None: it is unknown, and nothing changes.
    """
    at = np.flatnonzero(rows.group_size != group_size)
    if group_size is None or not len(at):
        return rows
    padded = np.resize(at, 1 << (len(at) - 1).bit_length())  # few lengths, because each one compiles anew
    n = rows.group_size[padded].astype(np.int32)
    mean, variance = (jnp.asarray(field[padded], jnp.float32) for field in rows.prediction[:2])
    spread = spread_of(mean, variance)
    unsolved, solved = (
        np.exp(np.asarray(log_prob(jnp.asarray(count), jnp.asarray(n), mean, spread), np.float64))[: len(at)]
        for count in (np.zeros_like(n), n)
    )
    mixed = np.where(rows.group_size[at] == 1, 0, np.maximum(1 - unsolved - solved, 0))
    made = {}
    for name, values in (("unsolved", unsolved), ("mixed", mixed), ("solved", solved)):
        made[name] = np.array(getattr(rows.prediction, name))
        made[name][at] = values
    return rows._replace(prediction=rows.prediction._replace(**made))


def concatenated(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, one part after the other."""
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)


def is_mixed(rows: Rows) -> Bool[np.ndarray, " m"]:
    """Return whether each group has both right and wrong answers."""
    return mixed_groups(rows.successes, rows.group_size)


def mixed_groups(successes: Int[Any, " m"], group_size: Int[Any, " m"]) -> Bool[Any, " m"]:
    """Return whether each group has both right and wrong answers, from its counts as NumPy or JAX arrays."""
    return (successes > 0) & (successes < group_size)
