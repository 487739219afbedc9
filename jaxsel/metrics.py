"""How good predictions were, and how much a batch taught. Pure functions of arrays; jit them at will."""

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import rankdata
from jaxtyping import Array, Float, Int

from jaxsel._visits import solve_states
from jaxsel.base import MIXED, Prediction

AnyArray = Array | np.ndarray


def pearson(x: Float[AnyArray, " m"], y: Float[AnyArray, " m"]) -> Float[Array, ""]:
    """The linear correlation; NaN when one of the two is constant."""
    # relative to the first entry, so that the deviations of a constant are exactly 0
    x, y = x - x[:1], y - y[:1]
    x, y = x - jnp.mean(x), y - jnp.mean(y)
    return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))


def spearman(x: Float[AnyArray, " m"], y: Float[AnyArray, " m"]) -> Float[Array, ""]:
    """The rank correlation, ties at their mean rank; NaN when one of the two is constant."""
    return pearson(rankdata(x), rankdata(y))


def mean_absolute_error(prediction: Float[AnyArray, " m"], truth: Float[AnyArray, " m"]) -> Float[Array, ""]:
    """The mean of |prediction - truth|."""
    return jnp.mean(jnp.abs(prediction - truth))


def mixed_share(successes: Int[AnyArray, " m"], group_size: Int[AnyArray, " m"]) -> Float[Array, ""]:
    """The share of groups with 0 < s < n among those with n > 0: the ones that have a gradient."""
    known = group_size > 0
    mixed = known & (solve_states(successes, group_size) == MIXED)
    return mixed.sum() / known.sum()


def solve_state_accuracy(
    prediction: Prediction, successes: Int[AnyArray, " m"], group_size: Int[AnyArray, " m"]
) -> Float[Array, ""]:
    """How often the likeliest predicted solve state is the observed one, where n > 0 (DPS, arXiv 2603.10887)."""
    likeliest = jnp.argmax(jnp.stack([prediction.unsolved, prediction.mixed, prediction.solved]), axis=0)
    known = group_size > 0
    return (known & (likeliest == solve_states(successes, group_size))).sum() / known.sum()
