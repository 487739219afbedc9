"""How good predicted solve states were: none, some or all rollouts of a group correct. Part of `jaxsel.metrics`."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsel._visits import solve_states
from jaxsel.base import Prediction
from jaxsel.numerics.weighted import AnyArray, Weights, bin_sums, counted, mean, ratio


def solve_state_accuracy(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> Float[Array, ""]:
    """How often the likeliest predicted solve state is the observed one, where n > 0 (DPS, arXiv 2603.10887)."""
    counts = confusion_matrix(prediction, successes, group_size, weights=weights)
    return ratio(jnp.trace(counts), jnp.sum(counts))


def solve_state_log_score(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> Float[Array, ""]:
    """The mean log probability of the observed solve state, in nats, where n > 0: higher is better."""
    columns = {"unsolved": prediction.unsolved, "mixed": prediction.mixed, "solved": prediction.solved}
    w, s, n, *states = counted(weights, successes=successes, group_size=group_size, **columns)
    w = jnp.where(n > 0, w, 0)
    return mean(jnp.where(w > 0, log_prob(jnp.stack(states), s, n), 0), w)


def log_prob(
    states: Float[Array, "3 m"], successes: Int[Array, " m"], group_size: Int[Array, " m"]
) -> Float[Array, " m"]:
    """Of the observed solve state, given the probability of each."""
    return jnp.log(jnp.take_along_axis(states, solve_states(successes, group_size)[None], axis=0)[0])


def confusion_matrix(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> Float[Array, "3 3"]:
    """How many groups with n > 0 were in each solve state (rows), by the likeliest predicted one (columns)."""
    columns = {"unsolved": prediction.unsolved, "mixed": prediction.mixed, "solved": prediction.solved}
    w, s, n, *states = counted(weights, successes=successes, group_size=group_size, **columns)
    cell = 3 * solve_states(s, n) + jnp.argmax(jnp.stack(states), axis=0)
    return bin_sums(jnp.where(n > 0, w, 0), cell, 9).reshape(3, 3)


class F1(NamedTuple):
    """The harmonic mean of precision and recall.

    Attributes:
        states: of each solve state, in the order UNSOLVED, MIXED, SOLVED; NaN where it was neither predicted nor seen.
        macro: the mean of those that are not NaN.
    """

    states: Float[Array, "3"]
    macro: Float[Array, ""]


def solve_state_f1(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> F1:
    """F1 of the likeliest predicted solve state, where n > 0 (DPS, arXiv 2603.10887)."""
    counts = confusion_matrix(prediction, successes, group_size, weights=weights)
    either = counts.sum(axis=0) + counts.sum(axis=1)
    states = ratio(2 * jnp.diagonal(counts), either)
    some = either > 0
    return F1(states, ratio(jnp.sum(jnp.where(some, states, 0)), jnp.sum(some).astype(jnp.float32)))
