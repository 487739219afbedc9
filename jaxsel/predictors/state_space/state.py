"""The state of the state-space predictor.

The model of a prompt's success rate is sigmoid(eta) with the logit eta = phi . (w + d) + u, unless the prompt is frozen
(see `frozen`). The features phi are the standardised embedding and a constant. All prompts share the weights w before
training and their drift d since then. u is the prompt's own part, with the variance tau2 before the first visit.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxsel._rows import with_moved
from jaxsel.predictors.state_space.features import Scaling
from jaxsel.predictors.state_space.settings import Learning, Settings
from jaxsel.predictors.state_space.weights import Weights


class StateSpaceState(NamedTuple):
    """The belief about the weights w and d and about N prompts.

    Attributes:
        embeddings: Embeddings of the whole pool, in the dtype they were given in; None without embeddings.
        scaling: Map from embeddings to features, which standardises them over the first pool; None without embeddings.
        weights: Belief about the weights that all prompts share.
        mean: Mean of each prompt's logit minus phi . d, right after its last visit.
        reference: phi . w at the mean of w, right after the prompt's last visit.
        variance: Variance of the logit given w and d, right after the prompt's last visit.
        lesson: 4 s (n - s) / n^2 for s of n correct rollouts at the last visit: 1 for s = n / 2, 0 for s = 0 and s = n.
        last_step: Step of the last visit, 0 before the first visit.
        step: Number of batches with a visit, plus 1 if the state began with rollouts from before training.
        learning: Settings of the model and the information about them.
        log_score: Mean log probability of a prompt's rollouts in the last batch, in nats and predicted before the
            update; 0 before the first batch.
        frozen: Right after the last visit, the probability that the prompt is always solved, or minus the probability
            that it is never solved; a visit excludes one of them. 0 before the first visit. None: no prompt is frozen.
    """

    embeddings: Float[Array, "pool d"] | None
    scaling: Scaling | None
    weights: Weights
    mean: Float[Array, " N"]
    reference: Float[Array, " N"]
    variance: Float[Array, " N"]
    lesson: Float[Array, " N"]
    last_step: Int[Array, " N"]
    step: Int[Array, ""]
    learning: Learning
    log_score: Float[Array, ""]
    frozen: Float[Array, " N"] | None = None

    def partition_specs(self) -> "StateSpaceState":
        """Return specs that put the whole state on every device, because all devices use the same weights."""
        return jax.tree.map(lambda leaf: P(), self)

    def constants(self) -> tuple[str, ...]:
        """Return the names of the fields that no update changes. The predictor's spec has their fingerprint."""
        return () if self.embeddings is None else ("embeddings",)

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: "StateSpaceState") -> "StateSpaceState":
        """Return the state for a changed pool, see `StateMethods.with_rows`. The weights and the scaling stay."""
        frozen = () if self.frozen is None else ("frozen",)
        names = ("mean", "reference", "variance", "lesson", "last_step", *frozen)
        return with_moved(self, fresh, names, rows)._replace(embeddings=fresh.embeddings)

    def metrics(self) -> dict[str, Any]:
        """Return the learned settings, in logits and steps, and `log_score`, which is NaN before the first batch."""
        settings, frozen = self.learning.settings, {}
        if self.frozen is not None:
            share, speed = self.learning.thawing
            frozen = {"frozen_share": share, "thaw_speed": speed}
        return {
            "log_score": self.log_score if float(self.log_score) else np.float32(np.nan),
            "prior_location": self.weights.initial[-1],
            "prior_scale": jnp.exp(0.5 * settings.log_prior),
            "visit_variance": jnp.exp(settings.log_visit),
            "step_variance": jnp.exp(settings.log_step),
            "level": self.weights.drift[-1],
            "gain": settings.gain,
            "progress": settings.progress,
            "weight_precision": self.weights.precision,
            "kept_of_drift": self.weights.kept,
            **frozen,
        }


class Given(NamedTuple):
    """The logits of m prompts at the current step, given w and d.

    Attributes:
        mean: Mean at phi . w = `reference` and phi . d = 0.
        reference: phi . w at the last visit.
        variance: Variance given w, tau2 before the first visit.
        slope: Change of the mean per unit of phi . w; 1 before the first visit.
    """

    mean: Float[Array, " m"]
    reference: Float[Array, " m"]
    variance: Float[Array, " m"]
    slope: Float[Array, " m"]


def given_weights(state: StateSpaceState, settings: Settings, rows: Int[Array, " m"] | slice) -> Given:
    """Return the distributions of the prompts' logits for known w and d, with these settings.

    After a visit, eta - phi . d is a constant plus (v / tau2) phi . w plus noise, with the noise's variance v =
    `variance`. The smaller v is, the less later changes of w move the logit.
    """
    last = state.last_step[rows]
    prior = jnp.exp(settings.log_prior)
    age = (state.step - last).astype(jnp.float32)
    grown = state.variance[rows] + jnp.exp(settings.log_visit) + jnp.exp(settings.log_step) * age
    variance = jnp.where(last > 0, jnp.minimum(grown, prior), prior)
    mean = state.mean[rows] + settings.gain * state.lesson[rows]
    return Given(mean, state.reference[rows], variance, variance / prior)
