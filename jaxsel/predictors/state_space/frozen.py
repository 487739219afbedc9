r"""Frozen prompts: those that the policy solves always or never, whatever their logit.

Pools hold many prompts whose success rate is so near to 0 or 1 that no group of theirs is mixed. A Gaussian of logits
that is wide enough for them predicts too few mixed groups for all others, and a narrower one too many for these. So
every prompt is frozen with some probability, beside its logit eta:

    P(s of n) = f0 [s = 0] + f1 [s = n] + (1 - f0 - f1) P(s of n | eta)

Before the first visit f0 + f1 is one share for all prompts, divided between f0 and f1 by the success rate that the
features predict. A visit changes f0 and f1 by Bayes' theorem: after a mixed group both are 0. The training of the
policy thaws prompts: f0 and f1 decay with every step. The share and the speed are learned like the other settings.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsel.base import Rollouts
from jaxsel.predictors.state_space.settings import Thawing
from jaxsel.predictors.state_space.state import StateSpaceState

_LEAST = 1e-7  # smallest probability that a prompt is not frozen
_LOWEST = -60.0  # smallest logarithm whose exponential is divided by


class Probabilities(NamedTuple):
    """Probabilities that prompts are frozen.

    Attributes:
        unsolved: f0, the probability that the policy never solves the prompt.
        solved: f1, the probability that the policy always solves it.
    """

    unsolved: Float[Array, " m"]
    solved: Float[Array, " m"]

    @property
    def free(self) -> Float[Array, " m"]:
        """The probability that the logit determines the success rate."""
        return jnp.maximum(1 - self.unsolved - self.solved, 0)


def frozen_prompts(
    state: StateSpaceState,
    frozen: Float[Array, " N"],
    thawing: Thawing,
    rows: Int[Array, " m"] | slice,
    mean: Float[Array, " m"],
    variance: Float[Array, " m"],
) -> Probabilities:
    """Return the probabilities at the current step for prompts with these logits.

    Args:
        state: Belief, of which the steps are used.
        frozen: `StateSpaceState.frozen`.
        thawing: `Learning.thawing`.
        rows: Rows of the pool.
        mean: Predictive mean of each prompt's logit.
        variance: Predictive variance of each prompt's logit.
    """
    last, seen, share = state.last_step[rows], frozen[rows], thawing.share
    kept = jnp.exp(-thawing.speed * (state.step - last).astype(jnp.float32))
    rate = jax.nn.sigmoid(mean / jnp.sqrt(1 + np.float32(np.pi / 8) * variance))  # E[sigmoid(eta)] to within 0.02
    unsolved = jnp.where(last > 0, jnp.maximum(-seen, 0), share * (1 - rate))
    solved = jnp.where(last > 0, jnp.maximum(seen, 0), share * rate)
    return Probabilities(kept * unsolved, kept * solved)


class Evidence(NamedTuple):
    """What a batch says about frozen prompts.

    Attributes:
        log_probability: Log probability of each prompt's rollouts, without the binomial coefficient.
        free: Probability, given these rollouts, that the prompt is not frozen.
        seen: The prompts' entries of `StateSpaceState.frozen` after the batch.
        jacobian: Derivatives of the log probabilities with respect to `Learning.theta`, if the logits are known.
    """

    log_probability: Float[Array, " b"]
    free: Float[Array, " b"]
    seen: Float[Array, " b"]
    jacobian: Float[Array, "b 7"]


def evidence(
    state: StateSpaceState,
    frozen: Float[Array, " N"],
    rows: Int[Array, " b"],
    mean: Float[Array, " b"],
    variance: Float[Array, " b"],
    log_likelihood: Float[Array, " b"],
    visits: Rollouts,
) -> Evidence:
    """Return what the batch says.

    Args:
        state: Belief before the batch.
        frozen: `StateSpaceState.frozen` before the batch.
        rows: Rows of the visited prompts.
        mean: Predictive mean of each prompt's logit.
        variance: Predictive variance of each prompt's logit.
        log_likelihood: Log probability of each prompt's rollouts if it is not frozen, without the binomial coefficient.
        visits: The batch, with distinct prompts.
    """

    def probabilities(theta: Float[Array, " 7"]) -> Probabilities:
        thawing = state.learning._replace(theta=theta).thawing
        return frozen_prompts(state, frozen, thawing, rows, mean, variance)

    now, by = probabilities(state.learning.theta), jax.jacfwd(probabilities)(state.learning.theta)
    none = (visits.successes == 0).astype(jnp.float32)
    all_ = (visits.successes == visits.group_size).astype(jnp.float32)
    unsolved, solved = none * now.unsolved, all_ * now.solved
    log_free = jnp.log(jnp.maximum(now.free, _LEAST)) + log_likelihood
    certain = unsolved + solved
    log_certain = jnp.where(certain > 0, jnp.log(jnp.where(certain > 0, certain, 1)), -jnp.inf)
    log_total = jnp.logaddexp(log_free, log_certain)
    ratio, inverse = jnp.exp(log_likelihood - log_total), jnp.exp(-jnp.maximum(log_total, _LOWEST))
    jacobian = (none * inverse - ratio)[:, None] * by.unsolved + (all_ * inverse - ratio)[:, None] * by.solved
    seen = jnp.clip((solved - unsolved) * inverse, -1, 1)
    return Evidence(log_total, jnp.exp(log_free - log_total), seen, jacobian)
