"""Where parameters may lie, and the free numbers, logits and logs, that stand for them in an optimiser."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EDGE = 0.01  # a start at the end of its interval is moved in by so much: from there no gradient leads away


class Domain(NamedTuple):
    """Where a parameter may lie, and the free numbers that stand for it.

    Attributes:
        freed: the parameter, inside of its domain, as free numbers.
        bound: free numbers as the parameter.
        inside: a value set by hand, in the scale of the domain.
    """

    freed: Callable[[Any], Any]
    bound: Callable[[Any], Any]
    inside: Callable[[Any], Any] = lambda value: value


def _logit(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    x = jnp.clip(x, _EDGE, 1 - _EDGE)
    return jnp.log(x) - jnp.log1p(-x)


UNIT = Domain(_logit, jax.nn.sigmoid)
"""Between 0 and 1."""

POSITIVE = Domain(lambda x: jnp.log(jnp.maximum(x, _EDGE)), jnp.exp)
"""Above 0."""

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
"""Of the parameters of the predictors here, by name."""
