"""The first state of an amortised predictor, and its gradient steps on the last batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxsel._visits import accumulated, merge_visits
from jaxsel.base import Rollouts
from jaxsel.predictors.amortized.config import Config
from jaxsel.predictors.amortized.dtype_promotion import with_standard_dtype_promotion
from jaxsel.predictors.amortized.model import Model, new_parameters
from jaxsel.predictors.amortized.ring_buffer import at_most, batches_of, empty_ring_buffer, pushed
from jaxsel.predictors.amortized.state import AmortizedState, Fit, Trained
from jaxsel.predictors.embeddings import Features, on_device
from jaxsel.predictors.priors import evidence


@with_standard_dtype_promotion
def init(
    key: Key[Array, ""],
    num_prompts: int,
    *,
    model: Model,
    embeddings: Float[np.ndarray | Array, "pool d"],
    features: Features,
    made_with: int | None,
    priors: dict[str, np.ndarray | Array],
) -> AmortizedState:
    """Return the state of a pool without observations.

    Raises:
        ValueError: Embeddings or priors do not have one row per prompt, or the embeddings were changed after the method
            was made, when `made_with` was their checksum.
    """
    if len(embeddings) != num_prompts:
        raise ValueError(f"embeddings has {len(embeddings)} rows for {num_prompts} prompts; give one row per prompt")
    successes, failures = evidence(num_prompts, **priors)
    parameters = new_parameters(key, model)
    return AmortizedState(
        on_device(embeddings, made_with),
        Features(*map(jnp.array, features)),
        parameters,
        model.optimizer.init(parameters),
        empty_ring_buffer(model.config.history, model.config.context_size),
        successes=jnp.array(successes),
        failures=jnp.array(failures),
        step=jnp.int32(0),
        fit=Fit(*(jnp.float32(0) for _ in Fit._fields)),
    )


@with_standard_dtype_promotion
def update(key: Key[Array, ""], state: AmortizedState, rollouts: Rollouts, *, model: Model) -> AmortizedState:
    """Return the state after one step: the networks learn from the rollouts, and each prompt gains its own counts."""
    visits = merge_visits(rollouts, state.embeddings.shape[0])
    is_empty = ~(visits.group_size > 0).any()
    # the branches return only what training changes: `cond` would copy the embeddings
    trained = jax.lax.cond(
        is_empty,
        lambda: state.trained(),
        lambda: learn(key, state, visits, model=model),
    )
    state = state._replace(**trained._asdict())
    if model.config.decay is None:
        return state
    successes, failures = accumulated(state.successes, state.failures, visits, model.config.decay)
    return state._replace(successes=successes, failures=failures)


def learn(key: Key[Array, ""], state: AmortizedState, visits: Rollouts, *, model: Model) -> Trained:
    """Return what training changes: the merged `visits` are stored, then `inner_steps` gradient steps follow."""
    config, trained = model.config, state.trained()
    choice_key, training_key = jax.random.split(key)
    kept = at_most(choice_key, visits, config.context_size)
    recent = pushed(trained.recent, trained.step, kept)
    num_visits = (recent.group_size > 0).sum(dtype=jnp.float32)
    weights, tree_of = _flat(_Weights(trained.parameters, trained.optimizer))

    def descend(weights: _Weights, key: Key[Array, ""]) -> tuple[_Weights, Fit]:
        age_key, latent_key = jax.random.split(key)
        batches = _with_their_history(age_key, recent, trained.step, config)
        prompts = [state.inputs(batch.prompt_ids) for batch in batches]

        def loss(parameters: Float[Array, " w"]) -> tuple[Float[Array, ""], Fit]:
            networks = model.networks(tree_of(parameters))
            fit = networks.fit(latent_key, model.likelihood.log_prob, batches, prompts)
            return -fit.elbo - config.shrinkage * networks.decoder.log_prior() / num_visits, fit

        return _gradient_step(loss, weights, model.optimizer)

    keys = jax.random.split(training_key, config.inner_steps)
    weights, fits = jax.lax.scan(descend, weights, keys)
    return Trained(*_nested(weights, tree_of), recent, trained.step + 1, jax.tree.map(lambda field: field[-1], fits))


class _Weights(NamedTuple):
    parameters: PyTree[Array]
    optimizer: PyTree[Array]


def _flat(weights: _Weights) -> tuple[_Weights, Callable[[Float[Array, " w"]], PyTree[Array]]]:
    """Return the weights with all parameters as one vector, in the optimiser's state too, and the map back to a tree.

    The optimiser's program is then as short as for one parameter.
    """
    structure = jax.tree.structure(weights.parameters)

    def is_like_parameters(part: PyTree) -> bool:
        return jax.tree.structure(part) == structure

    def vector(part: PyTree) -> PyTree:
        return ravel_pytree(part)[0] if is_like_parameters(part) else part

    return jax.tree.map(vector, weights, is_leaf=is_like_parameters), ravel_pytree(weights.parameters)[1]


def _nested(weights: _Weights, tree_of: Callable[[Float[Array, " w"]], PyTree[Array]]) -> _Weights:
    return jax.tree.map(lambda part: tree_of(part) if part.ndim else part, weights)


def _with_their_history(
    key: Key[Array, ""], recent: Rollouts, step: Int[Array, ""], config: Config
) -> tuple[Rollouts, Rollouts]:
    """Return the batches to train on, the newest and `replayed` random ones, after the batch before each."""
    ages = jax.random.randint(key, (config.replayed,), 0, jnp.clip(step + 1, 1, config.history - 1), jnp.int32)
    steps = step - jnp.concatenate([jnp.zeros(1, jnp.int32), ages])
    return batches_of(recent, steps - 1), batches_of(recent, steps)


def _gradient_step(
    loss: Callable[[Float[Array, " w"]], tuple[Float[Array, ""], Fit]],
    weights: _Weights,
    optimizer: optax.GradientTransformation,
) -> tuple[_Weights, Fit]:
    gradient, fit = jax.grad(loss, has_aux=True)(weights.parameters)
    change, state = optimizer.update(gradient, weights.optimizer, weights.parameters)
    fit = fit._replace(gradient_norm=optax.tree.norm(gradient))
    return _Weights(optax.apply_updates(weights.parameters, change), state), fit
