"""The predictor `jaxsel.hidden_markov`: its arguments, its first state and its predictions."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._shared import shared
from jaxsel.base import Prediction, Predictor, Rollouts, Scalar
from jaxsel.numerics import random
from jaxsel.predictors.hidden_markov.filtering import HMMState, predicted, update
from jaxsel.predictors.priors import described

PRIOR_COUNTS = {
    "ones": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "progress": ((1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (0.5, 0.5, 1.0)),
    "stability": ((1.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0)),
    "local": ((1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 1.0)),
}
"""The DPS paper's prior counts of transitions from the row's state to the column's: UNSOLVED, MIXED, SOLVED."""

_SMALLEST_ROW, _LARGEST_ROW = 1e-20, 1e20  # if the sums of rows are in this range, they and their products fit float32


def hidden_markov(
    *,
    decay: Scalar = 0.7,
    prior_counts: ArrayLike | Array | None = None,
    initial_belief: ArrayLike | Array | None = None,
) -> Predictor:
    """Return the predictor of DPS: one hidden Markov model per prompt.

    The model describes solve states, not success rates. For `success_rate`, `variance` and `draw`, p is 0, 1/2 and 1 in
    the three states. Every update is one transition of the model, so update exactly once per training step.

    Args:
        decay: The factor on the earlier transition counts at each step, from 0 to 1.
        prior_counts: counts_0, a matrix [from, to] of numbers >= 0, at least one above 0 in each row; or the name of
            an entry of `PRIOR_COUNTS`. None means "ones".
        initial_belief: P(UNSOLVED), P(MIXED) and P(SOLVED) for a prompt's group in the first step, three numbers for
            all prompts or one row per prompt. None means uniform.

    Raises:
        ValueError: An argument is out of its range.
    """
    _validate.unit_interval(decay=decay)
    decay = decay if _validate.traced(decay) else float(decay)
    counts = _prior_matrix("ones" if prior_counts is None else prior_counts)
    belief = _initial_belief(initial_belief)

    def init(key: Key[Array, ""], num_prompts: int) -> HMMState:
        del key
        if belief.ndim == 2 and len(belief) != num_prompts:
            raise ValueError(f"initial_belief has {len(belief)} rows for {num_prompts} prompts; give one per prompt")
        start = jnp.array(belief).T if belief.ndim == 2 else jnp.tile(jnp.array(belief)[:, None], num_prompts)
        excess = jnp.zeros((3, 3, num_prompts), jnp.float32)
        return HMMState(start, start.copy(), excess, jnp.float32(1), jnp.array(counts))

    spec = {
        "name": "hidden_markov",
        "decay": _validate.json_value(decay),
        "prior_counts": _validate.json_value(counts),
        "initial_belief": _validate.json_value(belief) if belief.ndim == 1 else described(belief),
    }
    return Predictor(spec, init, *_functions(decay))


@shared
def _functions(decay: Scalar) -> tuple[Callable[..., Prediction], Callable[..., HMMState]]:
    def predict(
        key: Key[Array, ""],
        state: HMMState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        unsolved, mixed, solved = predicted(state, prompt_ids)
        mean = solved + mixed / 2
        rows = jnp.arange(mean.shape[0], dtype=jnp.int32) if prompt_ids is None else prompt_ids
        uniform = random.uniform(key, first_id + rows)
        draw = jnp.where(uniform < unsolved, 0.0, jnp.where(uniform < unsolved + mixed, 0.5, 1.0)).astype(mean.dtype)
        variance = jnp.maximum(solved + mixed / 4 - mean**2, 0)
        return Prediction(mean, variance, draw, unsolved, mixed, solved)

    def update_state(key: Key[Array, ""], state: HMMState, rollouts: Rollouts) -> HMMState:
        del key
        return update(state, rollouts, decay)

    return predict, update_state


def _prior_matrix(prior_counts: ArrayLike | Array) -> Float[np.ndarray, "3 3"] | Float[Array, "3 3"]:
    if _validate.traced(prior_counts):
        return prior_counts
    if isinstance(prior_counts, str):
        _validate.one_of(PRIOR_COUNTS, prior_counts=prior_counts)
    given, cure = PRIOR_COUNTS[prior_counts] if isinstance(prior_counts, str) else prior_counts, "give a 3 x 3 matrix"
    counts = _validate.on_host("prior_counts", given, np.float32, cure)
    fits = counts.shape == (3, 3) and np.isfinite(counts).all() and (counts >= 0).all() and counts.sum(1).all()
    if not fits:
        raise ValueError(
            f"prior_counts is {counts.tolist()}; give a 3 x 3 matrix of numbers >= 0, each row with one above 0"
        )
    sums = counts.sum(1, dtype=np.float64)
    if sums.min() < _SMALLEST_ROW or sums.max() > _LARGEST_ROW:
        raise ValueError(
            f"prior_counts has rows that sum to {sums.tolist()}; give sums from {_SMALLEST_ROW} to {_LARGEST_ROW}"
        )
    return counts


def _initial_belief(initial_belief: ArrayLike | Array | None) -> Float[np.ndarray | Array, "*pool 3"]:
    if _validate.traced(initial_belief):
        return initial_belief
    given, cure = (1, 1, 1) if initial_belief is None else initial_belief, "give three numbers, for all prompts or each"
    belief = _validate.on_host("initial_belief", given, np.float64, cure)
    has_shape = belief.ndim in (1, 2) and belief.shape[-1] == 3
    total = belief.sum(-1, keepdims=True) if has_shape else np.zeros(1)
    if not np.isfinite(belief).all() or (belief < 0).any() or not total.all():
        shown = belief.tolist() if belief.size <= 9 else f"of shape {belief.shape}"
        raise ValueError(f"initial_belief is {shown}; give three numbers >= 0, not all 0, for all prompts or for each")
    # a belief from a spec is already normalised, and another division could change its last bit
    is_normalised = np.abs(total - 1) < 1e-6
    return np.where(is_normalised, belief, belief / total).astype(np.float32)
