r"""A correction of the predicted probability of a mixed group, learned from the outcomes of earlier predictions.

    P(0 < s < n) <- g( P(0 < s < n) ),    g increasing, learned online from pairs (prediction, outcome)

A group of n rollouts of one prompt, s of them correct, is mixed if 0 < s < n. A pair is the predicted probability of a
mixed group, and 1 if the group was mixed or 0 if it was not. The state keeps the last `window` pairs. There are two
kinds of g:

    isotonic   The increasing function nearest to the pairs. It pools neighbours that are in the wrong order
               ("Transforming Classifier Scores into Accurate Multiclass Probability Estimates", Zadrozny and Elkan
               2002).
    beta       logit g(p) = a log p - b log(1 - p) + c, with a and b at least 0. It has three parameters, for few pairs
               ("Beta calibration", Kull, Silva Filho and Flach 2017).

Both kinds of g are fitted to at most 64 groups of pairs with similar predictions. These groups hold equally many pairs
each, because bins of equal width could leave most pairs in one bin. The method `dps`, for example, predicts nearly the
same for all prompts without a recent visit: the predictions differ only in the fourth digit.

Sixteen prior pairs are added. Their predictions are evenly spread, and their outcomes equal their predictions. They
make g start near the identity, and keep it near the identity where there are no predictions. Below the lowest group and
above the highest group, the isotonic g is constant.

The pairs come from *observed* prompts, which a selector has chosen. The correction holds for other prompts with the
same prediction only as far as they resemble the chosen ones. The two may differ, because the choice uses more than this
prediction, for example a draw from the posterior.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxsel import _validate
from jaxsel._inner import inner_constants, inner_embedded
from jaxsel._rows import on_changed_pool
from jaxsel._shared import shared
from jaxsel._visits import merge_visits, solve_states
from jaxsel.base import MIXED, Prediction, Predictor, Rollouts, State, call_optional
from jaxsel.numerics.weighted import bin_sums, mid_ranks

_NUM_GROUPS = 64  # groups of pairs
_CERTAIN = 1e-4  # the smallest isotonic probability: no finite number of pairs shows that an event never occurs
_FIRST = 16  # the number of prior pairs
_SMALLEST = 1e-6  # the smallest probability whose logarithm is taken
_NEWTON_STEPS = 40
_PRIOR_PRECISION = 0.1  # the precision of the Gaussian prior of a, b and c around the identity


class Pairs(NamedTuple):
    """The last W pairs, in a ring buffer.

    Attributes:
        predicted: The predicted probability of the event, a mixed group.
        came: 1 if the event occurred, and 0 otherwise. The name stays, because checkpoints contain it.
        number: The number of pairs so far, including pairs that the buffer no longer holds.
    """

    predicted: Float[Array, " W"]
    came: Float[Array, " W"]
    number: Int[Array, ""]


class Groups(NamedTuple):
    """Groups of pairs with similar predictions, in increasing order of the predictions. A group may be empty.

    Attributes:
        size: The number of pairs in the group.
        predicted: The mean prediction of the group.
        occurred: The share of the group's pairs whose event occurred.
    """

    size: Float[Array, " k"]
    predicted: Float[Array, " k"]
    occurred: Float[Array, " k"]


def no_pairs(window: int) -> Pairs:
    """Return an empty ring buffer for `window` pairs."""
    return Pairs(jnp.zeros(window, jnp.float32), jnp.zeros(window, jnp.float32), jnp.int32(0))


@jax.jit
def with_pairs(
    pairs: Pairs, predicted: Float[Array, " m"], occurred: Float[Array, " m"], mask: Bool[Array, " m"]
) -> Pairs:
    """Return the pairs with new pairs appended: the rows of one step for which `mask` is true.

    If the step has more pairs than the buffer can hold, its last pairs are kept.
    """
    window = pairs.predicted.shape[0]
    after = pairs.number + jnp.cumsum(mask, dtype=jnp.int32)  # the running number of each pair
    mask = mask & (after > after[-1:] - window)
    at = jnp.where(mask, (after - 1) % window, window)
    return Pairs(
        pairs.predicted.at[at].set(predicted, mode="drop"),
        pairs.came.at[at].set(occurred, mode="drop"),
        after[-1] if after.size else pairs.number,
    )


def grouped(pairs: Pairs) -> Groups:
    """Return the pairs and the prior pairs in groups of about equal size. Equal predictions stay in one group."""
    first = (jnp.arange(_FIRST, dtype=jnp.float32) + 0.5) / _FIRST
    predicted, occurred = jnp.concatenate([first, pairs.predicted]), jnp.concatenate([first, pairs.came])
    kept = jnp.arange(pairs.predicted.shape[0], dtype=jnp.int32) < pairs.number
    weights = jnp.concatenate([jnp.ones(_FIRST, jnp.float32), kept.astype(jnp.float32)])
    group = jnp.clip((mid_ranks(predicted, weights) * _NUM_GROUPS).astype(jnp.int32), 0, _NUM_GROUPS - 1)
    size, *sums = (
        bin_sums(weights * values, group, _NUM_GROUPS) for values in (jnp.ones_like(occurred), predicted, occurred)
    )
    return Groups(size, *(total / jnp.maximum(size, 1) for total in sums))


def isotonic(groups: Groups) -> Callable[[Float[Array, " m"]], Float[Array, " m"]]:
    """Return the increasing function nearest to the groups, linear between neighbouring groups.

    Group k has the value max_{i <= k} min_{j >= k} of the mean of the groups i to j (Barlow et al. 1972, theorem 1.9).
    The code computes the mean for every i and j, and needs no loop.
    """
    some = groups.size > 0
    size, occurred = (
        jnp.concatenate([jnp.zeros(1, jnp.float32), jnp.cumsum(x)])
        for x in (groups.size, groups.size * groups.occurred)
    )
    first, last = jnp.arange(_NUM_GROUPS)[:, None], jnp.arange(_NUM_GROUPS)[None]
    together = size[last + 1] - size[first]
    mean = jnp.where(
        together > 0, (occurred[last + 1] - occurred[first]) / jnp.where(together > 0, together, 1), jnp.inf
    )
    smallest = jax.lax.cummin(jnp.where(first <= last, mean, jnp.inf), axis=1, reverse=True)
    values = jnp.max(jnp.where((first <= last) & some[:, None], smallest, -jnp.inf), axis=0)

    def filled(x: Float[Array, " k"]) -> Float[Array, " k"]:
        """Return x with the values of empty groups replaced by the last value before them, or by the first value."""
        return jnp.maximum(jax.lax.cummax(jnp.where(some, x, -jnp.inf)), jnp.min(jnp.where(some, x, jnp.inf)))

    knots, values = filled(groups.predicted), jnp.clip(filled(values), _CERTAIN, 1 - _CERTAIN)
    return lambda probability: jnp.interp(probability, knots, values)


def beta(groups: Groups) -> Callable[[Float[Array, " m"]], Float[Array, " m"]]:
    """Return the beta calibration with the highest posterior density, given the groups."""

    def features(probability: Float[Array, " m"]) -> Float[Array, "m 3"]:
        p = jnp.clip(probability, _SMALLEST, 1 - _SMALLEST)
        return jnp.stack([jnp.log(p), -jnp.log1p(-p), jnp.ones_like(p)], 1)

    x = features(groups.predicted)
    unit = jnp.eye(3, dtype=jnp.float32)
    identity = jnp.array([1.0, 1.0, 0.0], jnp.float32)

    def fitted(free: Float[Array, " 3"]) -> tuple[Float[Array, " 3"], Float[Array, ""]]:
        """Return the best parameters and their loss. Parameters that are not `free` are 0.

        The loss is infinite if one of the slopes a and b is negative.
        """

        def newton(_: Int[Array, ""], parameters: Float[Array, " 3"]) -> Float[Array, " 3"]:
            rate = jax.nn.sigmoid(x @ parameters)
            gradient = x.T @ (groups.size * (groups.occurred - rate)) - _PRIOR_PRECISION * (parameters - identity)
            curvature = (x.T * (groups.size * rate * (1 - rate))[None]) @ x + _PRIOR_PRECISION * unit
            curvature = jnp.where(free[:, None] * free[None] > 0, curvature, unit)
            step = jnp.linalg.solve(curvature, gradient * free)
            # far from the optimum Newton's step may overshoot, so no logit moves by more than 2
            return parameters + step / jnp.maximum(1, jnp.max(jnp.abs(x @ step)) / 2)

        parameters = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, identity * free)
        logit = x @ parameters
        surprise = jax.nn.softplus(logit) - groups.occurred * logit
        off = 0.5 * _PRIOR_PRECISION * jnp.sum((parameters - identity) ** 2)
        return parameters, jnp.where((parameters[:2] >= 0).all(), jnp.sum(groups.size * surprise) + off, jnp.inf)

    # four fits: both slopes a and b are free, then one of them, then none; the last fit never has a negative slope
    each, loss = jax.vmap(fitted)(jnp.array([[1.0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]], jnp.float32))
    parameters = each[jnp.argmin(loss)]
    return lambda probability: jax.nn.sigmoid(features(probability) @ parameters)


MAPS: dict[str, Callable[[Groups], Callable[[Float[Array, " m"]], Float[Array, " m"]]]] = {
    "isotonic": isotonic,
    "beta": beta,
}


def with_mixed(prediction: Prediction, mixed: Float[Array, " m"]) -> Prediction:
    """Return the prediction with new probabilities of a mixed group, and the old ratio of P(s = 0) to P(s = n)."""
    rest = prediction.unsolved + prediction.solved
    unsolved = jnp.where(rest > 0, prediction.unsolved / jnp.where(rest > 0, rest, 1), 0.5) * (1 - mixed)
    return prediction._replace(unsolved=unsolved, mixed=mixed, solved=1 - mixed - unsolved)


class RecalibratedState(NamedTuple):
    """The state of the inner predictor, and the outcomes of its predictions.

    Attributes:
        inner: The state of the inner predictor.
        pairs: The last pairs of a prediction and its outcome.
        num_prompts: The size of the pool.
    """

    inner: State
    pairs: Pairs
    num_prompts: Int[Array, ""]

    constants = inner_constants
    embedded = inner_embedded

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: "RecalibratedState") -> "RecalibratedState":
        """Return the state for a changed pool, see `StateMethods.with_rows`. The pairs stay."""
        return RecalibratedState(on_changed_pool(self.inner, rows, fresh.inner), self.pairs, fresh.num_prompts)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the inner state."""
        return call_optional(self.inner, "metrics", {})


def recalibrated(predictor: Predictor, *, method: str = "isotonic", window: int = 4096) -> Predictor:
    """Return the predictor with a calibrated probability of a mixed group.

    The correction does not change the success rate, the variance, the draw, or the ratio of P(s = 0) to P(s = n). It
    keeps the order of prompts by P(0 < s < n), except for ties. "isotonic" makes many ties, so use "beta" to select by
    this probability.

    The state cannot be sharded: each device would predict its own prompts, but the correction needs all pairs.

    Args:
        predictor: The predictor to correct, for example `jaxsel.hidden_markov()`, whose probability of a mixed group
            never exceeds 0.684. The correction learns from the groups as they come: from groups that are smaller than
            the predictor's group size it learns too small probabilities. Single rollouts, which are never mixed, are
            left out.
        method: The kind of the correction, "isotonic" or "beta".
        window: The number of latest pairs to learn from.

    Raises:
        ValueError: An argument is out of its range.
    """
    _validate.made(Predictor, predictor=predictor)
    _validate.one_of(MAPS, method=method)
    _validate.positive_integer(window=window)
    window = int(window)

    groups_of_one = group_size_of(predictor.spec) == 1  # a group of one rollout is never mixed

    def init(key: Key[Array, ""], num_prompts: int) -> RecalibratedState:
        return RecalibratedState(predictor.init(key, num_prompts), no_pairs(window), jnp.int32(num_prompts))

    spec = {"name": "recalibrated", "method": method, "window": window, "predictor": predictor.spec}
    predict = _corrected(predictor.predict, method, groups_of_one)
    screen = None if predictor.screen is None else _corrected(predictor.screen, method, groups_of_one)
    return Predictor(spec, init, predict, _observing(predictor.predict, predictor.update), screen)


@shared
def _corrected(inner_predict: Callable[..., Any], method: str, groups_of_one: bool) -> Callable[..., Prediction]:
    def predict(
        key: Key[Array, ""],
        state: RecalibratedState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        prediction = inner_predict(key, state.inner, prompt_ids, first_id)
        if groups_of_one:
            return prediction
        return with_mixed(prediction, MAPS[method](grouped(state.pairs))(prediction.mixed))

    return predict


@shared
def _observing(inner_predict: Callable[..., Any], inner_update: Callable[..., Any]) -> Callable[..., RecalibratedState]:
    def update(key: Key[Array, ""], state: RecalibratedState, rollouts: Rollouts) -> RecalibratedState:
        prediction_key, update_key = jax.random.split(key)
        visits = merge_visits(rollouts, state.num_prompts)
        can_be_mixed = visits.group_size > 1
        before = inner_predict(prediction_key, state.inner, jnp.where(can_be_mixed, visits.prompt_ids, 0))
        occurred = (solve_states(visits.successes, visits.group_size) == MIXED).astype(jnp.float32)
        pairs = with_pairs(state.pairs, before.mixed, occurred, can_be_mixed)
        return RecalibratedState(inner_update(update_key, state.inner, rollouts), pairs, state.num_prompts)

    return update


def group_size_of(spec: dict[str, Any]) -> int | None:
    """Return the group size in the predictor's spec, or in the spec of the predictor that it recalibrates."""
    inner = spec.get("predictor")
    return spec.get("group_size", group_size_of(inner) if isinstance(inner, dict) else None)
