"""Checks of the arguments of `fit`, and the values that the fit starts from.

A family is a constructor of predictors, for example `jaxsel.beta_bernoulli`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsel import _validate
from jaxsel.base import Predictor
from jaxsel.evaluation.fitting.domains import Domain
from jaxsel.evaluation.replay import History, check_steps
from jaxsel.predictors.beta import beta_bernoulli
from jaxsel.predictors.hidden_markov import PRIOR_COUNTS, hidden_markov

_BY_HAND: dict[str, Any] = {"prior_counts": "ones", "initial_belief": np.full(3, 1 / 3)}
_FITTED: dict[Any, tuple[str, ...]] = {
    beta_bernoulli: ("decay", "prior_alpha", "prior_beta"),
    hidden_markov: ("decay", "prior_counts", "initial_belief"),
}
_ALWAYS_ALLOWED = 2**26  # padded rows, of 12 bytes each, of which the gradient takes several times the memory
_PER_ROW = 8  # padded rows per row of the history


def check_types(history: History, family: Callable[..., Predictor]) -> None:
    """Check that `history` is a `History` and that `family` is callable."""
    if not isinstance(history, History):
        raise ValueError(f"history is {history!r}; give what make_history returns")
    if not callable(family):
        raise ValueError(f"family is {family!r}; give a constructor of predictors, for example jaxsel.beta_bernoulli")


def check_rows(history: History, num_prompts: int) -> None:
    """Check the rows of a history.

    Raises:
        ValueError: There are none, a prompt is not of the pool, the steps are far from consecutive, or one step has so
            many rows that all steps, padded to its size, would take gigabytes.
    """
    if len(history.step) == 0:
        raise ValueError("history has no rows; give a history with visits")
    if int(history.prompt_ids.max()) >= num_prompts:
        raise ValueError(
            f"num_prompts is {num_prompts}, but the history visits prompt {history.prompt_ids.max()}; "
            "give the size of the history's pool"
        )
    check_steps(history.step)
    sizes = np.bincount(history.step)
    padded = len(sizes) * int(sizes.max())
    if padded > max(_ALWAYS_ALLOWED, _PER_ROW * len(history.step)):
        raise ValueError(
            f"history has {sizes.max()} rows in step {sizes.argmax()} and {len(sizes)} steps, of which each takes the "
            "memory of the largest; leave this step out, and give its counts as prior_alpha and prior_beta of "
            "`informative_prior`"
        )


def names_to_fit(
    family: Callable[..., Predictor],
    parameters: Sequence[str] | None,
    start: Mapping[str, Any],
    options: Mapping[str, Any],
    domains: Mapping[str, Domain],
) -> tuple[str, ...]:
    """Return the names of the parameters to fit, and check that names, start values and options agree."""
    own = tuple(name for name in _FITTED.get(family, ()) if name not in options)
    if not isinstance(start, Mapping):
        raise ValueError(f"start is {start!r:.60}; give values by name")
    _validate.made(Domain, **{f"domains[{name!r}]": domain for name, domain in domains.items()})
    names = own if parameters is None else tuple(parameters)
    cure = f"give names out of {', '.join(domains)}, or your own names with their domains"
    if len(set(names)) < len(names):
        raise ValueError(f"parameters holds {', '.join(names)}; give every name once")
    if not names:
        raise ValueError(f"parameters is empty; {cure}")
    for name in names:
        if name not in domains:
            raise ValueError(f"parameters holds {name!r}; {cure}")
        if name in options:
            raise ValueError(
                f"{name} is {options[name]!r}, but parameters holds it too; give it in start, or not in parameters"
            )
    for name in start:
        if name not in names:
            raise ValueError(f"start holds {name!r}, which is not fitted; give it as a keyword argument")
    return names


def by_hand(family: Callable[..., Predictor], name: str, start: Mapping[str, Any]) -> Any:
    """Return the start value of a parameter: the caller's, or the family's default, or else the value in `_BY_HAND`."""
    known = inspect.signature(family).parameters
    own = known[name].default if name in known else inspect.Parameter.empty
    value = start.get(name, _BY_HAND.get(name) if own in (None, inspect.Parameter.empty) else own)
    if value is None:
        raise ValueError(
            f"start holds no {name}, and {getattr(family, '__name__', family)} has no default; give a value"
        )
    return value if isinstance(value, str | float) else np.asarray(value)


def check_takes_traced_values(
    family: Callable[..., Predictor], values: Mapping[str, Any], options: Mapping[str, Any], num_prompts: int
) -> None:
    """Check that the family makes a predictor and its first state from values that JAX traces, as a gradient needs."""
    key = jax.random.key(0)
    family(**values, **options).init(key, num_prompts)  # raises errors for invalid values
    numbers = {name: as_numbers(name, value) for name, value in values.items()}
    try:
        jax.eval_shape(lambda traced: family(**traced, **options).init(key, num_prompts), numbers)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"family is {getattr(family, '__name__', family)}, which takes no traced values of {', '.join(values)}, so "
            f"they cannot be fitted; fit {' or '.join(known.__name__ for known in _FITTED)}, or a family of your own "
            "that uses its parameters in JAX"
        ) from error


def as_numbers(name: str, value: Any) -> Float[Array, "*shape"]:
    """Return a start value as float32. A name of prior counts, such as "ones", becomes the named matrix."""
    return jnp.asarray(PRIOR_COUNTS[value] if name == "prior_counts" and isinstance(value, str) else value, jnp.float32)


def cut(name: str, value: Any, visited: Int[np.ndarray, " v"], num_prompts: int) -> Any:
    """Return an option of the family; an array with one entry per prompt is cut to the visited prompts."""
    # an initial_belief has 3 entries, one per solve state, also for a pool of 3 prompts
    one_each = np.shape(value) == ((num_prompts, 3) if name == "initial_belief" else (num_prompts,))
    return np.asarray(value)[visited] if one_each else value
