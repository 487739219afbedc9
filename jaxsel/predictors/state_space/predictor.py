r"""A logistic state-space model of all prompts, filtered online.

    eta_it = (w + d_t) . phi(e_i) + u_it          logit of the success rate; phi: embedding features and a constant
    d_t    = d_{t-1} + N(0, Q_t)                  drift of the shared weights w; its last entry also grows by progress
    u_it   ~ N(0, tau2)                           before the first visit
    u_it   <- u_it + gain * 4 s (n - s) / n^2     at a visit, and Var u_it grows by q_v: the policy trains on the prompt
    Var u_it grows by q_u per step, at most back to tau2, while the prompt is not visited
    s_it   ~ Binomial(n_it, sigmoid(eta_it))

Given w and d, prompts are independent. The state therefore holds each prompt's mean logit at a reference value of
w . phi, and the variance of the logit. The variance implies how the mean changes with w . phi. Later changes of w
hardly move the logit of a visited prompt, but the drift moves all logits.

An update is one step of assumed-density filtering. A Gaussian replaces every prompt's binomial likelihood and gives its
logit the exact posterior mean and variance (see `moments`). The Gaussian model of weights and prompts is conditioned on
the whole batch at once. This takes O(b f^2 + f^3) for b prompts and f features, whatever the size of the pool. The
variance of an outlier, whose result is far from its prediction, is widened as under a Student t distribution.

The model learns tau2, q_v, q_u, gain and progress (see `settings`). It also learns the speed of the drift and the prior
of w (see `weights`). Other constants are fixed: the degrees of freedom of the Student t distribution, the rates of
forgetting, and the variance of the error that first visits share.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import merge_visits
from jaxsel.base import Prediction, Predictor, Rollouts
from jaxsel.numerics import random
from jaxsel.predictors import embeddings as _embeddings
from jaxsel.predictors.state_space.features import Forms, Scaling, linear_forms, scaling_of
from jaxsel.predictors.state_space.moments import LARGEST_VARIANCE, Posterior, moments, posterior
from jaxsel.predictors.state_space.settings import Learning, first_guess, learned
from jaxsel.predictors.state_space.state import StateSpaceState, given_weights
from jaxsel.predictors.state_space.weights import no_weights, shrunk, updated

_FREEDOM = 5.0  # degrees of freedom of the Student t distribution
_SMALLEST = 1e-4  # variance of a logit


def state_space(embeddings: ArrayLike | Array | None = None, *, group_size: int = 8) -> Predictor:
    """Return the predictor of `adaptive`: a logistic state-space model of all prompts.

    Args:
        embeddings: One row per prompt of the pool, in float16, bfloat16 or float32. A NumPy array may be memory-mapped.
            The state holds a copy on the device in the same dtype (float64 becomes float32). None: prompts share only
            the constant.
        group_size: n, the rollouts per prompt for which `unsolved`, `mixed` and `solved` are predicted.

    Raises:
        ValueError: An argument is out of its range, or the embeddings are not a finite matrix. From `init`: the
            embeddings do not have one row per prompt.
    """
    _validate.positive_integer(group_size=group_size)
    matrix = None if embeddings is None else _embeddings.checked(embeddings)
    scaling = None if matrix is None else scaling_of(matrix)

    def init(key: Key[Array, ""], num_prompts: int) -> StateSpaceState:
        del key
        if matrix is not None and len(matrix) != num_prompts:
            raise ValueError(f"embeddings has {len(matrix)} rows for {num_prompts} prompts; give one row per prompt")
        zeros = jnp.zeros(num_prompts, jnp.float32)
        return StateSpaceState(
            None if matrix is None else jnp.array(matrix),
            None if scaling is None else Scaling(*map(jnp.asarray, scaling)),
            no_weights(0 if matrix is None else matrix.shape[1]),
            zeros,
            zeros.copy(),
            zeros.copy(),
            zeros.copy(),
            jnp.zeros(num_prompts, jnp.int32),
            jnp.int32(0),
            first_guess(),
            jnp.float32(0),
        )

    def predict(
        key: Key[Array, ""],
        state: StateSpaceState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        mean, variance = logits(state, prompt_ids)
        rows = jnp.arange(len(mean), dtype=jnp.int32) if prompt_ids is None else prompt_ids
        rate, spread, unsolved, solved = moments(mean, variance, group_size)
        normal = jax.scipy.special.ndtri(random.uniform(key, first_id + rows))
        mixed = jnp.zeros_like(rate) if group_size == 1 else jnp.maximum(1 - unsolved - solved, 0)
        return Prediction(
            rate,
            jnp.maximum(rate * (1 - rate) - spread, 0),
            jax.nn.sigmoid(mean + jnp.sqrt(variance) * normal),
            unsolved,
            mixed,
            solved,
        )

    def update(key: Key[Array, ""], state: StateSpaceState, rollouts: Rollouts) -> StateSpaceState:
        del key
        return filtered(state, rollouts)

    fingerprint = None if matrix is None else _embeddings.fingerprint(matrix)
    return Predictor(
        {"name": "state_space", "embeddings": fingerprint, "group_size": group_size}, init, predict, update
    )


def logits(
    state: StateSpaceState, prompt_ids: Int[Array, " m"] | None
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Return the predictive mean and variance of the given prompts' logits; None means the whole pool."""
    rows = slice(None) if prompt_ids is None else prompt_ids
    weights, root = state.weights, state.weights.root
    given = given_weights(state, state.learning.settings, rows)
    if state.embeddings is None or state.scaling is None:
        constant = weights.initial[0], weights.drift[0], ((root[0] + root[1]) ** 2).sum()
        forms = Forms(*(jnp.broadcast_to(value, given.mean.shape) for value in constant))
    else:
        forms = linear_forms(state.embeddings[rows], state.scaling, weights)
    mean = forms.drift + given.mean + given.slope * (forms.mean - given.reference)
    # slope w + d = slope (w + d) + (1 - slope) d. The second part is small: all prompts get its mean variance over
    # standardised features, and its covariance with the first part is left out.
    of_drift = (root[len(weights.initial) :] ** 2).sum()
    shared = given.slope**2 * forms.variance + (1 - given.slope) ** 2 * of_drift
    return mean, jnp.clip(given.variance + shared, _SMALLEST, LARGEST_VARIANCE)


class Sites(NamedTuple):
    """The Gaussian that replaces each visited prompt's likelihood: its precision, and precision times residual."""

    precision: Float[Array, " b"]
    weighted_residual: Float[Array, " b"]


def filtered(state: StateSpaceState, rollouts: Rollouts) -> StateSpaceState:
    """Return the state after one batch, moved on to the next step; an empty batch changes nothing."""
    num_prompts = len(state.mean)
    visits = merge_visits(rollouts, num_prompts)
    rows = jnp.minimum(visits.prompt_ids, num_prompts - 1)
    is_visit = visits.group_size > 0
    if state.embeddings is None or state.scaling is None:
        features = jnp.ones((len(rows), 1), jnp.float32)
    else:
        features = state.scaling(state.embeddings[rows])

    given = given_weights(state, state.learning.settings, rows)
    shared, drift = features @ state.weights.initial, features @ state.weights.drift
    mean = drift + given.mean + given.slope * (shared - given.reference)
    design = jnp.concatenate([given.slope[:, None] * features, features], 1)
    doubt = ((design @ state.weights.root) ** 2).sum(1)
    total = jnp.clip(given.variance + doubt, _SMALLEST, LARGEST_VARIANCE)
    alone = posterior(mean, total, visits.successes, visits.group_size)
    jacobian = _jacobian(state, rows, alone, total)
    learning = learned(state.learning, jnp.where(is_visit[:, None], jacobian, 0))
    scores = jnp.where(is_visit, alone.log_evidence, 0)

    variance = given.variance * _inflation(alone, total)
    sites = _sites(mean, jnp.clip(variance + doubt, _SMALLEST, LARGEST_VARIANCE), visits)
    noise = 1 / (1 + variance * sites.precision)
    weights, change = updated(state.weights, design, sites.precision * noise, sites.weighted_residual * noise)
    moved = design @ change
    mean = mean + moved + variance * noise * (sites.weighted_residual - sites.precision * moved)
    weights = shrunk(weights)
    n = jnp.maximum(visits.group_size, 1).astype(jnp.float32)
    s = visits.successes.astype(jnp.float32)

    some = is_visit.any()
    step = state.step + some.astype(jnp.int32)
    advanced = weights._replace(mean=weights.mean.at[-1].add(learning.settings.progress))
    new = advanced, learning, scores.sum() / jnp.maximum(is_visit.sum(dtype=jnp.float32), 1)
    old = state.weights, state.learning, state.log_score
    new = jax.tree.map(lambda after, before: jnp.where(some, after, before), new, old)

    def put(column: Float[Array, " N"] | Int[Array, " N"], values: Array) -> Array:
        return column.at[visits.prompt_ids].set(values, mode="drop")  # rows without a visit have ids outside the pool

    return StateSpaceState(
        state.embeddings,
        state.scaling,
        new[0],
        put(state.mean, mean - features @ weights.drift),
        put(state.reference, features @ weights.initial),
        put(state.variance, variance * noise),
        put(state.lesson, 4 * s * (n - s) / n**2),
        put(state.last_step, step),
        step,
        *new[1:],
    )


def _sites(mean: Float[Array, " b"], total: Float[Array, " b"], visits: Rollouts) -> Sites:
    alone = posterior(mean, total, visits.successes, visits.group_size)
    is_visit = visits.group_size > 0
    precision = jnp.where(is_visit, jnp.maximum(1 / alone.variance - 1 / total, 0), 0)
    return Sites(precision, jnp.where(is_visit, alone.shift / alone.variance, 0))


def _inflation(alone: Posterior, total: Float[Array, " b"]) -> Float[Array, " b"]:
    """Return the factor by which a Student t distribution widens an outlier's variance, and 1 for other prompts."""
    surprise = (alone.shift**2 + alone.variance) / total
    return jnp.maximum((_FREEDOM + surprise) / (_FREEDOM + 1), 1)


def _jacobian(
    state: StateSpaceState,
    rows: Int[Array, " b"],
    alone: Posterior,
    total: Float[Array, " b"],
) -> Float[Array, "b 5"]:
    """Return the derivatives of every prompt's log score with respect to the settings."""

    def predicted(theta: Float[Array, " 5"]) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        settings = Learning(theta, state.learning.information).settings
        given = given_weights(state, settings, rows)
        return given.mean + settings.progress, given.variance

    by_mean, by_variance = jax.jacfwd(predicted)(state.learning.theta)
    score_of_mean = alone.shift / total
    score_of_variance = 0.5 * ((alone.variance + alone.shift**2) / total - 1) / total
    return score_of_mean[:, None] * by_mean + score_of_variance[:, None] * by_variance
