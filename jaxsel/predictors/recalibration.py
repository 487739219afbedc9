r"""A predicted probability of a mixed group, corrected by what came of earlier predictions.

    P(0 < s < n) <- g( P(0 < s < n) ),    g increasing, learnt online from pairs (predicted, came)

The last `window` pairs are kept. Two kinds of g:

    isotonic   the increasing function nearest to the pairs: pools neighbours that are in the wrong order ("Transforming
               Classifier Scores into Accurate Multiclass Probability Estimates", Zadrozny and Elkan 2002)
    beta       logit g(p) = a log p - b log(1 - p) + c, a and b at least 0: three numbers, for few pairs ("Beta
               calibration", Kull, Silva Filho and Flach 2017)

Both see the pairs in groups of neighbours, as many in each: a predictor may tell prompts apart by the fourth digit, as
dps does of prompts that wait for long. A few more pairs, evenly spread, say that the prediction was right: so g starts
as the identity, and stays near it where nothing was ever predicted. Beyond the lowest and the highest group, isotonic
is constant.

What is learnt is how to correct the predictions of prompts that were *chosen*; of prompts with the same prediction that
were not, for example because their draw lay elsewhere, it says as much as they are like those.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel._visits import merge_visits, solve_states
from jaxsel.base import MIXED, Embedded, Prediction, Predictor, Rollouts, State, embedded_in, said_by
from jaxsel.numerics.weighted import bin_sums, mid_ranks

_NUM_GROUPS = 64
_CERTAIN = 1e-4  # no finite number of pairs shows that an event never comes
_FIRST = 16  # pairs that say that the prediction was right
_SMALLEST = 1e-6  # of a probability whose logarithm is taken
_NEWTON_STEPS = 40
_PRIOR_PRECISION = 0.1  # of a, b and c around the identity: a tenth of a pair's information


class Pairs(NamedTuple):
    """The last W pairs, a ring.

    Attributes:
        predicted: the probability.
        came: 1 if the event did.
        number: of pairs so far, the forgotten ones too.
    """

    predicted: Float[Array, " W"]
    came: Float[Array, " W"]
    number: Int[Array, ""]


class Groups(NamedTuple):
    """Pairs with predictions next to each other, in increasing order; some may be empty.

    Attributes:
        size: pairs in the group.
        predicted: the mean of their predictions.
        came: the share of the events that came.
    """

    size: Float[Array, " k"]
    predicted: Float[Array, " k"]
    came: Float[Array, " k"]


def no_pairs(window: int) -> Pairs:
    """A ring for the last `window` pairs."""
    return Pairs(jnp.zeros(window, jnp.float32), jnp.zeros(window, jnp.float32), jnp.int32(0))


def with_pairs(
    pairs: Pairs, predicted: Float[Array, " m"], came: Float[Array, " m"], there: Bool[Array, " m"]
) -> Pairs:
    """The pairs of one more step, of the rows that are there; of more than the ring holds, the last."""
    window = pairs.predicted.shape[0]
    after = pairs.number + jnp.cumsum(there, dtype=jnp.int32)  # the number of each
    there = there & (after > after[-1:] - window)
    at = jnp.where(there, (after - 1) % window, window)
    return Pairs(
        pairs.predicted.at[at].set(predicted, mode="drop"),
        pairs.came.at[at].set(came, mode="drop"),
        after[-1] if after.size else pairs.number,
    )


def grouped(pairs: Pairs) -> Groups:
    """As many pairs in each group, as far as equal predictions, which stay together, let them."""
    first = (jnp.arange(_FIRST, dtype=jnp.float32) + 0.5) / _FIRST
    predicted, came = jnp.concatenate([first, pairs.predicted]), jnp.concatenate([first, pairs.came])
    kept = jnp.arange(pairs.predicted.shape[0]) < pairs.number
    weights = jnp.concatenate([jnp.ones(_FIRST, jnp.float32), kept.astype(jnp.float32)])
    group = jnp.clip((mid_ranks(predicted, weights) * _NUM_GROUPS).astype(jnp.int32), 0, _NUM_GROUPS - 1)
    size, *sums = (bin_sums(weights * values, group, _NUM_GROUPS) for values in (jnp.ones_like(came), predicted, came))
    return Groups(size, *(total / jnp.maximum(size, 1) for total in sums))


def isotonic(groups: Groups) -> Callable[[Float[Array, " m"]], Float[Array, " m"]]:
    """The increasing function nearest to the groups, in a straight line from one to the next.

    Group k has the value max_{i <= k} min_{j >= k} of the mean of the groups i to j (Barlow et al. 1972, theorem 1.9):
    as many numbers as pairs of groups, without a loop.
    """
    some = groups.size > 0
    size, came = (
        jnp.concatenate([jnp.zeros(1, jnp.float32), jnp.cumsum(x)]) for x in (groups.size, groups.size * groups.came)
    )
    first, last = jnp.arange(_NUM_GROUPS)[:, None], jnp.arange(_NUM_GROUPS)[None]
    together = size[last + 1] - size[first]
    mean = jnp.where(together > 0, (came[last + 1] - came[first]) / jnp.where(together > 0, together, 1), jnp.inf)
    smallest = jax.lax.cummin(jnp.where(first <= last, mean, jnp.inf), axis=1, reverse=True)
    values = jnp.max(jnp.where((first <= last) & some[:, None], smallest, -jnp.inf), axis=0)

    def filled(x: Float[Array, " k"]) -> Float[Array, " k"]:
        """An empty group is the one before it; the first, the one after it."""
        return jnp.maximum(jax.lax.cummax(jnp.where(some, x, -jnp.inf)), jnp.min(jnp.where(some, x, jnp.inf)))

    knots, values = filled(groups.predicted), jnp.clip(filled(values), _CERTAIN, 1 - _CERTAIN)
    return lambda probability: jnp.interp(probability, knots, values)


def beta(groups: Groups) -> Callable[[Float[Array, " m"]], Float[Array, " m"]]:
    """The beta calibration likeliest to have led to the groups."""

    def features(probability: Float[Array, " m"]) -> Float[Array, "m 3"]:
        p = jnp.clip(probability, _SMALLEST, 1 - _SMALLEST)
        return jnp.stack([jnp.log(p), -jnp.log1p(-p), jnp.ones_like(p)], 1)

    x = features(groups.predicted)
    unit = jnp.eye(3, dtype=jnp.float32)
    identity = jnp.array([1.0, 1.0, 0.0], jnp.float32)

    def fitted(free: Float[Array, " 3"]) -> tuple[Float[Array, " 3"], Float[Array, ""]]:
        """The likeliest of the parameters that are free, with a prior around the identity, and its loss."""

        def newton(_: Int[Array, ""], parameters: Float[Array, " 3"]) -> Float[Array, " 3"]:
            rate = jax.nn.sigmoid(x @ parameters)
            gradient = x.T @ (groups.size * (groups.came - rate)) - _PRIOR_PRECISION * (parameters - identity)
            curvature = (x.T * (groups.size * rate * (1 - rate))[None]) @ x + _PRIOR_PRECISION * unit
            curvature = jnp.where(free[:, None] * free[None] > 0, curvature, unit)
            step = jnp.linalg.solve(curvature, gradient * free)
            # from far off Newton's step may lead still further: no logit moves by more than 2
            return parameters + step / jnp.maximum(1, jnp.max(jnp.abs(x @ step)) / 2)

        parameters = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, identity * free)
        logit = x @ parameters
        surprise = jax.nn.softplus(logit) - groups.came * logit
        off = 0.5 * _PRIOR_PRECISION * jnp.sum((parameters - identity) ** 2)
        return parameters, jnp.where((parameters[:2] >= 0).all(), jnp.sum(groups.size * surprise) + off, jnp.inf)

    # with both slopes, with either alone, and with none, which is always allowed
    each, loss = jax.vmap(fitted)(jnp.array([[1.0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]], jnp.float32))
    parameters = each[jnp.argmin(loss)]
    return lambda probability: jax.nn.sigmoid(features(probability) @ parameters)


MAPS: dict[str, Callable[[Groups], Callable[[Float[Array, " m"]], Float[Array, " m"]]]] = {
    "isotonic": isotonic,
    "beta": beta,
}


def with_mixed(prediction: Prediction, mixed: Float[Array, " m"]) -> Prediction:
    """Another probability of a mixed group; the two other states share the rest in the proportion they had."""
    rest = prediction.unsolved + prediction.solved
    unsolved = jnp.where(rest > 0, prediction.unsolved / jnp.where(rest > 0, rest, 1), 0.5) * (1 - mixed)
    return prediction._replace(unsolved=unsolved, mixed=mixed, solved=1 - mixed - unsolved)


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

    def embedded(self) -> Embedded | None:
        """What the inner state says."""
        return embedded_in(self.inner)

    def constants(self) -> tuple[str, ...]:
        """The names that the inner state gives."""
        return tuple(f"inner.{name}" for name in said_by(self.inner, "constants", ()))

    def metrics(self) -> dict[str, Any]:
        """What the inner state says."""
        return said_by(self.inner, "metrics", {})


def recalibrated(predictor: Predictor, *, method: str = "isotonic", window: int = 4096) -> Predictor:
    """A predictor whose probability of a mixed group keeps what it promises.

    P(s = 0) and P(s = n) share the rest in the proportion they had; success rate, variance and draw stay as they were.
    The order of prompts stays too, but for ties: of "isotonic" there are many, so select with "beta".

    The state cannot be sharded: a pair is made of a prediction, which one device has, and belongs to all of them.

    Args:
        predictor: for example `jaxsel.hidden_markov()`, whose probability never goes above 0.684.
        method: "isotonic" or "beta".
        window: pairs to learn from, the last ones.

    Raises:
        ValueError: an argument out of its range.
    """
    _validate.made(Predictor, predictor=predictor)
    _validate.one_of(MAPS, method=method)
    _validate.positive_integer(window=window)

    groups_of_one = _group_size(predictor.spec) == 1  # never mixed, whatever was observed

    def init(key: Key[Array, ""], num_prompts: int) -> RecalibratedState:
        return RecalibratedState(predictor.init(key, num_prompts), no_pairs(window), jnp.int32(num_prompts))

    def predict(
        key: Key[Array, ""],
        state: RecalibratedState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        prediction = predictor.predict(key, state.inner, prompt_ids, first_id)
        if groups_of_one:
            return prediction
        return with_mixed(prediction, MAPS[method](grouped(state.pairs))(prediction.mixed))

    def update(key: Key[Array, ""], state: RecalibratedState, rollouts: Rollouts) -> RecalibratedState:
        prediction_key, update_key = jax.random.split(key)
        visits = merge_visits(rollouts, state.num_prompts)
        there = visits.group_size > 0
        before = predictor.predict(prediction_key, state.inner, jnp.where(there, visits.prompt_ids, 0))
        came = (solve_states(visits.successes, visits.group_size) == MIXED).astype(jnp.float32)
        pairs = with_pairs(state.pairs, before.mixed, came, there)
        return RecalibratedState(predictor.update(update_key, state.inner, rollouts), pairs, state.num_prompts)

    spec = {"name": "recalibrated", "method": method, "window": window, "predictor": predictor.spec}
    return Predictor(spec, init, predict, update)


def _group_size(spec: dict[str, Any]) -> int | None:
    """The group size that the predictor, or the one it recalibrates, speaks of."""
    inner = spec.get("predictor")
    return spec.get("group_size", _group_size(inner) if isinstance(inner, dict) else None)
