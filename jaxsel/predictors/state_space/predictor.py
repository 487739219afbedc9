r"""A logistic state-space model of all prompts, filtered online.

    eta_it = (w + d_t) . phi(e_i) + u_it          logit of prompt i's success rate at step t; e_i is its embedding, phi
                                                  its features: the standardised embedding and a constant
    d_t    = d_{t-1} + N(0, Q_t)                  drift of the shared weights w; its last entry, the level, also grows
                                                  by `progress`, and follows the visited prompts (see `weights`)
    u_it   ~ N(0, tau2)                           before the first visit
    u_it   <- u_it + `gain` * 4 s (n - s) / n^2   at a visit, and Var u_it grows by q_v: the policy trains on the prompt
    Var u_it grows by q_u per step, at most back to tau2, while the prompt is not visited
    s_it   ~ Binomial(n_it, sigmoid(eta_it))

Given w and d, prompts are independent. The state therefore holds each prompt's mean logit at one value of w . phi, its
reference, and the variance of the logit. The variance implies how the mean changes with w . phi. Later changes of w
hardly move the logit of a visited prompt, but the drift moves all logits.

An update is one step of assumed-density filtering. A Gaussian replaces every prompt's binomial likelihood and gives its
logit the exact posterior mean and variance (see `moments`). The Gaussian model of weights and prompts is conditioned on
the whole batch at once. This takes O(b f^2 + f^3) for b prompts and f features, and one count over the pool. The
variance of an outlier, whose result is far from its prediction, is widened as under a Student t distribution.

With `frozen`, a prompt may also be solved never or always, whatever its logit (see the module `frozen`).

The model learns tau2, q_v, q_u, `gain` and `progress` (see `settings`); tau2 is at most 25, a standard deviation of 5
logits. It also learns the speed of the drift and the prior of w (see `weights`). Other constants are fixed: the degrees
of freedom of the Student t distribution, the rates of forgetting, and the variance of the error that the model gives to
all first visits of one batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._shared import shared
from jaxsel.base import Prediction, Predictor, Rollouts
from jaxsel.numerics import random
from jaxsel.numerics.beta_binomial import mixed_of
from jaxsel.predictors import embeddings as _embeddings
from jaxsel.predictors.priors import checked_priors, described, evidence
from jaxsel.predictors.state_space.features import Scaling, scaling_of
from jaxsel.predictors.state_space.filtering import filtered, logits
from jaxsel.predictors.state_space.frozen import frozen_prompts
from jaxsel.predictors.state_space.moments import moments
from jaxsel.predictors.state_space.prior_rates import with_rates
from jaxsel.predictors.state_space.settings import first_guess
from jaxsel.predictors.state_space.state import StateSpaceState
from jaxsel.predictors.state_space.weights import no_weights


def state_space(
    embeddings: ArrayLike | Array | None = None,
    *,
    group_size: int = 8,
    prior_alpha: ArrayLike = 1.0,
    prior_beta: ArrayLike = 1.0,
    frozen: bool = False,
) -> Predictor:
    """Return the predictor of `adaptive`: a logistic state-space model of all prompts.

    Args:
        embeddings: One row per prompt of the pool, in float16, bfloat16 or float32. A NumPy array may be memory-mapped.
            The state holds a copy on the device in the same dtype (float64 becomes float32). On a CPU, a read-only
            memory-mapped file is read in place: keep it unchanged. None: prompts share only the constant.
        group_size: n, the rollouts per prompt for which `unsolved`, `mixed` and `solved` are predicted.
        prior_alpha: First parameter of a Beta prior, one number or one per prompt (see `informative_prior`). It stands
            for earlier rollouts: prior_alpha - 1 successes and prior_beta - 1 failures, at least 0. They also determine
            the first weights, from which prompts without earlier rollouts are predicted.
        prior_beta: Second parameter, in the same form.
        frozen: Whether a prompt may be frozen: solved never or always, whatever its logit. Predictions of recorded
            training runs get better, above all early in a run and for prompts without a visit. It also suits pools
            of which most prompts are solved never or always: without it, the prior of a logit has a standard deviation
            of at most 5, and P(mixed) of unvisited prompts stays above 0.3. `adaptive` does without, because its
            choices get worse.

    Raises:
        ValueError: An argument is out of its range, or the embeddings are not a finite matrix. From `init`:
            embeddings or priors do not have one row per prompt, or the embeddings were changed in between.
    """
    _validate.positive_integer(group_size=group_size)
    group_size = int(group_size)
    if not isinstance(frozen, bool):
        raise ValueError(f"frozen is {frozen!r}; give True or False")
    matrix = None if embeddings is None else _embeddings.checked(embeddings)
    scaling = None if matrix is None else scaling_of(matrix)
    made_with = None if matrix is None else _embeddings.checksum(matrix)
    priors = checked_priors(prior_alpha, prior_beta)

    def init(key: Key[Array, ""], num_prompts: int) -> StateSpaceState:
        del key
        if matrix is not None and len(matrix) != num_prompts:
            raise ValueError(f"embeddings has {len(matrix)} rows for {num_prompts} prompts; give one row per prompt")
        given = None if matrix is None else _embeddings.on_device(matrix, made_with)
        return with_rates(_unvisited(num_prompts, given, scaling, frozen), *evidence(num_prompts, **priors))

    spec = {
        "name": "state_space",
        "embeddings": None if matrix is None else _embeddings.fingerprint(matrix),
        "group_size": group_size,
        **{name: described(prior) for name, prior in priors.items()},
        "frozen": frozen,
    }
    return Predictor(spec, init, *_functions(group_size))


def _unvisited(num_prompts: int, embeddings: Array | None, scaling: Scaling | None, frozen: bool) -> StateSpaceState:
    def zeros() -> Float[Array, " N"]:
        return jnp.zeros(num_prompts, jnp.float32)

    return StateSpaceState(
        embeddings,
        None if scaling is None else Scaling(*map(jnp.asarray, scaling)),
        no_weights(0 if embeddings is None else embeddings.shape[1]),
        zeros(),
        zeros(),
        zeros(),
        zeros(),
        jnp.zeros(num_prompts, jnp.int32),
        jnp.int32(0),
        first_guess(frozen=frozen),
        jnp.float32(0),
        zeros() if frozen else None,
    )


@shared
def _functions(group_size: int) -> tuple[Callable[..., Any], ...]:
    """Return `predict`, `update` and `screen`."""
    exact, rough = (functools.partial(_predict, group_size=group_size, alike=alike) for alike in (False, True))
    return exact, _update, rough


def _predict(
    key: Key[Array, ""],
    state: StateSpaceState,
    prompt_ids: Int[Array, " m"] | None,
    first_id: Int[Array, ""] | int = 0,
    *,
    group_size: int,
    alike: bool,
) -> Prediction:
    mean, variance = logits(state, prompt_ids, alike=alike)
    rows = jnp.arange(len(mean), dtype=jnp.int32) if prompt_ids is None else prompt_ids
    rate, spread, unsolved, solved = moments(mean, variance, group_size)
    level = random.uniform(key, first_id + rows)
    if state.frozen is not None:
        frozen = frozen_prompts(state, state.frozen, state.learning.thawing, rows, mean, variance)
        rate, spread = frozen.free * rate + frozen.solved, frozen.free * spread
        unsolved, solved = frozen.free * unsolved + frozen.unsolved, frozen.free * solved + frozen.solved
        # the draw is a quantile: 0 with probability frozen.unsolved, and 1 with probability frozen.solved
        level = jnp.clip((level - frozen.unsolved) / jnp.maximum(frozen.free, 1e-9), 0, 1)
    draw = jax.nn.sigmoid(mean + jnp.sqrt(variance) * jax.scipy.special.ndtri(level))
    mixed = mixed_of(unsolved, solved, group_size)
    return Prediction(rate, jnp.maximum(rate * (1 - rate) - spread, 0), draw, unsolved, mixed, solved)


def _update(key: Key[Array, ""], state: StateSpaceState, rollouts: Rollouts) -> StateSpaceState:
    del key
    return filtered(state, rollouts)
