r"""Likelihoods of a prompt's successes, given the decoder's two outputs per prompt, `logit` and `spread`.

    beta_binomial   p ~ Beta(c m, c (1 - m)),  s | p ~ Binomial(n, p),  m = sigmoid(logit),  c = 2 exp(spread)
    binomial        s ~ Binomial(n, m)
    squared_error   s / n ~ Normal(m, 0.2^2)

A prompt has s successes in n rollouts. The larger `spread` is, the narrower is the Beta.

A Beta is conjugate: with a prompt's own evidence, S successes and F failures, it becomes Beta(c m + S, c (1 - m) + F).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, gammaln, xlog1py, xlogy
from jaxtyping import Array, Float

from jaxsel.base import Rollouts
from jaxsel.numerics.beta_binomial import solve_state_probabilities

_LARGEST_LOGIT = 8.0  # keeps p above 0 and gradients from vanishing, however many groups have no success
_LARGEST_SPREAD = 5.0
_RESIDUAL = 0.2


class Belief(NamedTuple):
    """The belief about prompts, given a value of the latent variable. All fields have one shape.

    Attributes:
        success_rate: The mean of p.
        variance: The variance of p.
        alpha: The first parameter of the Beta of p, or p itself if the belief is a single point.
        beta: The second parameter of the Beta of p, or 1 - p if the belief is a single point.
        unsolved: P(s = 0).
        solved: P(s = n).
    """

    success_rate: Float[Array, "*shape"]
    variance: Float[Array, "*shape"]
    alpha: Float[Array, "*shape"]
    beta: Float[Array, "*shape"]
    unsolved: Float[Array, "*shape"]
    solved: Float[Array, "*shape"]


class Likelihood(NamedTuple):
    """One interpretation of the decoder's outputs.

    Attributes:
        log_prob: `(outputs, visits) -> log_probs`, for visits with at least one rollout each.
        belief: `(outputs, S, F, group_size) -> belief`, given each prompt's own evidence S and F.
        conjugate: Whether `belief` depends on the evidence S and F.
    """

    log_prob: Callable[[Float[Array, "*shape 2"], Rollouts], Float[Array, "*shape"]]
    belief: Callable[..., Belief]
    conjugate: bool


def _logit_and_spread(outputs: Float[Array, "*shape 2"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    logit, spread = outputs[..., 0], outputs[..., 1]
    return _LARGEST_LOGIT * jnp.tanh(logit / _LARGEST_LOGIT), _LARGEST_SPREAD * jnp.tanh(spread / _LARGEST_SPREAD)


def _shapes(outputs: Float[Array, "*shape 2"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    logit, spread = _logit_and_spread(outputs)
    concentration = 2 * jnp.exp(spread)
    return concentration * jax.nn.sigmoid(logit), concentration * jax.nn.sigmoid(-logit)


def _counts(batch: Rollouts) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return successes and failures in float32, the type of the decoder's outputs."""
    return batch.successes.astype(jnp.float32), (batch.group_size - batch.successes).astype(jnp.float32)


def _log_choose(successes: Float[Array, "*shape"], failures: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return gammaln(successes + failures + 1) - gammaln(successes + 1) - gammaln(failures + 1)


def _beta_binomial_log_prob(outputs: Float[Array, "*shape 2"], batch: Rollouts) -> Float[Array, "*shape"]:
    alpha, beta = _shapes(outputs)
    s, f = _counts(batch)
    return _log_choose(s, f) + betaln(alpha + s, beta + f) - betaln(alpha, beta)


def _beta_binomial_belief(
    outputs: Float[Array, "*shape 2"], successes: Float[Array, "..."], failures: Float[Array, "..."], group_size: int
) -> Belief:
    alpha, beta = _shapes(outputs)
    alpha, beta = alpha + successes, beta + failures
    rate = alpha / (alpha + beta)
    unsolved, _, solved = solve_state_probabilities(alpha, beta, group_size)
    return Belief(rate, rate * (1 - rate) / (alpha + beta + 1), alpha, beta, unsolved, solved)


def _binomial_log_prob(outputs: Float[Array, "*shape 2"], batch: Rollouts) -> Float[Array, "*shape"]:
    logit, _ = _logit_and_spread(outputs)
    rate = jax.nn.sigmoid(logit)
    s, f = _counts(batch)
    return _log_choose(s, f) + xlogy(s, rate) + xlog1py(f, -rate)


def _squared_error_log_prob(outputs: Float[Array, "*shape 2"], batch: Rollouts) -> Float[Array, "*shape"]:
    logit, _ = _logit_and_spread(outputs)
    s, f = _counts(batch)
    off = (s / (s + f) - jax.nn.sigmoid(logit)) / _RESIDUAL
    return -0.5 * off**2 - math.log(_RESIDUAL * math.sqrt(2 * math.pi))


def _point_belief(
    outputs: Float[Array, "*shape 2"], successes: Float[Array, "..."], failures: Float[Array, "..."], group_size: int
) -> Belief:
    del successes, failures
    logit, _ = _logit_and_spread(outputs)
    rate, rest = jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit)
    return Belief(rate, jnp.zeros_like(rate), rate, rest, rest**group_size, rate**group_size)


LIKELIHOODS = {
    "beta_binomial": Likelihood(_beta_binomial_log_prob, _beta_binomial_belief, conjugate=True),
    "binomial": Likelihood(_binomial_log_prob, _point_belief, conjugate=False),
    "squared_error": Likelihood(_squared_error_log_prob, _point_belief, conjugate=False),
}
