r"""Ridge regression of success rates on embeddings, as an online predictor: the baseline for the network of GPS.

    w = argmin sum_i (s_i / n_i - mean - w . x_i)^2 + penalty |w|^2,    a visit k steps ago has the weight memory^k

Visit i is a step in which a prompt with the embedding x_i has s_i successes in n_i rollouts.

The penalty minimises the generalised cross-validation error ("Generalized Cross-Validation as a Method for
Choosing a Good Ridge Parameter", Golub, Heath and Wahba 1979), and is computed anew for every prediction. The residual
variance of the visits, less the noise of their rollouts, is the variance of the true success rate around the
regression, the same for all prompts. Each prompt thus has a Beta distribution, which gives the probability of a mixed
group: a group with both successes and failures.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

import jaxsel
from jaxsel._visits import merge_visits
from jaxsel.numerics import random
from jaxsel.numerics.beta_binomial import solve_state_probabilities

_PENALTIES = np.logspace(-1, 6, 29)
_SMALLEST = 0.01  # rates stay this far from 0 and 1, which a regression line can cross


class RidgeState(NamedTuple):
    """Discounted sums over visits, of features x and rates y.

    Attributes:
        size: Discounted number of visits.
        x: Sum of x.
        xx: Sum of x x'.
        y: Sum of y.
        xy: Sum of x y.
        yy: Sum of y^2.
        noise: Sum of unbiased estimates of each rate's sampling variance.
    """

    size: Float[Array, ""]
    x: Float[Array, " d"]
    xx: Float[Array, "d d"]
    y: Float[Array, ""]
    xy: Float[Array, " d"]
    yy: Float[Array, ""]
    noise: Float[Array, ""]


class _Line(NamedTuple):
    middle: Float[Array, " d"]
    intercept: Float[Array, ""]
    slope: Float[Array, " d"]
    variance: Float[Array, ""]


def fitted(state: RidgeState) -> _Line:
    """Return the regression with the best penalty."""
    size = jnp.maximum(state.size, 2)
    middle, intercept = state.x / size, state.y / size
    values, vectors = jnp.linalg.eigh(state.xx - size * middle[:, None] * middle[None])
    values = jnp.maximum(values, 0)
    z = vectors.T @ (state.xy - size * middle * intercept)
    total = jnp.maximum(state.yy - size * intercept**2, 0)

    def tried(penalty: Float[Array, ""]) -> tuple[Array, Array, Array]:
        weight = z / (values + penalty)
        freedom = jnp.maximum(size - 1 - jnp.sum(values / (values + penalty)), 1)
        rest = jnp.maximum(total - jnp.sum(weight * (2 * z - values * weight)), 0)
        return size * rest / freedom**2, weight, rest / freedom

    error, weight, rest = jax.vmap(tried)(jnp.asarray(_PENALTIES, jnp.float32))
    best = jnp.argmin(error)
    return _Line(middle, intercept, vectors @ weight[best], jnp.maximum(rest[best] - state.noise / size, 1e-3))


def ridge(embeddings: np.ndarray, *, group_size: int = 8, memory: float = 0.97) -> jaxsel.Predictor:
    """Return the predictor.

    Args:
        embeddings: Embeddings, one row per prompt of the pool.
        group_size: Rollouts per prompt n, to which `unsolved`, `mixed` and `solved` refer.
        memory: Weight per step that earlier visits keep.
    """
    spread = embeddings.std(0)
    features = jnp.asarray((embeddings - embeddings.mean(0)) / np.where(spread > 0, spread, 1), jnp.float32)

    def init(key: Key[Array, ""], num_prompts: int) -> RidgeState:
        del key, num_prompts
        d = features.shape[1]
        zero, vector = jnp.zeros(()), jnp.zeros(d)
        return RidgeState(zero, vector, jnp.zeros((d, d)), zero.copy(), vector.copy(), zero.copy(), zero.copy())

    def predict(
        key: Key[Array, ""], state: RidgeState, prompt_ids: Int[Array, " m"] | None, first_id: Any = 0
    ) -> jaxsel.Prediction:
        rows = jnp.arange(len(features)) if prompt_ids is None else prompt_ids
        line = fitted(state)
        seen = state.size > 0
        rate = line.intercept + (features[rows] - line.middle[None]) @ line.slope
        rate = jnp.where(seen, jnp.clip(rate, _SMALLEST, 1 - _SMALLEST), 0.5)
        variance = jnp.minimum(jnp.where(seen, line.variance, 1 / 12), 0.95 * rate * (1 - rate))
        total = rate * (1 - rate) / variance - 1
        alpha, beta = rate * total, (1 - rate) * total
        draw = random.beta(key, alpha, beta, ids=first_id + rows)
        return jaxsel.Prediction(rate, variance, draw, *solve_state_probabilities(alpha, beta, group_size))

    def update(key: Key[Array, ""], state: RidgeState, rollouts: jaxsel.Rollouts) -> RidgeState:
        del key
        visits = merge_visits(rollouts, len(features))
        n = visits.group_size.astype(jnp.float32)
        there = (n > 0).astype(jnp.float32)
        x = features[visits.prompt_ids] * there[:, None]
        y = there * visits.successes / jnp.maximum(n, 1)
        noise = y * (1 - y) / jnp.maximum(n - 1, 1)
        new = RidgeState(there.sum(), x.sum(0), x.T @ x, y.sum(), x.T @ y, (y * y).sum(), noise.sum())
        return jax.tree.map(lambda old, new: memory * old + new, state, new)

    spec = {"name": "ridge", "group_size": group_size, "memory": memory}
    return jaxsel.Predictor(spec, init, predict, update)
