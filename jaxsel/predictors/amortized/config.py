"""The settings of the amortised predictor, and a check of their values."""

from typing import Any, NamedTuple

from jaxsel import _validate
from jaxsel.predictors.amortized.likelihood import LIKELIHOODS


class Config(NamedTuple):
    """The settings of `jaxsel.amortized`, in the order of its arguments; its docstring describes each."""

    decay: float | None
    group_size: int
    likelihood: str
    latent_size: int
    history_conditioned: bool
    num_draws: int
    width: int
    num_layers: int
    num_heads: int
    context_size: int
    history: int
    inner_steps: int
    replayed: int
    learning_rate: float
    shrinkage: float
    block_size: int


def checked(config: Config) -> Config:
    """Return the settings as Python's numbers, after a check of their ranges and that they fit together.

    Raises:
        ValueError: A setting is out of its range, or `width` is not a multiple of `num_heads`. Also for a `decay` with
            a likelihood other than "beta_binomial".
    """
    _validate.positive_integer(
        group_size=config.group_size,
        num_draws=config.num_draws,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        context_size=config.context_size,
        inner_steps=config.inner_steps,
        block_size=config.block_size,
    )
    _validate.integer_in(0, 2**16, latent_size=config.latent_size, replayed=config.replayed)
    _validate.integer_in(2, 2**16, history=config.history)
    _validate.positive(learning_rate=config.learning_rate)
    _validate.non_negative(shrinkage=config.shrinkage)
    _validate.one_of(LIKELIHOODS, likelihood=config.likelihood)
    if config.width % config.num_heads:
        raise ValueError(f"width is {config.width} with {config.num_heads} heads; give a multiple of num_heads")
    if config.decay is not None:
        _validate.unit_interval(decay=config.decay)
        if not LIKELIHOODS[config.likelihood].conjugate:
            raise ValueError(
                f"decay is {config.decay} with likelihood {config.likelihood!r}; give decay=None, or "
                "likelihood='beta_binomial'"
            )
    known: dict[str, Any] = {name: value for name, value in config._asdict().items() if not _validate.traced(value)}
    return config._replace(**{name: _validate.json_value(value) for name, value in known.items()})
