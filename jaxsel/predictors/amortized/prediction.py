"""The prediction of an amortised predictor: the decoder's beliefs, averaged over draws of the latent."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxsel.base import Prediction
from jaxsel.numerics import devices, random
from jaxsel.numerics.beta_binomial import mixed_of
from jaxsel.numerics.blocks import in_blocks
from jaxsel.numerics.fusion import stored_on_a_cpu
from jaxsel.predictors.amortized.dtype_promotion import with_standard_dtype_promotion
from jaxsel.predictors.amortized.likelihood import Belief
from jaxsel.predictors.amortized.model import Model
from jaxsel.predictors.amortized.networks import Networks
from jaxsel.predictors.amortized.state import AmortizedState

_BLOCKS_OF_A_GPU = 16  # blocks that a GPU decodes at a time; one block of 4,096 prompts leaves it idle


@with_standard_dtype_promotion
def predict(
    key: Key[Array, ""],
    state: AmortizedState,
    prompt_ids: Int[Array, " m"] | None,
    first_id: Int[Array, ""] | int = 0,
    *,
    model: Model,
    rough: bool = False,
) -> Prediction:
    """Return the prediction for these prompts, or for the whole pool if `prompt_ids` is None.

    Means, variances and probabilities come from the mixture over `num_draws` draws of the latent variable. The draws of
    the success rate all use the first of these, so that they are jointly one sample for all prompts.
    With `rough`, the mean of the draws of the latent replaces them: every prompt is decoded once.
    """
    config, likelihood = model.config, model.likelihood
    latent_key, draw_key = jax.random.split(key)
    networks = model.networks(state.parameters)
    latents = _latents(latent_key, networks, state, model)
    if rough:
        latents = latents.mean(0, keepdims=True)

    def decode(rows: Int[Array, " b"]) -> Belief:
        features = networks.decoder.features(state.inputs(rows))
        evidence = state.successes[rows], state.failures[rows]

        def belief(latent: Float[Array, " k"]) -> Belief:
            return likelihood.belief(networks.decoder(features, latent), *evidence, config.group_size)

        return _mixture(jax.tree.map(stored_on_a_cpu, jax.vmap(belief)(latents)))

    rows = jnp.arange(state.successes.shape[0], dtype=jnp.int32) if prompt_ids is None else first_id + prompt_ids
    block_size = config.block_size if devices.for_a_cpu() else config.block_size * _BLOCKS_OF_A_GPU
    rate, variance, alpha, beta, unsolved, solved = in_blocks(decode, block_size, rows)
    draw = random.beta(draw_key, alpha, beta, ids=rows) if likelihood.conjugate else alpha
    mixed = mixed_of(unsolved, solved, config.group_size)
    return Prediction(rate, variance, draw, unsolved, mixed, solved)


def _latents(key: Key[Array, ""], networks: Networks, state: AmortizedState, model: Model) -> Float[Array, "draws k"]:
    """Return draws of the latent z from its prior, given the rollouts H_t of the last step: p_eta(z | H_t)."""
    last = state.latest(1)
    mean, scale = networks.prior(state.inputs(last.prompt_ids), last.successes, last.group_size)
    latent_size = model.config.latent_size
    shape = (model.config.num_draws if latent_size else 1, latent_size)
    return mean + scale * jax.random.normal(key, shape, jnp.float32)


def _mixture(beliefs: Belief) -> Belief:
    """Return the mixture over the first axis, one belief per latent. Its alpha and beta are the first latent's."""
    rate = beliefs.success_rate.mean(0)
    variance = (beliefs.variance + (beliefs.success_rate - rate[None]) ** 2).mean(0)
    return Belief(rate, variance, beliefs.alpha[0], beliefs.beta[0], beliefs.unsolved.mean(0), beliefs.solved.mean(0))
