"""One step of the state-space filter, and the predictive distribution of the logits of success rates.

The docstring of the module `predictor` gives the formulas. The letters here: phi are a prompt's features, w the weights
that all prompts share, and d the drift of w since training began. A prompt has s of n rollouts correct.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxsel._visits import merge_visits
from jaxsel.base import Rollouts
from jaxsel.numerics.compaction import count_true
from jaxsel.predictors.state_space.features import Forms, linear_forms
from jaxsel.predictors.state_space.frozen import evidence
from jaxsel.predictors.state_space.moments import LARGEST_VARIANCE, Posterior, posterior
from jaxsel.predictors.state_space.settings import Learning, learned
from jaxsel.predictors.state_space.state import StateSpaceState, given_weights
from jaxsel.predictors.state_space.weights import Weights, shrunk, updated

_FREEDOM = 5.0  # degrees of freedom of the Student t distribution
_SMALLEST = 1e-4  # smallest variance of a logit
_ANCHOR = 0.1  # a larger share would carry more of what one kind of prompts learns to all other kinds


def logits(
    state: StateSpaceState, prompt_ids: Int[Array, " m"] | None, *, alike: bool = False
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Return the predictive mean and variance of the given prompts' logits; None means the whole pool.

    With `alike`, the features give all prompts the same variance, see `linear_forms`.
    """
    rows = slice(None) if prompt_ids is None else prompt_ids
    weights, root = state.weights, state.weights.root
    given = given_weights(state, state.learning.settings, rows)
    forms = shared_part(state, prompt_ids, alike=alike)
    mean = forms.drift + given.mean + given.slope * (forms.mean - given.reference)
    # The logit moves with phi . (slope w + d) = phi . (slope (w + d) + (1 - slope) d). The second part is small: all
    # prompts get its mean variance over standardised features, and its covariance with the first part is left out.
    of_drift = (root[len(weights.initial) :] ** 2).sum()
    shared = given.slope**2 * forms.variance + (1 - given.slope) ** 2 * of_drift
    return mean, jnp.clip(given.variance + shared, _SMALLEST, LARGEST_VARIANCE)


def shared_part(state: StateSpaceState, prompt_ids: Int[Array, " m"] | None, *, alike: bool = False) -> Forms:
    """Return the part of the logits that the weights determine, for the given prompts or for the whole pool."""
    rows, weights = slice(None) if prompt_ids is None else prompt_ids, state.weights
    if state.embeddings is not None and state.scaling is not None:
        return linear_forms(state.embeddings[rows], state.scaling, weights, alike=alike)
    constant = weights.initial[0], weights.drift[0], ((weights.root[0] + weights.root[1]) ** 2).sum()
    return Forms(*(jnp.broadcast_to(value, state.mean[rows].shape) for value in constant))


class Sites(NamedTuple):
    """The Gaussian that replaces each visited prompt's likelihood.

    Attributes:
        precision: Precision of the Gaussian.
        weighted_residual: The precision times the distance of the Gaussian's mean from the predicted mean.
    """

    precision: Float[Array, " b"]
    weighted_residual: Float[Array, " b"]


def filtered(state: StateSpaceState, rollouts: Rollouts) -> StateSpaceState:
    """Return the state after the batch of one step. An empty batch changes nothing, the step counter included."""
    return after_visits(state, merge_visits(rollouts, len(state.mean)))


def after_visits(state: StateSpaceState, visits: Rollouts) -> StateSpaceState:
    """Return the state after a batch with distinct prompts, as `merge_visits` returns it. Counts may be fractions."""
    num_prompts = len(state.mean)
    rows = jnp.minimum(visits.prompt_ids, num_prompts - 1)
    is_visit = visits.group_size > 0
    if state.embeddings is None or state.scaling is None:
        features = jnp.ones((len(rows), 1), jnp.float32)
    else:
        features = state.scaling(state.embeddings[rows])

    def put(column: Float[Array, " N"] | Int[Array, " N"], values: Array) -> Array:
        return column.at[visits.prompt_ids].set(values, mode="drop")  # rows without a visit have ids outside the pool

    given = given_weights(state, state.learning.settings, rows)
    shared, drift = features @ state.weights.initial, features @ state.weights.drift
    mean = drift + given.mean + given.slope * (shared - given.reference)
    design = jnp.concatenate([given.slope[:, None] * features, features], 1)
    doubt = ((design @ state.weights.root) ** 2).sum(1)
    total = jnp.clip(given.variance + doubt, _SMALLEST, LARGEST_VARIANCE)
    alone = posterior(mean, total, visits.successes, visits.group_size)
    jacobian, scores, frozen = _jacobian(state, rows, alone, total), alone.log_evidence, state.frozen
    if frozen is not None:
        found = evidence(state, frozen, rows, mean, total, alone.log_evidence, visits)
        jacobian = found.free[:, None] * jacobian + found.jacobian
        scores, frozen = found.log_probability, put(frozen, found.seen)
    learning = learned(state.learning, jnp.where(is_visit[:, None], jacobian, 0))
    scores = jnp.where(is_visit, scores, 0)

    variance = given.variance * _inflation(alone, total)
    sites = _sites(mean, jnp.clip(variance + doubt, _SMALLEST, LARGEST_VARIANCE), visits)
    noise = 1 / (1 + variance * sites.precision)
    weights, change = updated(state.weights, design, sites.precision * noise, sites.weighted_residual * noise)
    moved = design @ change
    mean = mean + moved + variance * noise * (sites.weighted_residual - sites.precision * moved)
    weights, own = _anchored(shrunk(weights), state, rows, features, mean, is_visit)
    n = jnp.maximum(visits.group_size, 1).astype(jnp.float32)
    s = visits.successes.astype(jnp.float32)

    some = is_visit.any()
    step = state.step + some.astype(jnp.int32)
    advanced = weights._replace(mean=weights.mean.at[-1].add(learning.settings.progress))
    new = advanced, learning, scores.sum() / jnp.maximum(is_visit.sum(dtype=jnp.float32), 1)
    old = state.weights, state.learning, state.log_score
    new = jax.tree.map(lambda after, before: jnp.where(some, after, before), new, old)

    return StateSpaceState(
        state.embeddings,
        state.scaling,
        new[0],
        put(state.mean, own),
        put(state.reference, features @ weights.initial),
        put(state.variance, variance * noise),
        put(state.lesson, 4 * s * (n - s) / n**2),
        put(state.last_step, step),
        step,
        new[1],
        new[2],
        frozen,
    )


def _sites(mean: Float[Array, " b"], total: Float[Array, " b"], visits: Rollouts) -> Sites:
    alone = posterior(mean, total, visits.successes, visits.group_size)
    is_visit = visits.group_size > 0
    precision = jnp.where(is_visit, jnp.maximum(1 / alone.variance - 1 / total, 0), 0)
    return Sites(precision, jnp.where(is_visit, alone.shift / alone.variance, 0))


def _anchored(
    weights: Weights,
    state: StateSpaceState,
    rows: Int[Array, " b"],
    features: Float[Array, "b f"],
    mean: Float[Array, " b"],
    is_visit: Bool[Array, " b"],
) -> tuple[Weights, Float[Array, " b"]]:
    """Return the weights with their level moved towards what the visited prompts have in common.

    The second result is every prompt's logit minus phi . d, given its new mean.
    """
    again = is_visit & (state.last_step[rows] > 0)
    visited, returns, first = (
        count_true(kind).astype(jnp.float32) for kind in (state.last_step > 0, again, is_visit & ~again)
    )
    step = _ANCHOR * returns / jnp.maximum(visited, 1) * weights.in_common
    weights = weights._replace(mean=weights.mean.at[-1].add(step))
    own = mean - features @ weights.drift
    total = visited * weights.in_common + jnp.where(again, own - state.mean[rows], 0).sum()
    return weights._replace(in_common=total / jnp.maximum(visited + first, 1)), own


def _inflation(alone: Posterior, total: Float[Array, " b"]) -> Float[Array, " b"]:
    """Return the factor by which a Student t distribution widens an outlier's variance; it is 1 for other prompts."""
    surprise = (alone.shift**2 + alone.variance) / total
    return jnp.maximum((_FREEDOM + surprise) / (_FREEDOM + 1), 1)


def _jacobian(
    state: StateSpaceState,
    rows: Int[Array, " b"],
    alone: Posterior,
    total: Float[Array, " b"],
) -> Float[Array, "b k"]:
    """Return the derivatives of the log probability of every prompt's rollouts, if none is frozen, by the settings."""

    def predicted(theta: Float[Array, " k"]) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        settings = Learning(theta, state.learning.information).settings
        given = given_weights(state, settings, rows)
        return given.mean + settings.progress, given.variance

    by_mean, by_variance = jax.jacfwd(predicted)(state.learning.theta)
    score_of_mean = alone.shift / total
    score_of_variance = 0.5 * ((alone.variance + alone.shift**2) / total - 1) / total
    return score_of_mean[:, None] * by_mean + score_of_variance[:, None] * by_variance
