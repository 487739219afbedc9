"""The state of the amortised predictor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from jaxsel.base import Rollouts
from jaxsel.predictors.amortized.ring import batches_of


class Fit(NamedTuple):
    """How the last gradient step of an update went, in nats per prompt; 0 before the first.

    Attributes:
        elbo: reconstruction - kl.
        reconstruction: E_q[log p(s | z)].
        kl: KL(q || p_eta).
        gradient_norm: before it is clipped.
    """

    elbo: Float[Array, ""]
    reconstruction: Float[Array, ""]
    kl: Float[Array, ""]
    gradient_norm: Float[Array, ""]


class Trained(NamedTuple):
    """The part of the state that training changes; `AmortizedState` describes the fields."""

    parameters: PyTree[Array]
    optimizer: PyTree[Array]
    recent: Rollouts
    step: Int[Array, ""]
    fit: Fit


class AmortizedState(NamedTuple):
    """The networks, what they are trained on, and the evidence of N prompts of their own.

    Attributes:
        embeddings: of the whole pool, in the type they were given in.
        parameters: of the networks.
        optimizer: state of the optimiser.
        recent: the last W batches of at most c prompts, a ring.
        successes: S, discounted, as of the prompt's last visit.
        failures: F, likewise.
        step: batches taken in.
        fit: see `Fit`.
    """

    embeddings: Float[Array, "pool d"]
    parameters: PyTree[Array]
    optimizer: PyTree[Array]
    recent: Rollouts
    successes: Float[Array, " N"]
    failures: Float[Array, " N"]
    step: Int[Array, ""]
    fit: Fit

    def trained(self) -> Trained:
        """Return the part that training changes."""
        return Trained(self.parameters, self.optimizer, self.recent, self.step, self.fit)

    def partition_specs(self) -> "AmortizedState":
        """All of it is everywhere: every device trains the same networks, and decodes prompts of its own."""
        return jax.tree.map(lambda leaf: P(), self)

    def constants(self) -> tuple[str, ...]:
        """Fields that no update changes, and that the predictor's spec names: a checkpoint does without them."""
        return ("embeddings",)

    def metrics(self) -> dict[str, Any]:
        """Return the fit for logs; NaN before the first update, when the state itself holds zeros."""
        # a NaN in the state would stop every update under `jax_debug_nans`
        return self.fit._asdict() if int(self.step) else dict.fromkeys(Fit._fields, np.float32(np.nan))

    def latest(self, count: int) -> Rollouts:
        """The last `count` batches, as many as are kept; see `Embedded`."""
        kept = self.recent.prompt_ids.shape[0]
        return batches_of(self.recent, self.step - 1 - jnp.arange(min(count, kept), dtype=jnp.int32))
