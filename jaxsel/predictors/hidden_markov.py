r"""A hidden Markov model of every prompt's solve state, filtered online: the predictor of DPS.

    z in {UNSOLVED: s = 0, MIXED: 0 < s < n, SOLVED: s = n}, A[i, j] = P(z' = j | z = i),  rows of A ~ Dirichlet(counts)

One step, for every prompt (A = row-normalised counts, d = `decay`):

    condition    filtered_t = one-hot(z observed) if visited, else predicted_t
    transitions  xi_t[i, j] = filtered_{t-1}[i] * A_{t-1}[i, j] * filtered_t[j] / (sum over i, j)    if visited, else 0
                 counts_t = d * counts_{t-1} + (1 - d) * counts_0 + xi_t
    predict      predicted_{t+1} = filtered_t @ A_t

At first filtered_0 and predicted_1 are both the initial belief: the model starts with the first step's state.

"Dynamics-Predictive Sampling for Active RL Finetuning of Large Reasoning Models" (DPS, arXiv 2603.10887).

A step is bound by memory, and moves as little as it can. Counts are written as counts_0 + scale * excess, so that the
decay multiplies one number, and only visited prompts touch `excess`. The state holds the predicted belief beside the
filtered one: predicting the pool is reading it. Nothing is computed as a difference, so small probabilities keep their
relative precision: the posterior of a transition is a ratio of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import merge_visits, solve_states
from jaxsel.base import Prediction, Predictor, Rollouts, Scalar
from jaxsel.numerics import random

PRIOR_COUNTS = {
    "ones": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "progress": ((1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (0.5, 0.5, 1.0)),
    "stability": ((1.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0)),
    "local": ((1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 1.0)),
}
"""The paper's prior transition counts, rows: from, columns: to."""

_SMALLEST_SCALE = 2.0**-20
_NOTHING = 2.0**-100  # stands for a scale of 0, by which nothing can be divided
_SMALLEST_ROW, _LARGEST_ROW = 1e-20, 1e20  # of prior counts: sums and products of them stay within float32


class HMMState(NamedTuple):
    """The belief about N prompts; prompts on the last axis. Read it by `filtered`, `predicted`, `transition_counts`.

    Attributes:
        filtered: P(z_t) given everything observed up to t.
        predicted: P(z_{t+1}) given everything observed up to t.
        excess: (counts - prior_counts) / scale, from, to.
        scale: what `excess` has to be multiplied by.
        prior_counts: counts_0.
    """

    filtered: Float[Array, "3 N"]
    predicted: Float[Array, "3 N"]
    excess: Float[Array, "3 3 N"]
    scale: Float[Array, ""]
    prior_counts: Float[Array, "3 3"]

    def partition_specs(self) -> "HMMState":
        """How the state lies on a mesh: the axis of the prompts is `prompts`, the rest is everywhere."""
        belief = P(None, "prompts")
        return HMMState(belief, belief, P(None, None, "prompts"), P(), P())  # pyright: ignore[reportArgumentType]


def filtered(state: HMMState, prompt_ids: Int[Array, " m"] | None = None) -> Float[Array, "3 m"]:
    """The belief about the last group's solve state of the prompts asked for; None: of the whole pool."""
    return _normalised(state.filtered if prompt_ids is None else state.filtered[:, prompt_ids])


def predicted(state: HMMState, prompt_ids: Int[Array, " m"] | None = None) -> Float[Array, "3 m"]:
    """The belief about the next group's solve state of the prompts asked for; None: of the whole pool."""
    return _normalised(state.predicted if prompt_ids is None else state.predicted[:, prompt_ids])


def transition_counts(state: HMMState, prompt_ids: Int[Array, " m"] | None = None) -> Float[Array, "3 3 m"]:
    """The Dirichlet parameters of the transitions of the prompts asked for; None: of the whole pool."""
    excess = state.excess if prompt_ids is None else state.excess[:, :, prompt_ids]
    return state.prior_counts[:, :, None] + state.scale * excess


def update(state: HMMState, rollouts: Rollouts, decay: Scalar) -> HMMState:
    """One step: conditions the visited prompts, decays the counts of all, moves the belief of all."""
    ids, successes, group_size = merge_visits(rollouts, state.filtered.shape[1])
    observed = jax.nn.one_hot(solve_states(successes, group_size), 3, axis=0, dtype=jnp.float32)
    state = _renormalised(state)  # first: behind a read of `excess` the compiler would copy it

    counts, previous = transition_counts(state, ids), filtered(state, ids)
    joint = previous[:, None] * counts / counts.sum(1, keepdims=True) * observed[None]
    total = joint.sum((0, 1), keepdims=True)
    # A jump that the prior holds impossible (a zero count) has nothing to share out: it moves the belief only.
    xi = jnp.where(total > 0, joint / jnp.where(total > 0, total, 1), 0)

    scale = jnp.maximum(state.scale * decay, _NOTHING)
    believed = _written_over(state.filtered, state.predicted, after=previous)
    state = state._replace(
        filtered=believed.at[:, ids].set(observed, mode="drop"),
        excess=state.excess.at[:, :, ids].add(xi / scale, mode="drop"),
        scale=scale,
    )
    return state._replace(predicted=_propagated(state))


def _written_over(
    old: Float[Array, "3 N"], new: Float[Array, "3 N"], *, after: Float[Array, "3 m"]
) -> Float[Array, "3 N"]:
    """`new`, in the buffer of `old`, once `after` has been read from there.

    The condition always holds. Without it the compiler, which may not write over what is still to be read, makes three
    copies of the belief in every step, into memory that it has to ask the system for: half of the time at 1e7 prompts.
    """
    return jnp.where(old >= after.min(initial=0) - 1, new, old)


def _renormalised(state: HMMState) -> HMMState:
    """The same state; `excess` is touched only when the scale would soon underflow."""
    excess, scale = jax.lax.cond(
        state.scale < _SMALLEST_SCALE,
        lambda excess, scale: (excess * scale, jnp.ones_like(scale)),
        lambda excess, scale: (excess, scale),
        state.excess,
        state.scale,
    )
    return state._replace(excess=excess, scale=scale)


def _propagated(state: HMMState) -> Float[Array, "3 N"]:
    """The product filtered @ A, A the row-normalised counts, written out: nothing but the result is kept in memory."""
    belief, excess, prior, total = state.filtered, state.excess, state.prior_counts, state.prior_counts.sum(1)

    def row(j: int) -> Float[Array, " N"]:
        # each with divisions of its own: the compiler would keep common ones in memory, which costs more
        first, second, third = (
            belief[i]
            * (prior[i, j] + state.scale * excess[i, j])
            / (total[i] + state.scale * (excess[i, 0] + excess[i, 1] + excess[i, 2]))
            for i in range(3)
        )
        return first + second + third

    return jnp.stack([row(j) for j in range(3)])


def _normalised(belief: Float[Array, "3 m"]) -> Float[Array, "3 m"]:
    """The belief without what rounding adds up over many steps; only its reader needs it to sum to 1.

    The rows of zeros that follow the pool on a mesh stay zeros.
    """
    total = belief[0] + belief[1] + belief[2]
    return belief / jnp.where(total > 0, total, 1)[None]


def forward_filter(
    transition_matrix: Float[Array, "3 3 m"], initial_belief: Float[Array, " 3"], history: Int[Array, "T m"]
) -> tuple[Float[Array, "T 3 m"], Float[Array, "T 3 m"]]:
    """Filters recorded solve states, step by step, with transitions that are known and stay.

    Args:
        transition_matrix: A of every prompt; rows sum to 1.
        initial_belief: about the state at the first step, before it is seen.
        history: the solve state of every prompt at every step; -1 where it was not visited.

    Returns:
        What was predicted for each step before it, and what was filtered after it.
    """

    def step(ahead: Float[Array, "3 m"], seen: Int[Array, " m"]):
        after = jnp.where(seen[None] >= 0, jax.nn.one_hot(seen, 3, axis=0, dtype=ahead.dtype), ahead)
        return jnp.einsum("im,ijm->jm", after, transition_matrix), (ahead, after)

    start = jnp.broadcast_to(initial_belief[:, None], transition_matrix.shape[1:])
    return jax.lax.scan(step, start, history)[1]


def hidden_markov(
    *,
    decay: Scalar = 0.7,
    prior_counts: ArrayLike | Array | None = None,
    initial_belief: ArrayLike | Array | None = None,
) -> Predictor:
    """A hidden Markov model per prompt.

    The model knows solve states, not success rates: `success_rate`, `variance` and `draw` take p to be 0, 1/2 and 1 in
    the three states. Every update is one step of its clock, so observe once a training step.

    Args:
        decay: what a step leaves of the earlier transition counts, from 0 to 1.
        prior_counts: counts_0 as a matrix [from, to] of numbers >= 0, each row with one above 0; or the name of one
            of `PRIOR_COUNTS`. None: "ones".
        initial_belief: P(UNSOLVED), P(MIXED), P(SOLVED) of the first step's group. None: uniform.

    Raises:
        ValueError: an argument out of its range.
    """
    _validate.unit_interval(decay=decay)
    counts = _prior_matrix("ones" if prior_counts is None else prior_counts)
    belief = _initial_belief(initial_belief)

    def init(key: Key[Array, ""], num_prompts: int) -> HMMState:
        del key
        start = jnp.tile(jnp.array(belief)[:, None], num_prompts)
        excess = jnp.zeros((3, 3, num_prompts), jnp.float32)
        return HMMState(start, start.copy(), excess, jnp.float32(1), jnp.array(counts))

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

    spec = {
        "name": "hidden_markov",
        "decay": _validate.json_value(decay),
        "prior_counts": _validate.json_value(counts),
        "initial_belief": _validate.json_value(belief),
    }
    return Predictor(spec, init, predict, update_state)


def _prior_matrix(prior_counts: ArrayLike | Array) -> Float[np.ndarray, "3 3"] | Float[Array, "3 3"]:
    if _validate.traced(prior_counts):
        return prior_counts
    if isinstance(prior_counts, str):
        _validate.one_of(PRIOR_COUNTS, prior_counts=prior_counts)
    counts = np.asarray(PRIOR_COUNTS[prior_counts] if isinstance(prior_counts, str) else prior_counts, np.float32)
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


def _initial_belief(initial_belief: ArrayLike | Array | None) -> Float[np.ndarray, " 3"] | Float[Array, " 3"]:
    if _validate.traced(initial_belief):
        return initial_belief
    belief = np.asarray((1, 1, 1) if initial_belief is None else initial_belief, np.float64)
    if belief.shape != (3,) or not np.isfinite(belief).all() or (belief < 0).any() or belief.sum() == 0:
        raise ValueError(f"initial_belief is {belief.tolist()}; give three numbers >= 0, not all 0")
    # what a spec says is already normalised, and has to come back as it is
    is_normalised = abs(belief.sum() - 1) < 1e-6
    return (belief if is_normalised else belief / belief.sum()).astype(np.float32)
