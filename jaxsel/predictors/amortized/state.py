"""The state of the amortised predictor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from jaxsel._rows import renumbered, with_moved
from jaxsel.base import Rollouts
from jaxsel.predictors.amortized.ring_buffer import batches_of
from jaxsel.predictors.embeddings import Features


class Fit(NamedTuple):
    """The quality of the fit at the last gradient step, in nats per visit. All fields are 0 before the first update.

    z is the latent variable, q its posterior and p_eta its prior, as in the module `predictor`.

    Attributes:
        elbo: The difference reconstruction - kl.
        reconstruction: E_q[log p(s | z)], the expected log probability of the successes s.
        kl: KL(q || p_eta).
        gradient_norm: The norm of the loss's gradient before clipping.
    """

    elbo: Float[Array, ""]
    reconstruction: Float[Array, ""]
    kl: Float[Array, ""]
    gradient_norm: Float[Array, ""]


class Trained(NamedTuple):
    """The part of the state that training changes.

    Attributes:
        parameters: The parameters of the networks, as nested dictionaries.
        optimizer: The state of the optimiser.
        recent: The ring buffer of the last `history` batches, with at most `context_size` prompts each.
        step: The number of batches with a visit so far.
        fit: The quality of the fit at the last gradient step.
    """

    parameters: PyTree[Array]
    optimizer: PyTree[Array]
    recent: Rollouts
    step: Int[Array, ""]
    fit: Fit


class AmortizedState(NamedTuple):
    """The networks, the batches that they are trained on, and each prompt's own counts as evidence.

    Attributes:
        embeddings: Embeddings of the whole pool, in the dtype they were given in.
        features: Map from embeddings to the inputs of the networks, which standardises them over the first pool.
        parameters: The parameters of the networks, as nested dictionaries.
        optimizer: The state of the optimiser.
        recent: The ring buffer of the last `history` batches, with at most `context_size` prompts each.
        successes: S, the discounted successes of each prompt at its last visit.
        failures: F, the discounted failures of each prompt at its last visit.
        step: The number of batches with a visit so far.
        fit: The quality of the fit at the last gradient step.
    """

    embeddings: Float[Array, "pool d"]
    features: Features
    parameters: PyTree[Array]
    optimizer: PyTree[Array]
    recent: Rollouts
    successes: Float[Array, " N"]
    failures: Float[Array, " N"]
    step: Int[Array, ""]
    fit: Fit

    def inputs(self, prompt_ids: Int[Array, "*batch"]) -> Float[Array, "*batch f"]:
        """Return what the networks read about these prompts."""
        return self.features(self.embeddings[prompt_ids])

    def trained(self) -> Trained:
        """Return the part of the state that training changes."""
        return Trained(self.parameters, self.optimizer, self.recent, self.step, self.fit)

    def partition_specs(self) -> "AmortizedState":
        """Return specs without a split: every device has the whole state and trains the same networks."""
        return jax.tree.map(lambda leaf: P(), self)

    def constants(self) -> tuple[str, ...]:
        """Return the names of the fields that no update changes. The predictor's spec has their fingerprint."""
        return ("embeddings",)

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: "AmortizedState") -> "AmortizedState":
        """Return the state for a changed pool, see `StateMethods.with_rows`. The networks and their inputs stay."""
        recent = renumbered(self.recent, rows, len(self.successes))
        carried = with_moved(self, fresh, ("successes", "failures"), rows)
        return carried._replace(embeddings=fresh.embeddings, recent=recent)

    def metrics(self) -> dict[str, Any]:
        """Return the fit for logs, with NaN before the first update, when the state holds zeros."""
        # a NaN in the state would stop every update under `jax_debug_nans`
        return self.fit._asdict() if int(self.step) else dict.fromkeys(Fit._fields, np.float32(np.nan))

    def latest(self, count: int) -> Rollouts:
        """Return the last `count` batches, newest first, or all kept batches if there are fewer."""
        kept = self.recent.prompt_ids.shape[0]
        return batches_of(self.recent, self.step - 1 - jnp.arange(min(count, kept), dtype=jnp.int32))
