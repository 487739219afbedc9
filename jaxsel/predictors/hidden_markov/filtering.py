"""The state of the hidden Markov model and its step: condition, count, predict.

The docstring of the package gives the formulas. z_t is the solve state of a prompt at step t: UNSOLVED, MIXED or
SOLVED. A is the matrix of transition probabilities, the row-normalised counts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxsel._rows import with_moved
from jaxsel._visits import merge_visits, solve_states
from jaxsel.base import Rollouts, Scalar
from jaxsel.predictors.hidden_markov import memory, one_pass


class HMMState(NamedTuple):
    """The belief about N prompts, which are on the last axis.

    Read the state with `filtered`, `predicted` and `transition_counts`. The module `memory` explains the fields.

    Attributes:
        filtered: P(z_t) given everything observed up to step t.
        predicted: P(z_{t+1}) given everything observed up to step t.
        excess: (counts - prior_counts) / scale for the counts of transitions, with the axes from, to, prompt.
        scale: The factor of `excess` in the counts. It decays at every step.
        prior_counts: counts_0, with the axes from, to.
    """

    filtered: Float[Array, "3 N"]
    predicted: Float[Array, "3 N"]
    excess: Float[Array, "3 3 N"]
    scale: Float[Array, ""]
    prior_counts: Float[Array, "3 3"]

    def partition_specs(self) -> "HMMState":
        """Return the specs for a mesh: the axis of the prompts is `prompts`, and other fields are on every device."""
        belief = P(None, "prompts")
        return HMMState(belief, belief, P(None, None, "prompts"), P(), P())  # pyright: ignore[reportArgumentType]

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: "HMMState") -> "HMMState":
        """Return the state for a changed pool, see `StateMethods.with_rows`."""
        return with_moved(self, fresh, ("filtered", "predicted", "excess"), rows)


def filtered(state: HMMState, prompt_ids: Int[Array, " m"] | None = None) -> Float[Array, "3 m"]:
    """Return P(z_t), the belief about the last solve state, for the whole pool if `prompt_ids` is None."""
    return _normalised(state.filtered if prompt_ids is None else state.filtered[:, prompt_ids])


def predicted(state: HMMState, prompt_ids: Int[Array, " m"] | None = None) -> Float[Array, "3 m"]:
    """Return P(z_{t+1}), the belief about the next solve state, for the whole pool if `prompt_ids` is None."""
    return _normalised(state.predicted if prompt_ids is None else state.predicted[:, prompt_ids])


def transition_counts(state: HMMState, prompt_ids: Int[Array, " m"] | None = None) -> Float[Array, "3 3 m"]:
    """Return the Dirichlet parameters of the rows of A, for the whole pool if `prompt_ids` is None.

    The axes are from, to, prompt.
    """
    excess = state.excess if prompt_ids is None else state.excess[:, :, prompt_ids]
    return state.prior_counts[:, :, None] + state.scale * excess


def update(state: HMMState, rollouts: Rollouts, decay: Scalar) -> HMMState:
    """Return the state after one step: beliefs conditioned, transitions counted, the next step predicted."""
    visits = merge_visits(rollouts, state.filtered.shape[1])
    observed = jax.nn.one_hot(solve_states(visits.successes, visits.group_size), 3, axis=0, dtype=jnp.float32)
    excess, scale = memory.rescaled(state.excess, state.scale)
    state = state._replace(excess=excess, scale=scale)
    before = filtered(state, visits.prompt_ids)

    state = count(state, visits.prompt_ids, observed, before, decay)
    if one_pass.is_available(state.filtered.shape[1]):
        forms = {"cuda": condition_and_predict, "default": in_two_passes}
        return jax.lax.platform_dependent(state, visits.prompt_ids, observed, before, **forms)
    return in_two_passes(state, visits.prompt_ids, observed, before)


def in_two_passes(
    state: HMMState, ids: Int[Array, " b"], observed: Float[Array, "3 b"], before: Float[Array, "3 b"]
) -> HMMState:
    """Return the state with filtered_t and predicted_{t+1}, see `condition` and `predict`."""
    return predict(condition(state, ids, observed, before))


def condition_and_predict(
    state: HMMState,
    ids: Int[Array, " b"],
    observed: Float[Array, "3 b"],
    before: Float[Array, "3 b"],
    *,
    interpret: bool = False,
) -> HMMState:
    """Return what `in_two_passes` returns, by the kernel for GPUs; `interpret` as in `one_pass.moved_on`.

    The kernel treats all prompts as if they were not visited. The columns of the visited ones are then overwritten.
    """
    filtered, predicted = one_pass.moved_on(
        state.filtered,
        state.predicted,
        state.excess,
        state.scale,
        state.prior_counts,
        after=before,
        interpret=interpret,
    )
    next_of_visited = memory.propagated(observed, state.excess[:, :, ids], state.scale, state.prior_counts)
    return state._replace(
        filtered=filtered.at[:, ids].set(observed, mode="drop"),
        predicted=predicted.at[:, ids].set(next_of_visited, mode="drop"),
    )


def condition(
    state: HMMState, ids: Int[Array, " b"], observed: Float[Array, "3 b"], before: Float[Array, "3 b"]
) -> HMMState:
    """Return the state with filtered_t: `observed` for the visited prompts `ids`, predicted_t for all others.

    `before` is filtered_{t-1} of the visited prompts. It does not affect the result. It is an argument because it must
    be read from the buffer before filtered_t overwrites the buffer.
    """
    belief = memory.written_over(state.filtered, state.predicted, after=before)
    return state._replace(filtered=belief.at[:, ids].set(observed, mode="drop"))


def count(
    state: HMMState,
    ids: Int[Array, " b"],
    observed: Float[Array, "3 b"],
    before: Float[Array, "3 b"],
    decay: Scalar,
) -> HMMState:
    """Return the state with counts_t: all counts decay towards counts_0, and the visited prompts gain xi_t."""
    counts = transition_counts(state, ids)
    joint = before[:, None] * counts / counts.sum(1, keepdims=True) * observed[None]
    total = joint.sum((0, 1), keepdims=True)
    # If the prior excludes the observed jump (a count of 0), the jump changes the belief and adds no count.
    xi = jnp.where(total > 0, joint / jnp.where(total > 0, total, 1), 0)
    scale = memory.decayed(state.scale, decay)
    return state._replace(excess=state.excess.at[:, :, ids].add(xi / scale, mode="drop"), scale=scale)


def predict(state: HMMState) -> HMMState:
    """Return the state with predicted_{t+1} = filtered_t @ A_t."""
    return state._replace(predicted=memory.propagated(state.filtered, state.excess, state.scale, state.prior_counts))


def _normalised(belief: Float[Array, "3 m"]) -> Float[Array, "3 m"]:
    """Return the belief, scaled to sum 1: over many steps, rounding errors move the sum away from 1.

    Columns of zeros, which pad the pool on a mesh, stay zeros.
    """
    total = belief[0] + belief[1] + belief[2]
    return belief / jnp.where(total > 0, total, 1)[None]
