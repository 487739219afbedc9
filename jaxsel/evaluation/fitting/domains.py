"""Domains of parameters, and the unbounded numbers (logits and logs) that represent a parameter in an optimiser."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EDGE = 0.01  # smallest distance of a start value from the end of its interval, where the gradient vanishes


class Domain(NamedTuple):
    """The values that a parameter may have, and their representation by unbounded numbers.

    Attributes:
        freed: Function from a parameter in its domain to unbounded numbers.
        bound: Function from unbounded numbers to the parameter; the inverse of `freed`.
        inside: Function that scales a start value into the domain, for example to a sum of 1.
    """

    freed: Callable[[Any], Any]
    bound: Callable[[Any], Any]
    inside: Callable[[Any], Any] = lambda value: value


def _logit(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    x = jnp.clip(x, _EDGE, 1 - _EDGE)
    return jnp.log(x) - jnp.log1p(-x)


UNIT = Domain(_logit, jax.nn.sigmoid)
"""Numbers between 0 and 1."""

POSITIVE = Domain(lambda x: jnp.log(jnp.maximum(x, _EDGE)), jnp.exp)
"""Numbers above 0."""

SIMPLEX = Domain(
    lambda x: jnp.log(jnp.maximum(x[:-1], _EDGE)) - jnp.log(jnp.maximum(x[-1:], _EDGE)),
    lambda x: jax.nn.softmax(jnp.concatenate([x, jnp.zeros(1)])),
    lambda x: x / x.sum(),
)
"""Probabilities that sum to 1."""

DOMAINS: Mapping[str, Domain] = {
    "decay": UNIT,
    "prior_alpha": POSITIVE,
    "prior_beta": POSITIVE,
    "prior_counts": POSITIVE,
    "initial_belief": SIMPLEX,
}
"""The domains of this package's predictor parameters, by name."""
