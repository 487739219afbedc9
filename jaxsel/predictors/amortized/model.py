"""The parts of an amortised predictor that training does not change.

Amortised means that the same networks predict every prompt. The functions of the predictor need these parts beside the
state.
"""

import functools
from typing import NamedTuple

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxsel.predictors.amortized.config import Config
from jaxsel.predictors.amortized.likelihood import LIKELIHOODS, Likelihood
from jaxsel.predictors.amortized.networks import Networks


class Model(NamedTuple):
    """The fixed parts of one amortised predictor.

    Attributes:
        config: The settings.
        sizes: The sizes of the networks.
        graph: The structure of the networks, without their parameters.
        likelihood: The probability of successes, given the outputs of the decoder, the network that predicts.
        optimizer: Adam with clipped gradients. The learning rate falls during the first ten updates.
    """

    config: Config
    sizes: "Sizes"
    graph: nnx.GraphDef[Networks]
    likelihood: Likelihood
    optimizer: optax.GradientTransformation

    def networks(self, parameters: PyTree[Array]) -> Networks:
        """Return the networks with these parameters."""
        return nnx.merge(self.graph, parameters)


class Sizes(NamedTuple):
    """The sizes of the networks: the number of their inputs, and settings of `Config`."""

    num_features: int
    latent_size: int
    history_conditioned: bool
    width: int
    num_layers: int
    num_heads: int


def built(config: Config, embedding_size: int) -> Model:
    """Return the model with these settings for embeddings of this size."""
    num_features = embedding_size + 1  # direction and length, see `Features`
    sizes = Sizes(num_features, *(getattr(config, name) for name in Sizes._fields[1:]))
    rate = config.learning_rate
    schedule = optax.exponential_decay(5 * rate, 10 * config.inner_steps, 0.2, end_value=rate)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    return Model(config, sizes, _graph(sizes), LIKELIHOODS[config.likelihood], optimizer)


def new_parameters(key: Key[Array, ""], model: Model) -> dict[str, PyTree[Float[Array, "..."]]]:
    """Return random first parameters of the networks, as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(_new_networks(key, model.sizes)))


@functools.lru_cache(maxsize=32)  # tracing the networks is most of the time of a new predictor
def _graph(sizes: Sizes) -> nnx.GraphDef[Networks]:
    return nnx.graphdef(nnx.eval_shape(lambda: _new_networks(jax.random.key(0), sizes)))


def _new_networks(key: Key[Array, ""], sizes: Sizes) -> Networks:
    return Networks(**sizes._asdict(), key=key)
