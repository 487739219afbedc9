"""Metrics of predicted solve states: whether none, some or all of the n judged rollouts of a group are correct."""

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
    """Return the share of groups (n > 0) whose solve state is the likeliest predicted one (DPS, arXiv 2603.10887)."""
    counts = confusion_matrix(prediction, successes, group_size, weights=weights)
    return ratio(jnp.trace(counts), jnp.sum(counts))


def solve_state_log_score(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> Float[Array, ""]:
    """Return the mean log probability of the observed solve state, in nats, for n > 0. Higher is better."""
    columns = {"unsolved": prediction.unsolved, "mixed": prediction.mixed, "solved": prediction.solved}
    w, s, n, *states = counted(weights, successes=successes, group_size=group_size, **columns)
    w = jnp.where(n > 0, w, 0)
    return mean(jnp.where(w > 0, log_prob(jnp.stack(states), s, n), 0), w)


def log_prob(
    states: Float[Array, "3 m"], successes: Int[Array, " m"], group_size: Int[Array, " m"]
) -> Float[Array, " m"]:
    """Return the log probability of the observed solve state, given the probability of each state."""
    return jnp.log(jnp.take_along_axis(states, solve_states(successes, group_size)[None], axis=0)[0])


def confusion_matrix(
    prediction: Prediction,
    successes: Int[AnyArray, " m"],
    group_size: Int[AnyArray, " m"],
    *,
    weights: Weights = None,
) -> Float[Array, "3 3"]:
    """Return the number of groups (n > 0) by observed solve state (rows) and likeliest predicted state (columns)."""
    columns = {"unsolved": prediction.unsolved, "mixed": prediction.mixed, "solved": prediction.solved}
    w, s, n, *states = counted(weights, successes=successes, group_size=group_size, **columns)
    cell = 3 * solve_states(s, n) + jnp.argmax(jnp.stack(states), axis=0)
    return bin_sums(jnp.where(n > 0, w, 0), cell, 9).reshape(3, 3)


class F1(NamedTuple):
    """F1 scores, the harmonic means of precision and recall.

    Attributes:
        states: F1 of UNSOLVED, MIXED and SOLVED. It is NaN for a state that was neither predicted nor observed.
        macro: Mean of the entries of `states` that are not NaN.
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
    """Return the F1 scores of the likeliest predicted solve states, for n > 0 (DPS, arXiv 2603.10887)."""
    counts = confusion_matrix(prediction, successes, group_size, weights=weights)
    either = counts.sum(axis=0) + counts.sum(axis=1)
    states = ratio(2 * jnp.diagonal(counts), either)
    some = either > 0
    return F1(states, ratio(jnp.sum(jnp.where(some, states, 0)), jnp.sum(some).astype(states.dtype)))
