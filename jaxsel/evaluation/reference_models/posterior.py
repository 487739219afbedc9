"""The posterior of the reference model: draws of success rates and hyperparameters, and the sampler's diagnostics."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsel import _validate
from jaxsel.base import Prediction
from jaxsel.evaluation.reference_models.visits import VisitPosterior


class Diagnostics(NamedTuple):
    """Diagnostics of the sampler, over the hyperparameters and the logit of p at each prompt's last visit.

    Attributes:
        divergences: Number of divergent transitions; 0 is good.
        largest_r_hat: Largest split R-hat; below 1.01 is good, above 1.05 is bad.
        smallest_effective_sample_size: Smallest effective sample size; 100 per chain is good.
    """

    divergences: int
    largest_r_hat: float
    smallest_effective_sample_size: float


class ReferencePosterior(NamedTuple):
    """Posterior draws of the success rates of m prompts at one step.

    Attributes:
        success_rate: Draws of p, one row per draw. All draws of one chain precede the draws of the next chain.
        hyperparameters: Draws of mean, spread, drift and volatility; with embeddings also of weight_scale and weights.
        diagnostics: Diagnostics of the sampler.
        prompt_ids: The m prompts.
        step: The step.
        diverging: Whether each transition diverged, one row per chain.
        visits: What the draws say about each visit of the history, for leave-one-out cross-validation.
    """

    success_rate: Float[Array, "draws m"]
    hyperparameters: dict[str, Float[Array, "draws ..."]]
    diagnostics: Diagnostics
    prompt_ids: Int[np.ndarray, " m"]
    step: int
    diverging: Bool[Array, "chains draws_per_chain"]
    visits: VisitPosterior

    def prediction(self, group_size: int) -> Prediction:
        """Return mean, variance and last draw of p, and the mean probabilities of unsolved, mixed and solved groups.

        Raises:
            ValueError: The group size is below 1.
        """
        _validate.positive_integer(group_size=group_size)
        p = self.success_rate
        unsolved, solved = ((1 - p) ** group_size).mean(0), (p**group_size).mean(0)
        return Prediction(p.mean(0), p.var(0), p[-1], unsolved, jnp.maximum(1 - unsolved - solved, 0), solved)

    def intervals(self, levels: Sequence[float]) -> tuple[Float[Array, "levels m"], Float[Array, "levels m"]]:
        """Return the lower and upper ends of the central intervals that contain p with the given probabilities.

        Raises:
            ValueError: A level is outside of [0, 1].
        """
        for level in levels:
            _validate.unit_interval(levels=level)
        tails = (1 - jnp.asarray(levels, jnp.float32)) / 2
        return jnp.quantile(self.success_rate, tails, axis=0), jnp.quantile(self.success_rate, 1 - tails, axis=0)

    def pit(self, success_rate: Float[Array, " m"] | Float[np.ndarray, " m"]) -> Float[Array, " m"]:
        """Return the posterior's P(p <= true success rate), uniform if calibrated; see `metrics.uniformity`."""
        return (self.success_rate <= jnp.asarray(success_rate)[None]).mean(0)
