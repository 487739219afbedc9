"""The rules, which choose prompts by their scores."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate
from jaxsel._shared import shared
from jaxsel.base import ChooseFn, Rule, State
from jaxsel.numerics import random
from jaxsel.selection.largest_scores import choose_top_k, ids_or_positions


@shared
def top_k() -> Rule:
    """Choose the prompts with the largest scores; ties are broken at random."""
    return Rule({"name": "top_k"}, choose_top_k)


@shared
def within_bounds(lower: float, upper: float) -> Rule:
    """Choose at random among the prompts with scores in [lower, upper], as the method `threshold` does.

    If too few scores lie between the bounds, the rule adds the scores nearest to the bounds.

    Raises:
        ValueError: The bounds are not numbers with lower <= upper.
    """
    numbers = all(isinstance(bound, Real) or _validate.is_number(bound) for bound in (lower, upper))  # also infinity
    if not (numbers and lower <= upper):
        raise ValueError(f"lower is {lower!r} and upper is {upper!r}; give numbers with lower <= upper")
    lower, upper = float(lower), float(upper)

    def nearness(key, scores, _):
        return key, -jnp.maximum(jnp.maximum(lower - scores, scores - upper), 0)

    return Rule({"name": "within_bounds", "lower": lower, "upper": upper}, _top_k_by(nearness))


@shared
def gumbel_top_k(temperature: float = 1.0) -> Rule:
    """Sample without replacement, each draw with probability proportional to exp(score / temperature).

    Reference: "Stochastic Beams and Where to Find Them" (Kool, van Hoof and Welling, arXiv 1903.06059).

    Args:
        temperature: Divisor of the scores, at least 1e-30. The larger the temperature, the less the scores matter. The
            rule for the largest scores is `top_k`.

    Raises:
        ValueError: The temperature is not a finite number of at least 1e-30.
    """
    _validate.temperature(temperature=temperature)
    temperature = float(temperature)

    def perturbed(key, scores, prompt_ids):
        noise_key, tie_key = jax.random.split(key)
        uniform = random.uniform(noise_key, ids_or_positions(prompt_ids, scores))
        gumbel = -jnp.log(-jnp.log1p(-uniform))  # largest near uniform = 0, where floats are densest
        return tie_key, scores / temperature + gumbel

    return Rule({"name": "gumbel_top_k", "temperature": temperature}, _top_k_by(perturbed))


@shared
def random_subset() -> Rule:
    """Choose uniformly at random, whatever the scores are."""

    # for equal scores, choose_top_k would make the same draws to break the ties, after a search among the scores
    def drawn(key, scores, prompt_ids):
        return key, -random.uniform(key, ids_or_positions(prompt_ids, scores))

    return Rule({"name": "random_subset"}, _top_k_by(drawn))


def _top_k_by(values_of: Callable[..., Any]) -> ChooseFn:
    """Return a `ChooseFn` that chooses the largest values.

    Args:
        values_of: `(key, scores, prompt_ids) -> (key, values)`. The returned key breaks ties.
    """

    def choose(
        key: Key[Array, ""],
        scores: Float[Array, " m"],
        batch_size: int,
        prompt_ids: Int[Array, " m"] | None = None,
        state: State = None,
        count: Int[Array, ""] | None = None,
    ) -> Int[Array, " b"]:
        del state
        tie_key, values = values_of(key, scores, prompt_ids)
        return choose_top_k(tie_key, values, batch_size, prompt_ids, count=count)

    return choose
