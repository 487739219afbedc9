r"""Fits a predictor's parameters, for example decay and prior, to a history. MoPPS and DPS set them by hand.

A history records the visits of a run: a visit is one prompt's group of rollouts in one training step.

Before every batch, a predictor assigns a probability to each possible outcome of the batch. With the parameters theta
of the predictor, its one-step-ahead log score is the sum over the history

    L(theta) = sum_t sum_{i in batch t} log P_theta( outcome_i | everything observed before t )

This score is also the log likelihood of the predictor as a model ("Present Position and Potential Developments", Dawid
1984). Its maxima for different predictors can therefore be compared, if all are scored on the same kind of outcome. The
fitted parameters have standard errors from

    cov = H^-1 ( sum_i g_i g_i' + 1 / w^2 ) H^-1,    H = 1 / w^2 - d^2 L / d theta^2

where g_i is the gradient of prompt i's terms in L. These errors are valid even if the model is wrong (White 1982). The
fit uses an unbounded scale of logits and logs, and the delta method converts the errors to the parameters' scale. On
the unbounded scale, the parameters have a Gaussian prior around the start values, with a wide standard deviation w. A
parameter that the history does not determine thus stays finite.

There are few parameters and histories are long. Derivatives therefore use forward mode, which stores no steps for a
backward pass.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxsel import _validate
from jaxsel.base import Predictor, Rollouts
from jaxsel.evaluation.fitting.arguments import (
    as_numbers,
    by_hand,
    check_rows,
    check_takes_traced_values,
    check_types,
    cut,
    names_to_fit,
)
from jaxsel.evaluation.fitting.domains import DOMAINS as DOMAINS
from jaxsel.evaluation.fitting.domains import POSITIVE as POSITIVE
from jaxsel.evaluation.fitting.domains import SIMPLEX as SIMPLEX
from jaxsel.evaluation.fitting.domains import UNIT as UNIT
from jaxsel.evaluation.fitting.domains import Domain as Domain
from jaxsel.evaluation.fitting.one_step_ahead import SCORES, batches_of, row_scores
from jaxsel.evaluation.fitting.optimum import minimised, sandwich
from jaxsel.evaluation.replay import History
from jaxsel.predictors.hidden_markov import hidden_markov

_Values = dict[str, Any]


class Fitted(NamedTuple):
    """A predictor with the parameters that predict a history best.

    Attributes:
        predictor: The predictor with the fitted parameters. The selection method with this predictor takes the same
            parameters: `jaxsel.mopps(**parameters)` after a fit of `jaxsel.beta_bernoulli`.
        parameters: Fitted parameters by name, each a number or nested lists.
        standard_errors: Standard errors of the parameters, in the same form.
        log_score: Mean one-step-ahead log score per visit, in nats.
        by_hand: The same mean at the start values.
        num_rows: Number of predicted visits.
        steps: Number of steps of the optimiser.
        converged: Whether the optimiser stopped because the gradient vanished, and not because of `max_steps`.
    """

    predictor: Predictor
    parameters: dict[str, Any]
    standard_errors: dict[str, Any]
    log_score: float
    by_hand: float
    num_rows: int
    steps: int
    converged: bool


def fit(
    history: History,
    family: Callable[..., Predictor],
    *,
    num_prompts: int,
    parameters: Sequence[str] | None = None,
    start: Mapping[str, Any] | None = None,
    score: str | None = None,
    domains: Mapping[str, Domain] | None = None,
    prior_width: float = 3.0,
    max_steps: int = 100,
    **options: Any,
) -> Fitted:
    """Fit the parameters of a family of predictors to a history.

    >>> import jaxsel, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rates = rng.beta(0.5, 2.0, 200)  # constant rates: nothing should be forgotten
    >>> ids = np.concatenate([rng.permutation(200)[:50] for _ in range(20)])
    >>> history = jaxsel.make_history(
    ...     np.repeat(np.arange(20), 50), ids, rng.binomial(8, rates[ids]), 8, num_prompts=200)
    >>> fitted = jaxsel.fit(history, jaxsel.beta_bernoulli, num_prompts=200)
    >>> {name: f"{value:.1f} ({fitted.standard_errors[name]:.1f})" for name, value in fitted.parameters.items()}
    {'decay': '1.0 (0.0)', 'prior_alpha': '0.6 (0.1)', 'prior_beta': '2.3 (0.3)'}

    Args:
        history: Recorded visits. A held-out part of the history shows how well the fit generalises.
        family: Constructor of predictors: `jaxsel.beta_bernoulli`, `jaxsel.hidden_markov`, or one that uses its
            parameters in JAX and accepts traced values. The predictors of the fit get the visited prompts as their
            whole pool.
        num_prompts: Number of prompts in the history's pool.
        parameters: Names of the parameters to fit. None, for the two families above: their parameters in `DOMAINS`
            that are not given as options.
        start: Start values by name. Missing values are the family's defaults.
        score: "counts": the Beta-Binomial log probability of the number of successes, for predictors of success rates.
            "states": the log probability of the solve state (no, some or all rollouts correct), for groups of the
            predictor's group size. None: "states" for `hidden_markov`, which predicts solve states only, otherwise
            "counts".
        domains: Domains of your own parameters by name, for example `{"rate": UNIT}`; see `DOMAINS`.
        prior_width: w, the standard deviation of the Gaussian prior, in logits and logs.
        max_steps: Largest number of L-BFGS steps.
        **options: Further arguments of the family. A vector with one entry per prompt is cut to the visited prompts.

    Raises:
        ValueError: The history is empty, or has so large a step beside many small ones that it would take gigabytes;
            the score is unknown, or a parameter has no domain or is also an option. Also for a family that takes no
            traced values of a parameter, and for start values that give an observed outcome the probability 0.
    """
    _validate.positive_integer(num_prompts=num_prompts, max_steps=max_steps)
    _validate.positive(prior_width=prior_width)
    prior_width, max_steps = float(prior_width), int(max_steps)
    check_types(history, family)
    domains = {**DOMAINS, **(domains or {})}
    names = names_to_fit(family, parameters, start or {}, options, domains)
    score = score or ("states" if family is hidden_markov else "counts")
    _validate.one_of(tuple(SCORES), score=score)
    check_rows(history, num_prompts)

    # optax mixes types, which the settings may forbid; all predictors compute in 32 bits
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        visited, batches = batches_of(history)
        first = {name: by_hand(family, name, start or {}) for name in names}
        family(**first, **options)  # raises errors for invalid values
        own = {name: cut(name, value, visited, num_prompts) for name, value in options.items()}
        check_takes_traced_values(family, first, own, len(visited))
        first = {name: domains[name].inside(as_numbers(name, value)) for name, value in first.items()}
        num_rows = len(history.step)

        @jax.jit  # so that it is traced once for all derivatives
        def scores(values: _Values) -> Float[Array, "T b"]:
            return row_scores(family(**values, **own), SCORES[score], batches, len(visited))

        mean_score = jax.jit(lambda values: jnp.sum(scores(values)) / num_rows)
        score_by_hand = float(mean_score(first))
        if not np.isfinite(score_by_hand):
            found = f"start gives a log score of {score_by_hand}: an outcome with probability 0 occurred"
            raise ValueError(f"{found}; give values above 0")
        best, errors, steps, converged = _best(
            scores, first, domains, batches, len(visited), num_rows, prior_width, max_steps
        )
        fitted = _listed(best)
        predictor, log_score = family(**fitted, **options), float(mean_score(best))
        return Fitted(predictor, fitted, _listed(errors), log_score, score_by_hand, num_rows, steps, converged)


def _best(
    scores: Callable[[_Values], Float[Array, "T b"]],
    start: _Values,
    domains: Mapping[str, Domain],
    batches: Rollouts,
    num_visited: int,
    num_rows: int,
    prior_width: float,
    max_steps: int,
) -> tuple[_Values, _Values, int, bool]:
    """Return the values of largest posterior density, their errors, the number of steps, and whether L-BFGS converged.

    `bound` maps a vector of unbounded numbers to the parameters.
    """
    free_start, bound = _freed(start, domains)

    def loss(free: Float[Array, " k"]) -> Float[Array, ""]:
        off = (free - free_start) / prior_width
        return (0.5 * jnp.sum(off**2) - jnp.sum(scores(bound(free)))) / num_rows

    @jax.jit
    def value_and_gradients(free: Float[Array, " k"]) -> tuple[Float[Array, ""], Float[Array, "T b k"]]:
        gradients, by_row = jax.jacfwd(lambda free: (scores(bound(free)),) * 2, has_aux=True)(free)
        return -jnp.sum(by_row) / num_rows, gradients

    @jax.jit
    def values_and_errors(free: Float[Array, " k"], gradients: Float[Array, "T b k"]) -> tuple[_Values, _Values]:
        by_prompt = jnp.zeros((num_visited, len(free))).at[batches.prompt_ids].add(gradients, mode="drop")
        covariance = sandwich(num_rows * jax.jacfwd(jax.jacfwd(loss))(free), by_prompt, 1 / prior_width**2)
        return bound(free), _errors(bound, free, covariance)

    value, gradients = value_and_gradients(free_start)  # here, the prior has no gradient
    free, steps, converged = minimised(loss, free_start, value, -gradients.sum((0, 1)) / num_rows, max_steps)
    _, gradients = value_and_gradients(free)
    return *values_and_errors(free, gradients), int(steps), bool(converged)


def _listed(arrays: Mapping[str, Float[Array, "..."]]) -> _Values:
    return {name: np.asarray(array).tolist() for name, array in arrays.items()}


def _freed(
    values: Mapping[str, Float[Array, "..."]], domains: Mapping[str, Domain]
) -> tuple[Float[Array, " k"], Callable[[Float[Array, " k"]], _Values]]:
    """Return the values as one vector of unbounded numbers, and the function from the vector to the values."""
    freed = jax.jit(lambda values: {name: domains[name].freed(value) for name, value in values.items()})
    free, unravel = ravel_pytree(freed(values))
    return free, lambda free: {name: domains[name].bound(value) for name, value in unravel(free).items()}


def _errors(
    bound: Callable[[Float[Array, " k"]], _Values], free: Float[Array, " k"], covariance: Float[Array, "k k"]
) -> dict[str, Float[Array, "..."]]:
    """Return the standard errors of the parameters by the delta method."""
    slopes = jax.jacfwd(bound)(free)
    return {name: jnp.sqrt(jnp.einsum("...i,ij,...j->...", s, covariance, s)) for name, s in slopes.items()}
