"""The fixed parts of an amortised predictor: everything that its functions need and that no state holds."""

import functools
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxsel.predictors.amortized.config import Config
from jaxsel.predictors.amortized.embeddings import Features
from jaxsel.predictors.amortized.likelihood import LIKELIHOODS, Likelihood
from jaxsel.predictors.amortized.networks import Networks

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Model(NamedTuple):
    """The fixed parts of one amortised predictor.

    Attributes:
        config: The settings.
        features: The scaled features of an embedding, which the networks read.
        graph: The structure of the networks, without their parameters.
        likelihood: The reading of the decoder's outputs.
        optimizer: Adam with clipped gradients and a learning rate that falls during the first updates.
    """

    config: Config
    features: Features
    graph: nnx.GraphDef[Networks]
    likelihood: Likelihood
    optimizer: optax.GradientTransformation

    def networks(self, parameters: PyTree[Array]) -> Networks:
        """Return the networks with these parameters."""
        return nnx.merge(self.graph, parameters)


def built(config: Config, features: Features) -> Model:
    """Return the model with these settings for prompts with these features."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: _new_networks(jax.random.key(0), config, features)))
    rate, updates = config.learning_rate, 10
    schedule = optax.exponential_decay(5 * rate, updates * config.inner_steps, 0.2, end_value=rate)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    return Model(config, features, graph, LIKELIHOODS[config.likelihood], optimizer)


def new_parameters(key: Key[Array, ""], model: Model) -> dict[str, PyTree[Float[Array, "..."]]]:
    """Return random first parameters of the networks, as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(_new_networks(key, model.config, model.features)))


def _new_networks(key: Key[Array, ""], config: Config, features: Features) -> Networks:
    return Networks(
        len(features.shift),
        config.latent_size,
        history_conditioned=config.history_conditioned,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        key=key,
    )


def with_standard_promotion(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return the function, made independent of JAX's setting for type promotion.

    Flax and Optax mix types, which the setting "strict" refuses.
    """

    @functools.wraps(function)
    def run(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        with jax.numpy_dtype_promotion("standard"):
            return function(*arguments, **options)

    return run
