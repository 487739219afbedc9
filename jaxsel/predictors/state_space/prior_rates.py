"""A first belief of the state-space predictor from solve rates that were known before training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsel.base import Rollouts
from jaxsel.numerics.blocks import in_blocks
from jaxsel.predictors.state_space.filtering import after_visits, shared_part
from jaxsel.predictors.state_space.frozen import evidence
from jaxsel.predictors.state_space.moments import posterior
from jaxsel.predictors.state_space.state import StateSpaceState

# Number of prompts that the weights are fitted to. More would add little, because the model gives first visits a common
# error.
_TEACHING = 4096
_ROWS = 2**14  # prompts whose posteriors are computed at once: the nodes take 2 KB per prompt


def with_rates(
    state: StateSpaceState, successes: Float[np.ndarray, " N"], failures: Float[np.ndarray, " N"]
) -> StateSpaceState:
    """Return the initial state, conditioned on rollouts of an earlier policy.

    The weights that all prompts share are fitted to at most 4,096 prompts with rollouts, evenly spaced by row. Then
    each prompt's logit is conditioned on its own rollouts. The settings of the model stay as they are, because earlier
    rollouts say nothing about how rates change during training.

    Args:
        state: State before the first batch.
        successes: Successes per prompt, not necessarily integers.
        failures: Failures per prompt. Nothing is known about a prompt with neither.
    """
    known = np.flatnonzero(successes + failures)
    if len(known) == 0:
        return state
    rows = known[np.linspace(0, len(known) - 1, min(len(known), _TEACHING)).astype(np.int64)].astype(np.int32)
    s, n = jnp.asarray(successes), jnp.asarray(successes + failures)
    return state._replace(**_conditioned(state, jnp.asarray(rows), s, n), step=jnp.int32(1))


@jax.jit
def _conditioned(
    state: StateSpaceState, rows: Int[Array, " b"], s: Float[Array, " N"], n: Float[Array, " N"]
) -> dict[str, Any]:
    """Return the fields that change, by name; the whole state would be a second copy of the embeddings."""
    weights = after_visits(state, Rollouts(rows, s[rows], n[rows])).weights
    weights = weights._replace(kept=state.weights.kept, evidence=state.weights.evidence)
    shared = shared_part(state._replace(weights=weights), None)
    prior = jnp.full_like(s, jnp.exp(state.learning.settings.log_prior))
    alone = in_blocks(posterior, _ROWS, shared.mean, prior, s, n)
    fields: dict[str, Any] = {
        "weights": weights,
        "mean": jnp.where(n > 0, shared.mean + alone.shift, 0),
        "reference": jnp.where(n > 0, shared.mean, 0),
        "variance": jnp.where(n > 0, alone.variance, 0),
        "last_step": (n > 0).astype(jnp.int32),
    }
    if state.frozen is not None:
        everyone = jnp.arange(len(s), dtype=jnp.int32)
        visits = Rollouts(everyone, s, n)
        found = evidence(state, state.frozen, everyone, shared.mean, prior, alone.log_evidence, visits)
        fields["frozen"] = jnp.where(n > 0, found.seen, 0)
    return fields
