"""The parts of an amortised predictor that training does not change.

Amortised means that the same networks predict every prompt. The functions of the predictor need these parts beside the
state.
"""

from typing import NamedTuple

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxsel.predictors.amortized.config import Config
from jaxsel.predictors.amortized.likelihood import LIKELIHOODS, Likelihood
from jaxsel.predictors.amortized.networks import Networks
from jaxsel.predictors.embeddings import Features


class Model(NamedTuple):
    """The fixed parts of one amortised predictor.

    Attributes:
        config: The settings.
        features: The map from embeddings to the inputs of the networks.
        graph: The structure of the networks, without their parameters.
        likelihood: The probability of successes, given the outputs of the decoder, the network that predicts.
        optimizer: Adam with clipped gradients. The learning rate falls during the first ten updates.
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
    rate = config.learning_rate
    schedule = optax.exponential_decay(5 * rate, 10 * config.inner_steps, 0.2, end_value=rate)
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
