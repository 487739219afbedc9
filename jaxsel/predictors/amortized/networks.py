"""The networks of the amortised predictor, as Flax NNX modules. The module `predictor` gives the formulas.

Letters: f features per prompt, k dimensions of the latent z, c prompts in a set, w units in a hidden layer.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from jaxsel.base import Rollouts
from jaxsel.predictors.amortized.state import Fit

_PRECISION = {"direct": 600.0, "prompt": 100.0, "hidden": 100.0, "outputs": 100.0}
"""The precision of the prior on the decoder's weights, per layer.

The values were chosen on simulated learners that no reported result uses.
"""


class Gaussian(NamedTuple):
    """Independent normal distributions, one per dimension of the latent."""

    mean: Float[Array, "*batch k"]
    scale: Float[Array, "*batch k"]


class Features(NamedTuple):
    """The part of the decoder's computation for m prompts that does not depend on the latent.

    Attributes:
        hidden: The prompts' contribution to the first hidden layer, before its activation.
        direct: The outputs of the linear path around the hidden layers.
    """

    hidden: Float[Array, "*batch m w"]
    direct: Float[Array, "*batch m 2"]


class SetEncoder(nnx.Module):
    """A map from a set of c prompts and their observed counts to a Gaussian of the latent.

    The encoder is a Transformer without positional encoding, followed by a mean over the tokens, so the order of the
    prompts does not matter. Prompts with a group size of 0 are masked. Sets may therefore differ in size, and be empty.

    Args:
        num_features: f, the number of features per prompt.
        latent_size: k, the dimension of the latent.
        width: The size of the tokens.
        num_layers: The number of Transformer layers.
        num_heads: The number of attention heads.
        rngs: The random keys of the first parameters.
    """

    def __init__(
        self, num_features: int, latent_size: int, *, width: int, num_layers: int, num_heads: int, rngs: nnx.Rngs
    ):
        self.inputs = nnx.Linear(num_features + 2, width, rngs=rngs)
        self.layers = nnx.List([_EncoderLayer(width, num_heads, rngs) for _ in range(num_layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.outputs = nnx.Linear(width, 2 * latent_size, rngs=rngs)

    def __call__(
        self,
        prompts: Float[Array, "*batch c f"],
        successes: Int[Array, "*batch c"],
        group_size: Int[Array, "*batch c"],
    ) -> Gaussian:
        """Return the Gaussian. Its scales lie between 0.1 and 1, as is usual for neural processes."""
        known = group_size > 0
        s, n = successes.astype(jnp.float32), group_size.astype(jnp.float32)
        odds = jnp.log((s + 0.5) / (n - s + 0.5))
        tokens = self.inputs(jnp.concatenate([prompts, jnp.stack([odds, jnp.log1p(n)], -1)], -1))
        for layer in self.layers:
            tokens = layer(tokens, known)
        tokens = jnp.where(known[..., None], self.norm(tokens), 0)
        pooled = tokens.sum(-2) / jnp.maximum(known.sum(-1, dtype=jnp.float32), 1)[..., None]
        mean, raw_scale = jnp.split(self.outputs(pooled), 2, axis=-1)
        return Gaussian(mean, 0.1 + 0.9 * jax.nn.sigmoid(raw_scale))


class _EncoderLayer(nnx.Module):
    def __init__(self, width: int, num_heads: int, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads, width, decode=False, rngs=rngs)
        self.hidden_norm = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, 2 * width, rngs=rngs)
        self.outputs = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*batch c w"], known: Array) -> Float[Array, "*batch c w"]:
        attended = self.attention(self.attention_norm(tokens), mask=known[..., None, None, :])
        tokens = tokens + attended
        return tokens + self.outputs(jax.nn.gelu(self.hidden(self.hidden_norm(tokens))))


class Decoder(nnx.Module):
    """An MLP on [latent, prompt], with a linear path from the prompt to the outputs beside it.

    The first layer is the sum of a part that depends on the prompt and a part that depends on the latent. The prompt's
    part costs more, and is computed once for all latents. All outputs start at 0, so that a new decoder predicts even
    odds for every prompt.

    Args:
        num_features: f, the number of features per prompt.
        latent_size: k, the dimension of the latent. With 0, the outputs depend on the prompt alone.
        width: The size of the two hidden layers.
        rngs: The random keys of the first parameters.
    """

    def __init__(self, num_features: int, latent_size: int, *, width: int, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.prompt = nnx.Linear(num_features, width, rngs=rngs)
        self.direct = nnx.Linear(num_features, 2, use_bias=False, kernel_init=zeros, rngs=rngs)
        self.level = nnx.Param(jnp.zeros(2, jnp.float32))
        self.latent = nnx.Linear(latent_size, width, use_bias=False, rngs=rngs) if latent_size else None
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.outputs = nnx.Linear(width, 2, use_bias=False, kernel_init=zeros, rngs=rngs)

    def features(self, prompts: Float[Array, "*batch m f"]) -> Features:
        """Return the part of the computation that does not depend on the latent."""
        direct = self.direct(prompts)
        level = self.level[...] * prompts.shape[-1] ** 0.5  # so the level learns as fast as all features together
        return Features(self.prompt(prompts), direct + jnp.broadcast_to(level, direct.shape))

    def log_prior(self) -> Float[Array, ""]:
        """Return the log density of the weights of four layers under a normal prior around 0, up to a constant."""
        layers = {"direct": self.direct, "prompt": self.prompt, "hidden": self.hidden, "outputs": self.outputs}
        squares = [_PRECISION[name] * (layer.kernel[...] ** 2).sum() for name, layer in layers.items()]
        return -0.5 * jnp.stack(squares).sum()

    def __call__(self, features: Features, latent: Float[Array, "*batch k"]) -> Float[Array, "*batch m 2"]:
        """Return two outputs per prompt, `logit` and `spread`, which the module `likelihood` explains."""
        hidden = features.hidden
        if self.latent is not None:
            hidden = hidden + self.latent(latent)[..., None, :]
        return features.direct + self.outputs(jax.nn.relu(self.hidden(jax.nn.relu(hidden))))


class Networks(nnx.Module):
    """The decoder, an encoder for the prior of the latent, and an encoder for the posterior of the latent.

    Args:
        num_features: f, the number of features per prompt.
        latent_size: k, the dimension of the latent. With 0, there is no latent and no encoder.
        history_conditioned: Whether an encoder computes the prior from the step before. If not, the prior is a standard
            normal.
        width: The size of all hidden layers.
        num_layers: The number of Transformer layers in each encoder.
        num_heads: The number of attention heads in each encoder.
        key: The random key of the first parameters.
    """

    def __init__(
        self,
        num_features: int,
        latent_size: int,
        *,
        history_conditioned: bool,
        width: int,
        num_layers: int,
        num_heads: int,
        key: Key[Array, ""],
    ):
        rngs = nnx.Rngs(key)

        def encoder() -> SetEncoder:
            return SetEncoder(
                num_features, latent_size, width=width, num_layers=num_layers, num_heads=num_heads, rngs=rngs
            )

        self.decoder = Decoder(num_features, latent_size, width=width, rngs=rngs)
        self.latent_size = latent_size
        self.prior_encoder = encoder() if latent_size and history_conditioned else None
        self.posterior_encoder = encoder() if latent_size else None

    def prior(
        self,
        prompts: Float[Array, "*batch c f"],
        successes: Int[Array, "*batch c"],
        group_size: Int[Array, "*batch c"],
    ) -> Gaussian:
        """Return p_eta(z_t | H_{t-1}), the Gaussian of the latent given the step before."""
        return self._encode(self.prior_encoder, prompts, successes, group_size)

    def posterior(
        self,
        prompts: Float[Array, "*batch c f"],
        successes: Int[Array, "*batch c"],
        group_size: Int[Array, "*batch c"],
    ) -> Gaussian:
        """Return q_phi(z_t | H_t), the Gaussian of the latent given the step itself."""
        return self._encode(self.posterior_encoder, prompts, successes, group_size)

    def fit(
        self,
        key: Key[Array, ""],
        log_prob: Callable[[Float[Array, "p c 2"], Rollouts], Float[Array, "p c"]],
        batches: Sequence[Rollouts],
        prompts: Sequence[Float[Array, "p c f"]],
    ) -> Fit:
        """Return the ELBO of p steps, per visit, from one draw of each step's latent. The gradient norm is set to 0.

        Args:
            key: The random key of the draws.
            log_prob: The log probabilities of visits, given the decoder's outputs.
            batches: The batches of the steps before the p steps, and the batches of the p steps.
            prompts: The features of the prompts in these two, in the same order.
        """
        before, batch = batches
        known = batch.group_size > 0
        prior = self.prior(prompts[0], before.successes, before.group_size)
        posterior = self.posterior(prompts[1], batch.successes, batch.group_size)
        latent = posterior.mean + posterior.scale * jax.random.normal(key, posterior.mean.shape, jnp.float32)
        outputs = self.decoder(self.decoder.features(prompts[1]), latent)
        log_probs = log_prob(outputs, batch._replace(group_size=jnp.where(known, batch.group_size, 1)))
        num_visits = known.sum(dtype=jnp.float32)
        reconstruction = jnp.where(known, log_probs, 0).sum() / num_visits
        kl = _kl_divergence(posterior, prior).sum() / num_visits
        return Fit(reconstruction - kl, reconstruction, kl, jnp.float32(0))

    def _encode(self, encoder: SetEncoder | None, prompts: Array, successes: Array, group_size: Array) -> Gaussian:
        if encoder is not None:
            return encoder(prompts, successes, group_size)
        shape = (*group_size.shape[:-1], self.latent_size)
        return Gaussian(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32))


def _kl_divergence(one: Gaussian, other: Gaussian) -> Float[Array, "*batch k"]:
    ratio, off = one.scale / other.scale, (one.mean - other.mean) / other.scale
    return 0.5 * (ratio**2 + off**2 - 1) - jnp.log(ratio)
