"""The methods mopps and dps in JAX without jaxsel, which the benchmark times beside jaxsel's own.

mopps uses `jax.random.beta` and `lax.top_k`; dps uses transition matrices of shape [3, 3, N]. Their updates are
compiled, with a donated state. Variants with TensorFlow Probability's Beta and Dynamax's filter take part where these
packages can be imported.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.peers.common import DPS_DECAY, MOPPS_DECAY, Peer

# An import raises one of these errors if the package is missing, or if its release does not fit the installed JAX.
UNUSABLE = (ImportError, AttributeError)
try:
    from tensorflow_probability.substrates import jax as tfp  # type: ignore[import-not-found]
except UNUSABLE:
    tfp = None
try:
    from dynamax.hidden_markov_model import hmm_filter  # type: ignore[import-not-found]
except UNUSABLE:
    hmm_filter = None


class JaxPeer(Peer):
    """A peer whose batches are on the device."""

    def place(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> tuple[Any, Any, int]:
        """Copy a batch to the device."""
        return *jax.block_until_ready((jnp.asarray(prompt_ids), jnp.asarray(successes))), group_size


class JaxMopps(JaxPeer):
    """MoPPS by `jax.random.beta` and `jax.lax.top_k`."""

    beta_draw: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = staticmethod(jax.random.beta)

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.key = jax.random.key(seed)
        self.alpha = jnp.ones(num_prompts)
        self.beta = jnp.ones(num_prompts)
        self._select = jax.jit(self._nearest, static_argnums=3)
        self._observe = jax.jit(_beta_update, donate_argnums=(0, 1))
        self._mean = jax.jit(lambda alpha, beta: alpha / (alpha + beta))

    def _nearest(self, key, alpha, beta, batch_size):
        return jax.lax.top_k(-jnp.abs(self.beta_draw(key, alpha, beta) - 0.5), batch_size)[1]

    def select(self, batch_size: int) -> jax.Array:
        """Choose the prompts whose draws are nearest to one half."""
        self.key, key = jax.random.split(self.key)
        return self._select(key, self.alpha, self.beta, batch_size).block_until_ready()

    def observe(self, prompt_ids: Any, successes: Any, group_size: int) -> None:
        """Discount the counts of the batch's prompts, and add the new successes and failures."""
        self.alpha, self.beta = jax.block_until_ready(
            self._observe(self.alpha, self.beta, prompt_ids, successes, group_size)
        )

    def predict(self) -> jax.Array:
        """Return posterior means."""
        return self._mean(self.alpha, self.beta).block_until_ready()


class TfpMopps(JaxMopps):
    """MoPPS with TensorFlow Probability's draws."""

    @staticmethod
    def beta_draw(key, alpha, beta):
        """Draw once per prompt."""
        return tfp.distributions.Beta(alpha, beta).sample(seed=key)  # type: ignore[union-attr]


class JaxDps(JaxPeer):
    """DPS by its formulas: normalised matrices [3, 3, N], and an einsum, which is faster than a product and a sum."""

    fused = True

    def __init__(self, num_prompts: int, seed: int):
        super().__init__(num_prompts, seed)
        self.counts = jnp.ones((3, 3, num_prompts))
        self.filtered = jnp.full((3, num_prompts), 1 / 3)
        self.predicted = self.filtered.copy()
        self._select = jax.jit(lambda predicted, size: jax.lax.top_k(predicted[1], size)[1], static_argnums=1)
        self._observe = jax.jit(self._step, donate_argnums=(0, 1, 2))

    def _step(self, counts, filtered, predicted, ids, successes, group_size):
        state = jnp.where(successes == 0, 0, jnp.where(successes == group_size, 2, 1))
        observed = jax.nn.one_hot(state, 3, axis=0)
        joint = filtered[:, None, ids] * _normalised(counts[:, :, ids]) * observed[None]
        xi = joint / joint.sum((0, 1), keepdims=True)
        counts = (DPS_DECAY * counts + (1 - DPS_DECAY)).at[:, :, ids].add(xi)
        return counts, *self._filter(predicted, counts, ids, observed)

    def _filter(self, predicted, counts, ids, observed):
        filtered = predicted.at[:, ids].set(observed)
        return filtered, jnp.einsum("in,ijn->jn", filtered, _normalised(counts))

    def select(self, batch_size: int) -> jax.Array:
        """Choose the prompts with the largest predicted P(mixed)."""
        return self._select(self.predicted, batch_size).block_until_ready()

    def observe(self, prompt_ids: Any, successes: Any, group_size: int) -> None:
        """Advance every prompt by one step, and predict the solve state of its next group."""
        state = self._observe(self.counts, self.filtered, self.predicted, prompt_ids, successes, group_size)
        self.counts, self.filtered, self.predicted = jax.block_until_ready(state)

    def predict(self) -> jax.Array:
        """Return the prediction that `observe` has already computed."""
        return self.predicted


class DynamaxDps(JaxDps):
    """DPS with Dynamax's filter, mapped over the pool. The filter runs over the observed step and the next step."""

    def _filter(self, predicted, counts, ids, observed):
        seen = jnp.zeros_like(predicted).at[:, ids].set(jnp.where(observed > 0, 0.0, -1e9))
        log_likelihoods = jnp.stack([seen.T, jnp.zeros_like(seen.T)], axis=1)
        transitions = jnp.moveaxis(_normalised(counts), 2, 0)
        posterior = jax.vmap(hmm_filter)(predicted.T, transitions, log_likelihoods)  # type: ignore[arg-type]
        return posterior.filtered_probs[:, 0].T, posterior.predicted_probs[:, 1].T


def _normalised(counts):
    return counts / counts.sum(1, keepdims=True)


def _beta_update(alpha, beta, ids, successes, group_size):
    d = MOPPS_DECAY
    return (
        alpha.at[ids].set(d * alpha[ids] + (1 - d) + successes),
        beta.at[ids].set(d * beta[ids] + (1 - d) + group_size - successes),
    )
