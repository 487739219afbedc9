r"""A Beta posterior of every prompt's success rate, with forgetting: the predictor of MoPPS.

    p ~ Beta(alpha0, beta0),    s | p ~ Binomial(n, p)
    alpha <- d * alpha + (1 - d) * alpha0 + s           at every visit, d = `decay`
    beta  <- d * beta  + (1 - d) * beta0  + (n - s)

"Can Prompt Difficulty be Online Predicted for Accelerating RL Finetuning of Reasoning Models?" (MoPPS, arXiv
2507.04632). Written as alpha = alpha0 + S, beta = beta0 + F, the recursion is S <- d * S + s and F <- d * F + (n - s):
the state holds S and F, and the prior joins when it is read.

With `ageing="step"` the decay acts at every step on every prompt, visited or not. In closed form: S and F of a prompt
last visited k steps ago are worth d^k of what is stored, so an update still touches the visited rows only.
"""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import accumulated, merge_visits
from jaxsel.base import Prediction, Predictor, Rollouts, Scalar
from jaxsel.numerics import random
from jaxsel.numerics.beta_binomial import solve_state_probabilities


class BetaState(NamedTuple):
    """The posterior of N prompts.

    Attributes:
        successes: S, discounted, as of the prompt's last visit.
        failures: F, likewise.
        last_step: the step of the last visit, 0 before the first.
        step: steps taken.
        prior_alpha: alpha0, one for all prompts or one each.
        prior_beta: beta0, likewise.
    """

    successes: Float[Array, " N"]
    failures: Float[Array, " N"]
    last_step: Int[Array, " N"]
    step: Int[Array, ""]
    prior_alpha: Float[Array, ""] | Float[Array, " N"]
    prior_beta: Float[Array, ""] | Float[Array, " N"]

    def partition_specs(self) -> "BetaState":
        """How the state lies on a mesh: the axis of the prompts is `prompts`, the rest is everywhere."""
        return jax.tree.map(lambda leaf: P("prompts") if leaf.ndim else P(), self)


def posterior(
    state: BetaState, decay_per_step: Scalar | None, prompt_ids: Int[Array, " m"] | None
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """The parameters alpha and beta of the prompts asked for; `decay_per_step` None is ageing by visit."""
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
    """One sample of p of the prompts asked for. Their parameters are read from the state, not stored on the way.

    It has no gradient: what is drawn and rejected has none.
    """
    state, decay_per_step = jax.lax.stop_gradient((state, decay_per_step))

    def elements(rows: Int[Array, " c"] | None) -> tuple[Int[Array, " c"], tuple[Float[Array, " c"], ...]]:
        which = prompt_ids if rows is None else rows if prompt_ids is None else prompt_ids[rows]
        alpha, beta = posterior(state, decay_per_step, which)
        return first_id + (jnp.arange(len(alpha), dtype=jnp.int32) if which is None else which), (alpha, beta)

    size = state.successes.shape[0] if prompt_ids is None else prompt_ids.shape[0]
    return random.beta_of(key, elements, size)


def update(state: BetaState, rollouts: Rollouts, decay: Scalar, decay_per_step: Scalar | None) -> BetaState:
    """One step: discounts the visited prompts and adds what was observed of them."""
    num_prompts = state.successes.shape[0]
    visits = merge_visits(rollouts, num_prompts)
    step = state.step + 1
    age = step - state.last_step[visits.prompt_ids]
    discount = decay if decay_per_step is None else _discount(decay_per_step, age)
    successes, failures = accumulated(state.successes, state.failures, visits, discount)
    last_step = state.last_step.at[visits.prompt_ids].set(step, mode="drop")
    return state._replace(successes=successes, failures=failures, last_step=last_step, step=step)


def _discount(decay_per_step: Scalar | None, age: Int[Array, " m"]) -> Float[Array, " m"] | float:
    return 1.0 if decay_per_step is None else jnp.asarray(decay_per_step, jnp.float32) ** age.astype(jnp.float32)


def informative_prior(
    successes: ArrayLike, group_size: ArrayLike, *, strength: float = 3.0
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """`prior_alpha`, `prior_beta` from a roll-out of the base model: `strength` * count + 1 (MoPPS, section 4).

    Raises:
        ValueError: counts that are not integers with 0 <= successes <= group_size, or a strength below 0.
    """
    _validate.non_negative(strength=strength)
    successes = _validate.integers("successes", successes, low=0, high=2**31 - 1)
    sizes = np.broadcast_to(np.asarray(group_size), successes.shape)
    sizes = _validate.integers("group_size", sizes, low=0, high=2**31 - 1)
    if (successes > sizes).any():
        at = int(np.argmax(successes > sizes))
        raise ValueError(f"successes[{at}] is {successes[at]} of {sizes[at]}; give at most group_size")
    return 1 + np.float32(strength) * successes, 1 + np.float32(strength) * (sizes - successes)


def beta_bernoulli(
    *,
    prior_alpha: ArrayLike | Array = 1.0,
    prior_beta: ArrayLike | Array = 1.0,
    decay: Scalar = 0.5,
    group_size: int = 8,
    ageing: str = "visit",
) -> Predictor:
    """Discounted Beta posteriors.

    Args:
        prior_alpha: alpha0, above 0: one for all prompts, or one each (see `informative_prior`).
        prior_beta: beta0, likewise.
        decay: what a visit leaves of the earlier evidence, from 0 (forget all) to 1 (never forget).
        group_size: n, the rollouts a prompt that `unsolved`, `mixed` and `solved` speak of.
        ageing: "visit" (the paper: a prompt ages when it is visited) or "step" (all prompts age at every step).

    Raises:
        ValueError: an argument out of its range; from `init`, a prior of another length than the pool.
    """
    _validate.unit_interval(decay=decay)
    _validate.positive_integer(group_size=group_size)
    _validate.one_of(("visit", "step"), ageing=ageing)
    priors = {name: _prior(name, value) for name, value in (("prior_alpha", prior_alpha), ("prior_beta", prior_beta))}
    decay_per_step = decay if ageing == "step" else None

    def init(key: Key[Array, ""], num_prompts: int) -> BetaState:
        del key
        for name, value in priors.items():
            if value.ndim and len(value) != num_prompts:
                raise ValueError(f"{name} has {len(value)} entries for {num_prompts} prompts; give one each")
        zeros = jnp.zeros(num_prompts, jnp.float32)
        never = jnp.zeros(num_prompts, jnp.int32)
        return BetaState(zeros, zeros.copy(), never, jnp.int32(0), *map(jnp.array, priors.values()))

    def predict(
        key: Key[Array, ""],
        state: BetaState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        alpha, beta = posterior(state, decay_per_step, prompt_ids)
        mean = alpha / (alpha + beta)
        return Prediction(
            mean,
            mean * (1 - mean) / (alpha + beta + 1),
            posterior_draw(key, state, decay_per_step, prompt_ids, first_id),
            *solve_state_probabilities(alpha, beta, group_size),
        )

    def update_state(key: Key[Array, ""], state: BetaState, rollouts: Rollouts) -> BetaState:
        del key
        return update(state, rollouts, decay, decay_per_step)

    spec = {
        "name": "beta_bernoulli",
        "decay": _validate.json_value(decay),
        "group_size": group_size,
        "ageing": ageing,
        **{name: _describe(value) for name, value in priors.items()},
    }
    return Predictor(spec, init, predict, update_state)


def _prior(name: str, value: ArrayLike | Array) -> np.ndarray | Array:
    if _validate.traced(value):
        return value
    prior = np.asarray(value, np.float32)
    if prior.ndim > 1 or not (np.isfinite(prior).all() and (prior > 0).all()):
        raise ValueError(f"{name} is {prior}; give finite numbers above 0, one or a vector")
    return prior


def _describe(prior: np.ndarray | Array) -> float | str:
    """A prior in a spec: the number itself, or the fingerprint of a vector."""
    if prior.ndim == 0:
        return _validate.json_value(prior)
    return f"sha256:{hashlib.sha256(np.asarray(prior).tobytes()).hexdigest()[:16]}"
