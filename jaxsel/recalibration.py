r"""A predicted probability of a mixed group, corrected by what came of earlier predictions.

    P(0 < s < n) <- g( P(0 < s < n) ),    g increasing, learnt online from all pairs (predicted, came) so far

A pair of k steps ago is worth `memory`^k. Two kinds of g:

    isotonic   the increasing function nearest to the pairs: pools neighbours that are in the wrong order ("Transforming
               Classifier Scores into Accurate Multiclass Probability Estimates", Zadrozny and Elkan 2002)
    beta       logit g(p) = a log p - b log(1 - p) + c, a and b at least 0: three numbers, for few pairs ("Beta
               calibration", Kull, Silva Filho and Flach 2017)

Pairs are kept as sums in bins of p, narrower towards 0 and 1, each of which starts with one pair that says that
the prediction was right. So g starts as the identity, and stays near it where nothing was ever predicted.

What is learnt is how to correct the predictions of prompts that were *chosen*; of prompts with the same prediction that
were not, for example because their draw lay elsewhere, it says as much as they are like those.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate
from jaxsel._state import said_by
from jaxsel._visits import merge_visits, solve_states
from jaxsel.base import MIXED, Prediction, Predictor, Rollouts, State

_NUM_BINS = 64
_SMALLEST = 1e-6  # of a probability whose logarithm is taken
_NEWTON_STEPS = 40
_PRIOR_PRECISION = 0.1  # of a, b and c around the identity: a tenth of a pair's information


class Pairs(NamedTuple):
    """Pairs of a predicted probability and what came, in bins of the probability.

    Attributes:
        size: pairs in the bin.
        predicted: the sum of their predictions.
        came: how many of the events came.
    """

    size: Float[Array, " k"]
    predicted: Float[Array, " k"]
    came: Float[Array, " k"]


def no_pairs() -> Pairs:
    """One pair in every bin, that was right."""
    middles = np.sin(np.pi / 2 * (np.arange(_NUM_BINS) + 0.5) / _NUM_BINS) ** 2
    return Pairs(*(jnp.array(sums, jnp.float32) for sums in (np.ones(_NUM_BINS), middles, middles)))


def with_pairs(
    pairs: Pairs, probability: Float[Array, " m"], came: Float[Array, " m"], weights: Float[Array, " m"], memory: float
) -> Pairs:
    """The pairs of one more step."""
    position = 2 / jnp.pi * jnp.arcsin(jnp.sqrt(jnp.clip(probability, 0, 1)))
    bins = jnp.clip((position * _NUM_BINS).astype(jnp.int32), 0, _NUM_BINS - 1)
    start = no_pairs()

    def added(old: Float[Array, " k"], prior: Float[Array, " k"], new: Float[Array, " m"]) -> Float[Array, " k"]:
        return (prior + memory * (old - prior)).at[bins].add(weights * new)

    ones = jnp.ones_like(probability)
    return Pairs(*map(added, pairs, start, (ones, probability, came)))


def isotonic(pairs: Pairs) -> Callable[[Float[Array, " m"]], Float[Array, " m"]]:
    """The increasing function nearest to the pairs, in a straight line from bin to bin.

    Bin k has the value max_{i <= k} min_{j >= k} of the mean of the bins i to j (Barlow et al. 1972, theorem 1.9): as
    many numbers as pairs of bins, without a loop.
    """
    size, came = (jnp.concatenate([jnp.zeros(1), jnp.cumsum(sums)]) for sums in (pairs.size, pairs.came))
    first, last = jnp.arange(_NUM_BINS)[:, None], jnp.arange(_NUM_BINS)[None]
    ordered = first <= last
    mean = (came[last + 1] - came[first]) / jnp.where(ordered, size[last + 1] - size[first], 1)
    smallest = jax.lax.cummin(jnp.where(ordered, mean, jnp.inf), axis=1, reverse=True)
    values = jnp.max(jnp.where(ordered, smallest, -jnp.inf), axis=0)
    knots = pairs.predicted / pairs.size
    return lambda probability: jnp.interp(probability, knots, values)


def beta(pairs: Pairs) -> Callable[[Float[Array, " m"]], Float[Array, " m"]]:
    """The beta calibration likeliest to have led to the pairs."""

    def features(probability: Float[Array, " m"]) -> Float[Array, "m 3"]:
        p = jnp.clip(probability, _SMALLEST, 1 - _SMALLEST)
        return jnp.stack([jnp.log(p), -jnp.log1p(-p), jnp.ones_like(p)], 1)

    x = features(pairs.predicted / pairs.size)
    identity = jnp.array([1.0, 1.0, 0.0])

    def newton(free: Float[Array, " 3"]) -> Callable[..., Float[Array, " 3"]]:
        """Newton's steps of logistic regression in the parameters that are free, with a prior around the identity."""

        def moved(_: Int[Array, ""], parameters: Float[Array, " 3"]) -> Float[Array, " 3"]:
            rate = jax.nn.sigmoid(x @ parameters)
            gradient = x.T @ (pairs.came - pairs.size * rate) - _PRIOR_PRECISION * (parameters - identity)
            curvature = (x.T * (pairs.size * rate * (1 - rate))[None]) @ x + _PRIOR_PRECISION * jnp.eye(3)
            curvature = jnp.where(free[:, None] * free[None] > 0, curvature, jnp.eye(3))
            step = jnp.linalg.solve(curvature, gradient * free)
            # from far off Newton's step may lead still further: no logit moves by more than 2
            return parameters + step / jnp.maximum(1, jnp.max(jnp.abs(x @ step)) / 2)

        return moved

    everything = jnp.ones(3)
    parameters = jax.lax.fori_loop(0, _NEWTON_STEPS, newton(everything), identity)
    slopes = parameters[:2] > 0  # of one that is not, nothing is left, and the others are fitted again
    free = jnp.append(slopes.astype(jnp.float32), 1.0)
    parameters = jax.lax.fori_loop(0, _NEWTON_STEPS, newton(free), parameters * free)
    parameters = parameters.at[:2].max(0)
    return lambda probability: jax.nn.sigmoid(features(probability) @ parameters)


MAPS: dict[str, Callable[[Pairs], Callable[[Float[Array, " m"]], Float[Array, " m"]]]] = {
    "isotonic": isotonic,
    "beta": beta,
}


class RecalibratedState(NamedTuple):
    """The state of the predictor itself, and what came of its predictions.

    Attributes:
        inner: the predictor's own.
        pairs: see `Pairs`.
        num_prompts: the size of the pool.
    """

    inner: State
    pairs: Pairs
    num_prompts: Int[Array, ""]

    @property
    def embeddings(self) -> Float[Array, "N d"]:
        """See `Embedded`."""
        return self.inner.embeddings

    @property
    def latest(self) -> Callable[[int], Rollouts]:
        """See `Embedded`."""
        return self.inner.latest

    def constants(self) -> tuple[str, ...]:
        """Those of the predictor itself."""
        return tuple(f"inner.{name}" for name in said_by(self.inner, "constants", ()))

    def metrics(self) -> dict[str, Array]:
        """Those of the predictor itself."""
        return said_by(self.inner, "metrics", {})


def recalibrated(predictor: Predictor, *, method: str = "isotonic", memory: float = 0.98) -> Predictor:
    """A predictor whose probability of a mixed group keeps what it promises.

    P(s = 0) and P(s = n) share the rest in the proportion they had; success rate, variance and draw stay as they were.
    The order of prompts stays too, but for ties: of "isotonic" there are many, so select with "beta".

    The state cannot be sharded: a pair is made of a prediction, which one device has, and belongs to all of them.

    Args:
        predictor: for example `jaxsel.hidden_markov()`, whose probability never goes above 0.684.
        method: "isotonic" or "beta".
        memory: what a step leaves of the earlier pairs, above 0 and at most 1.

    Raises:
        ValueError: an argument out of its range.
    """
    _validate.one_of(MAPS, method=method)
    _validate.unit_interval(memory=memory)
    _validate.positive(memory=memory)

    def init(key: Key[Array, ""], num_prompts: int) -> RecalibratedState:
        return RecalibratedState(predictor.init(key, num_prompts), no_pairs(), jnp.int32(num_prompts))

    def predict(
        key: Key[Array, ""],
        state: RecalibratedState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        prediction = predictor.predict(key, state.inner, prompt_ids, first_id)
        mixed = MAPS[method](state.pairs)(prediction.mixed)
        rest = prediction.unsolved + prediction.solved
        unsolved = jnp.where(rest > 0, prediction.unsolved / jnp.where(rest > 0, rest, 1), 0.5) * (1 - mixed)
        return prediction._replace(unsolved=unsolved, mixed=mixed, solved=1 - mixed - unsolved)

    def update(key: Key[Array, ""], state: RecalibratedState, rollouts: Rollouts) -> RecalibratedState:
        prediction_key, update_key = jax.random.split(key)
        visits = merge_visits(rollouts, state.num_prompts)
        there = visits.group_size > 0
        before = predictor.predict(prediction_key, state.inner, jnp.where(there, visits.prompt_ids, 0))
        came = (solve_states(visits.successes, visits.group_size) == MIXED).astype(jnp.float32)
        pairs = with_pairs(state.pairs, before.mixed, came, there.astype(jnp.float32), memory)
        return RecalibratedState(predictor.update(update_key, state.inner, rollouts), pairs, state.num_prompts)

    spec = {"predictor": "recalibrated", "method": method, "memory": memory, "inner": predictor.spec}
    return Predictor(spec, init, predict, update)
