r"""The settings theta of the state-space model, learned from every batch.

Let l_i be the log probability that the model gave to prompt i's rollouts before the update, and J_i = dl_i / d theta.
An update is a Newton step with the empirical Fisher information F in place of the curvature:

    F     <- d F + sum_i J_i J_i'
    theta <- theta + (F + F0)^-1 (sum_i J_i + (1 - d) F0 (theta0 - theta))

F0 is the precision of a prior around theta0. The steps shrink as information accumulates, so there is no learning rate.
Observations older than about 1 / (1 - d) steps are forgotten, so that the settings follow changes of the policy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_KEPT = 0.98  # d


class Settings(NamedTuple):
    """The learned settings theta, in units of logits and steps. They are about the logit of a prompt's success rate.

    Attributes:
        log_prior: Logarithm of tau2, the variance of u, a prompt's own part of the logit, before its first visit.
        log_visit: Logarithm of q_v, the variance that a visit adds to u.
        log_step: Logarithm of q_u, the variance that a step adds to u for a prompt without a visit.
        gain: Increase of a prompt's logit after a group with as many failures as successes.
        progress: Increase of every prompt's logit per step.
    """

    log_prior: Float[Array, ""]
    log_visit: Float[Array, ""]
    log_step: Float[Array, ""]
    gain: Float[Array, ""]
    progress: Float[Array, ""]


# start, standard deviation of the prior around it, lowest and highest value, and largest step
_LIMITS = np.array(
    [
        [np.log(6.0), 1.0, np.log(0.05), np.log(25.0), 0.5],  # the settings, in the order of `Settings`
        [np.log(0.05), 1.0, np.log(1e-3), np.log(4.0), 0.5],
        [np.log(0.003), 1.5, np.log(1e-5), np.log(1.0), 0.5],
        [0.0, 0.2, -1.0, 1.0, 0.1],
        [0.0, 0.01, -0.2, 0.2, 0.01],
        [-2.0, 3.0, -10.0, 4.0, 0.5],  # log odds of `Thawing.share`
        [np.log(0.02), 1.0, np.log(1e-5), np.log(1.0), 0.5],  # logarithm of `Thawing.speed`
    ],
    np.float32,
).T
_NUM_SETTINGS = len(Settings._fields)
_ROUNDING = 8 * np.finfo(np.float32).eps  # smallest prior precision, relative to F; F keeps the errors of 50 steps


class Thawing(NamedTuple):
    """What is learned about frozen prompts (see the module `frozen`).

    Attributes:
        share: Probability that a prompt is frozen before training and before its first visit.
        speed: Share of the frozen prompts that thaws per step, if it is small.
    """

    share: Float[Array, ""]
    speed: Float[Array, ""]


class Learning(NamedTuple):
    """The settings and the information about them.

    Attributes:
        theta: Settings as a vector, in the order of `Settings`; with frozen prompts two more, see `Thawing`.
        information: F, the empirical Fisher information.
    """

    theta: Float[Array, " k"]
    information: Float[Array, "k k"]

    @property
    def settings(self) -> Settings:
        """The settings theta by name."""
        return Settings(*self.theta[:_NUM_SETTINGS])

    @property
    def thawing(self) -> Thawing:
        """What is learned about frozen prompts; only with frozen prompts."""
        log_odds, log_speed = self.theta[_NUM_SETTINGS:]
        return Thawing(jax.nn.sigmoid(log_odds), jnp.exp(log_speed))


def first_guess(*, frozen: bool = False) -> Learning:
    """Return the settings before any observation, for a model with or without frozen prompts."""
    theta = _LIMITS[0] if frozen else _LIMITS[0, :_NUM_SETTINGS]
    return Learning(jnp.asarray(theta), jnp.zeros((len(theta), len(theta)), jnp.float32))


def learned(learning: Learning, jacobian: Float[Array, "b k"]) -> Learning:
    """Return the settings after one Newton step.

    A row of the Jacobian is the gradient of one prompt's l_i, or zeros for a row without an observation.
    """
    start, spread, lowest, highest, largest_step = _LIMITS[:, : len(learning.theta)]
    # a limit of 5 on the norm of each row, so that no single prompt determines the step
    length = jnp.sqrt(((jacobian * spread[None]) ** 2).sum(1, keepdims=True))
    jacobian = jacobian / jnp.maximum(1, length / 5)
    information = _KEPT * learning.information + jacobian.T @ jacobian
    # settings with the same effect leave F singular, and rounding can make it indefinite; both in units of `spread`
    least = len(start) * (jnp.diag(information) * spread**2).max() * _ROUNDING
    prior = jnp.diag(jnp.maximum(1, least) / spread**2)
    pull = (1 - _KEPT) * (jnp.asarray(start) - learning.theta) / spread**2
    step = jax.scipy.linalg.solve(information + prior, jacobian.sum(0) + pull, assume_a="pos")
    step = jnp.where(jnp.isfinite(step).all(), step, 0)
    step = step / jnp.maximum(1, jnp.max(jnp.abs(step) / largest_step))
    return Learning(jnp.clip(learning.theta + step, lowest, highest), information)
