r"""A Beta posterior of every prompt's success rate, with forgetting: the predictor of MoPPS.

    p ~ Beta(alpha0, beta0),    s | p ~ Binomial(n, p)      s of n rollouts are correct
    alpha <- d * alpha + (1 - d) * alpha0 + s           at every visit, d = `decay`
    beta  <- d * beta  + (1 - d) * beta0  + (n - s)

"Can Prompt Difficulty be Online Predicted for Accelerating RL Finetuning of Reasoning Models?" (MoPPS, arXiv
2507.04632). With alpha = alpha0 + S and beta = beta0 + F, the recursion is S <- d * S + s and F <- d * F + (n - s).
The state holds S and F; the posterior adds the prior.

With `ageing="step"` the decay acts at every step on every prompt, visited or not. An update still changes the arrays
for visited prompts only: k steps after a prompt's last visit, the posterior multiplies the stored S and F by d^k.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._rows import with_moved
from jaxsel._shared import shared
from jaxsel._visits import accumulated, merge_visits
from jaxsel.base import Prediction, Predictor, Rollouts, Scalar
from jaxsel.numerics import random
from jaxsel.numerics.beta_binomial import solve_state_probabilities
from jaxsel.predictors.priors import check_length, checked_priors, described


class BetaState(NamedTuple):
    """The evidence about N prompts, as counts of successes and failures, and their prior.

    Attributes:
        successes: S, the discounted successes of each prompt at its last visit.
        failures: F, the discounted failures of each prompt at its last visit.
        last_step: The step of each prompt's last visit; 0 before the first visit.
        step: The number of updates so far.
        prior_alpha: alpha0, one number for all prompts or one per prompt.
        prior_beta: beta0, one number for all prompts or one per prompt.
    """

    successes: Float[Array, " N"]
    failures: Float[Array, " N"]
    last_step: Int[Array, " N"]
    step: Int[Array, ""]
    prior_alpha: Float[Array, ""] | Float[Array, " N"]
    prior_beta: Float[Array, ""] | Float[Array, " N"]

    def partition_specs(self) -> "BetaState":
        """Return the specs for a mesh: vectors are split along `prompts`, and scalars are on every device."""
        return jax.tree.map(lambda leaf: P("prompts") if leaf.ndim else P(), self)

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: "BetaState") -> "BetaState":
        """Return the state for a changed pool, see `StateMethods.with_rows`. The prior is the prior of `fresh`."""
        carried = with_moved(self, fresh, ("successes", "failures", "last_step"), rows)
        return carried._replace(prior_alpha=fresh.prior_alpha, prior_beta=fresh.prior_beta)


def posterior(
    state: BetaState, decay_per_step: Scalar | None, prompt_ids: Int[Array, " m"] | None
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Return alpha and beta of these prompts, or of the whole pool if `prompt_ids` is None.

    `decay_per_step` is the decay with `ageing="step"`, and None with `ageing="visit"`.
    """
    rows = slice(None) if prompt_ids is None else prompt_ids
    discount = _discount(decay_per_step, state.step - state.last_step[rows])
    prior_alpha, prior_beta = (
        prior if prior.ndim == 0 else prior[rows] for prior in (state.prior_alpha, state.prior_beta)
    )
    return prior_alpha + discount * state.successes[rows], prior_beta + discount * state.failures[rows]


@jax.jit
def posterior_draw(
    key: Key[Array, ""],
    state: BetaState,
    decay_per_step: Scalar | None,
    prompt_ids: Int[Array, " m"] | None,
    first_id: Int[Array, ""] | int = 0,
) -> Float[Array, " m"]:
    """Return one sample of p per prompt, for these prompts or for the whole pool if `prompt_ids` is None.

    Each alpha and beta is computed where its sample is drawn, so the parameters of the pool are not stored. The sample
    has no gradient, because rejection sampling is not differentiable.
    """
    state, decay_per_step = jax.lax.stop_gradient((state, decay_per_step))

    def elements(rows: Int[Array, " c"] | None) -> tuple[Int[Array, " c"], tuple[Float[Array, " c"], ...]]:
        which = prompt_ids if rows is None else rows if prompt_ids is None else prompt_ids[rows]
        alpha, beta = posterior(state, decay_per_step, which)
        return first_id + (jnp.arange(len(alpha), dtype=jnp.int32) if which is None else which), (alpha, beta)

    size = state.successes.shape[0] if prompt_ids is None else prompt_ids.shape[0]
    return random.beta_of(key, elements, size)


def update(state: BetaState, rollouts: Rollouts, decay: Scalar, decay_per_step: Scalar | None) -> BetaState:
    """Return the state after one step: the evidence of visited prompts is discounted and gains their counts."""
    num_prompts = state.successes.shape[0]
    visits = merge_visits(rollouts, num_prompts)
    step = state.step + 1
    age = step - state.last_step[visits.prompt_ids]
    discount = decay if decay_per_step is None else _discount(decay_per_step, age)
    successes, failures = accumulated(state.successes, state.failures, visits, discount)
    last_step = state.last_step.at[visits.prompt_ids].set(step, mode="drop")
    return state._replace(successes=successes, failures=failures, last_step=last_step, step=step)


def predict(
    key: Key[Array, ""],
    state: BetaState,
    decay_per_step: Scalar | None,
    group_size: int,
    prompt_ids: Int[Array, " m"] | None,
    first_id: Int[Array, ""] | int = 0,
) -> Prediction:
    """Return the prediction for these prompts, or for the whole pool if `prompt_ids` is None."""
    alpha, beta = posterior(state, decay_per_step, prompt_ids)
    mean = alpha / (alpha + beta)
    return Prediction(
        mean,
        mean * (1 - mean) / (alpha + beta + 1),
        posterior_draw(key, state, decay_per_step, prompt_ids, first_id),
        *solve_state_probabilities(alpha, beta, group_size),
    )


def _discount(decay_per_step: Scalar | None, age: Int[Array, " m"]) -> Float[Array, " m"] | float:
    return 1.0 if decay_per_step is None else jnp.asarray(decay_per_step, jnp.float32) ** age.astype(jnp.float32)


def beta_bernoulli(
    *,
    prior_alpha: ArrayLike | Array = 1.0,
    prior_beta: ArrayLike | Array = 1.0,
    decay: Scalar = 0.5,
    group_size: int = 8,
    ageing: str = "visit",
) -> Predictor:
    """Return the predictor of MoPPS: one Beta posterior per prompt, with discounted evidence.

    Args:
        prior_alpha: alpha0, above 0: one number for all prompts, or one per prompt (see `informative_prior`).
        prior_beta: beta0, above 0: one number for all prompts, or one per prompt.
        decay: The factor on the earlier evidence, from 0 (forget everything) to 1 (forget nothing). See `ageing`.
        group_size: n, the rollouts per prompt for which `unsolved`, `mixed` and `solved` are predicted.
        ageing: "visit" discounts a prompt's evidence when the prompt is visited, as in the paper. "step" discounts the
            evidence of all prompts at every step.

    Raises:
        ValueError: An argument is out of its range. From `init`: a prior and the pool differ in length.
    """
    _validate.unit_interval(decay=decay)
    _validate.positive_integer(group_size=group_size)
    _validate.one_of(("visit", "step"), ageing=ageing)
    decay = decay if _validate.traced(decay) else float(decay)
    group_size = int(group_size)
    priors = checked_priors(prior_alpha, prior_beta)
    predict_state, update_state = _functions(decay, group_size, ageing)

    def init(key: Key[Array, ""], num_prompts: int) -> BetaState:
        del key
        check_length(num_prompts, **priors)
        successes, failures = (jnp.zeros(num_prompts, jnp.float32) for _ in range(2))
        never = jnp.zeros(num_prompts, jnp.int32)
        return BetaState(successes, failures, never, jnp.int32(0), *map(jnp.array, priors.values()))

    spec = {
        "name": "beta_bernoulli",
        "decay": _validate.json_value(decay),
        "group_size": group_size,
        "ageing": ageing,
        **{name: described(value) for name, value in priors.items()},
    }
    return Predictor(spec, init, predict_state, update_state)


@shared
def _functions(
    decay: Scalar, group_size: int, ageing: str
) -> tuple[Callable[..., Prediction], Callable[..., BetaState]]:
    decay_per_step = decay if ageing == "step" else None

    def predict_state(
        key: Key[Array, ""],
        state: BetaState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        return predict(key, state, decay_per_step, group_size, prompt_ids, first_id)

    def update_state(key: Key[Array, ""], state: BetaState, rollouts: Rollouts) -> BetaState:
        del key
        return update(state, rollouts, decay, decay_per_step)

    return predict_state, update_state
