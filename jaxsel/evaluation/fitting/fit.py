r"""What the papers set by hand, fitted to a recorded history: decay, prior counts, initial belief.

A predictor says, before every batch, how likely what then came was. Added up over the history, with theta its
parameters,

    L(theta) = sum_t sum_{i in batch t} log P_theta( outcome_i | everything observed before t )

is the one-step-ahead log score, and the log likelihood of the predictor as a model ("Present Position and Potential
Developments", Dawid 1984): what maximises it can be compared with other methods, and has standard errors

    cov = H^-1 ( sum_i g_i g_i' + 1 / w^2 ) H^-1,    H = 1 / w^2 - d^2 L / d theta^2

with g_i the gradient of the rows of prompt i, which hold where the model is wrong, too (White 1982). All this is on a
free scale, logits and logs, and brought back by the delta method. On that scale a Gaussian around the values set by
hand, of a wide standard deviation w, stands before the likelihood, so that what the history does not tell stays finite.

Parameters are few and histories long: derivatives go forwards through the scan, and nothing is kept for a way back.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from jaxsel import _validate
from jaxsel.base import Prediction, Predictor, Rollouts
from jaxsel.evaluation.fitting.domains import DOMAINS as DOMAINS
from jaxsel.evaluation.fitting.domains import POSITIVE as POSITIVE
from jaxsel.evaluation.fitting.domains import SIMPLEX as SIMPLEX
from jaxsel.evaluation.fitting.domains import UNIT as UNIT
from jaxsel.evaluation.fitting.domains import Domain as Domain
from jaxsel.evaluation.fitting.optimum import minimised, sandwich
from jaxsel.evaluation.metrics import solve_states
from jaxsel.evaluation.replay import History, check_steps
from jaxsel.numerics import beta_binomial
from jaxsel.predictors.beta import beta_bernoulli
from jaxsel.predictors.hidden_markov import PRIOR_COUNTS, hidden_markov

_BY_HAND: dict[str, Any] = {"prior_counts": "ones", "initial_belief": np.full(3, 1 / 3)}
_FITTED: dict[Any, tuple[str, ...]] = {
    beta_bernoulli: ("decay", "prior_alpha", "prior_beta"),
    hidden_markov: ("decay", "prior_counts", "initial_belief"),
}


def _score_of_counts(prediction: Prediction, rollouts: Rollouts) -> Float[Array, " b"]:
    rate = prediction.success_rate
    spread = beta_binomial.spread_of(rate, prediction.variance)
    return beta_binomial.log_prob(rollouts.successes, rollouts.group_size, rate, spread)


def _score_of_states(prediction: Prediction, rollouts: Rollouts) -> Float[Array, " b"]:
    states = jnp.stack([prediction.unsolved, prediction.mixed, prediction.solved])
    return solve_states.log_prob(states, rollouts.successes, rollouts.group_size)


_SCORES = {"counts": _score_of_counts, "states": _score_of_states}


class Fitted(NamedTuple):
    """A predictor with the parameters that predicted a history best.

    Attributes:
        predictor: the family with these parameters; `jaxsel.mopps(**parameters)` is a selector with them.
        parameters: that were fitted, by name: a number or nested lists.
        standard_errors: of the parameters, likewise.
        log_score: one step ahead, mean of the rows, in nats.
        by_hand: the same of the values that the fit started from.
        num_rows: visits that were predicted.
        steps: of the optimiser.
        converged: it stopped because nothing was left to gain.
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
    """Fits the parameters of a family of predictors to a history.

    >>> import jaxsel, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rates = rng.beta(0.5, 2.0, 200)  # they stay: nothing should be forgotten
    >>> ids = np.concatenate([rng.permutation(200)[:50] for _ in range(20)])
    >>> history = jaxsel.make_history(
    ...     np.repeat(np.arange(20), 50), ids, rng.binomial(8, rates[ids]), 8, num_prompts=200)
    >>> fitted = jaxsel.fit(history, jaxsel.beta_bernoulli, num_prompts=200)
    >>> {name: f"{value:.1f} ({fitted.standard_errors[name]:.1f})" for name, value in fitted.parameters.items()}
    {'decay': '1.0 (0.0)', 'prior_alpha': '0.6 (0.1)', 'prior_beta': '2.3 (0.3)'}

    Args:
        history: what was observed; a held-out part of it says how good the fit is.
        family: makes a predictor of parameters: `jaxsel.beta_bernoulli`, `jaxsel.hidden_markov`, or one that computes
            with them in JAX and does not look at their values. It is given the visited prompts alone, as its pool.
        num_prompts: the size of the history's pool.
        parameters: names of those to fit; None: decay and prior of either family above, but for those given as options.
        start: values set by hand, the default of the family where there is none.
        score: "counts": the Beta-Binomial probability of the number of successes, for predictors of success rates;
            "states": that of the solve state, of groups of the size that the predictor speaks of. None: "states" for
            `hidden_markov`, which knows nothing else.
        domains: of parameters whose name is not in `DOMAINS`.
        prior_width: w, in logits and logs.
        max_steps: of L-BFGS.
        **options: of the family, as they are; a vector with one entry a prompt of the pool is cut to those visited.

    Raises:
        ValueError: an empty history, a parameter without a domain or with a value, a score that is none, or a start at
            which something came that was predicted not to.
    """
    _validate.positive_integer(num_prompts=num_prompts, max_steps=max_steps)
    _validate.positive(prior_width=prior_width)
    if not isinstance(history, History):
        raise ValueError(f"history is {history!r}; give what make_history returns")
    if not callable(family):
        raise ValueError(f"family is {family!r}; give a constructor of predictors, for example jaxsel.beta_bernoulli")
    domains = {**DOMAINS, **(domains or {})}
    names = _names(family, parameters, start or {}, options, domains)
    score = score or ("states" if family is hidden_markov else "counts")
    _validate.one_of(tuple(_SCORES), score=score)
    if len(history.step) == 0:
        raise ValueError("history has no rows; give one with visits")
    if int(history.prompt_ids.max()) >= num_prompts:
        raise ValueError(
            f"num_prompts is {num_prompts}, but the history visits {history.prompt_ids.max()}; give its pool's"
        )

    check_steps(history.step)
    visited, batches = _batches(history)
    by_hand = {name: _by_hand(family, name, start or {}) for name in names}
    family(**by_hand, **options)  # says what is wrong with the values
    by_hand = {name: domains[name].inside(_as_numbers(name, value)) for name, value in by_hand.items()}
    cut = {name: _cut(name, value, visited, num_prompts) for name, value in options.items()}
    num_rows = len(history.step)

    def row_scores(values: dict[str, Any]) -> Float[Array, "T b"]:
        return _one_step_ahead(family(**values, **cut), _SCORES[score], batches, len(visited))

    mean_score = jax.jit(lambda values: jnp.sum(row_scores(values)) / num_rows)
    first = float(mean_score(by_hand))
    if not np.isfinite(first):
        raise ValueError(f"start gives a log score of {first}: something came that it holds impossible; give no zeros")
    free_start, bound = _freed(by_hand, domains)

    def loss(free: Float[Array, " k"]) -> Float[Array, ""]:
        off = (free - free_start) / prior_width
        return (0.5 * jnp.sum(off**2) - jnp.sum(row_scores(bound(free)))) / num_rows

    free, steps, converged = minimised(loss, free_start, max_steps)
    gradients = jax.jit(jax.jacfwd(lambda free: row_scores(bound(free))))(free)
    by_prompt = jnp.zeros((len(visited), len(free))).at[batches.prompt_ids].add(gradients, mode="drop")
    covariance = sandwich(num_rows * jax.jit(jax.jacfwd(jax.jacfwd(loss)))(free), by_prompt, 1 / prior_width**2)
    fitted, errors = _listed(bound(free)), _listed(_errors(bound, free, covariance))
    predictor, best = family(**fitted, **options), float(mean_score(bound(free)))
    return Fitted(predictor, fitted, errors, best, first, num_rows, int(steps), bool(converged))


def _listed(arrays: Mapping[str, Float[Array, "..."]]) -> dict[str, Any]:
    return {name: np.asarray(array).tolist() for name, array in arrays.items()}


def _freed(
    values: Mapping[str, Float[Array, "..."]], domains: Mapping[str, Domain]
) -> tuple[Float[Array, " k"], Callable[[Float[Array, " k"]], dict[str, Any]]]:
    """The values as one vector of free numbers, and the way back."""
    free, unravel = ravel_pytree({name: domains[name].freed(value) for name, value in values.items()})
    return free, lambda free: {name: domains[name].bound(value) for name, value in unravel(free).items()}


def _errors(
    bound: Callable[[Float[Array, " k"]], dict[str, Any]], free: Float[Array, " k"], covariance: Float[Array, "k k"]
) -> dict[str, Float[Array, "..."]]:
    """Standard errors of the parameters, by the delta method."""
    slopes = jax.jacfwd(bound)(free)
    return {name: jnp.sqrt(jnp.einsum("...i,ij,...j->...", s, covariance, s)) for name, s in slopes.items()}


def _names(
    family: Callable[..., Predictor],
    parameters: Sequence[str] | None,
    start: Mapping[str, Any],
    options: Mapping[str, Any],
    domains: Mapping[str, Domain],
) -> tuple[str, ...]:
    """Of the parameters to fit."""
    own = tuple(name for name in _FITTED.get(family, ()) if name not in options)
    names = own if parameters is None else tuple(parameters)
    cure = f"give names out of {', '.join(domains)}, or of your own with their domains"
    if len(set(names)) < len(names):
        raise ValueError(f"parameters holds {', '.join(names)}; give every name once")
    if not names:
        raise ValueError(f"parameters is empty; {cure}")
    for name in names:
        if name not in domains:
            raise ValueError(f"parameters holds {name!r}; {cure}")
        if name in options:
            raise ValueError(
                f"{name} is {options[name]} and to be fitted, too; give it in start, or leave it out of parameters"
            )
    for name in start:
        if name not in names:
            raise ValueError(f"start holds {name!r}, which is not fitted; give it as an option")
    return names


def _batches(history: History) -> tuple[Int[np.ndarray, " v"], Rollouts]:
    """The visited prompts, and the batches `[T, b]` with ids among these; what pads a batch is outside of the pool."""
    visited, ids = np.unique(history.prompt_ids, return_inverse=True)
    place = np.arange(len(ids)) - np.searchsorted(history.step, history.step)
    shape = (history.num_steps, int(place.max()) + 1)
    padded = (np.full(shape, len(visited), np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    for field, column in zip(padded, (ids, history.successes, history.group_size), strict=True):
        field[history.step, place] = column
    return visited, Rollouts(*map(jnp.asarray, padded))


def _by_hand(family: Callable[..., Predictor], name: str, start: Mapping[str, Any]) -> Any:
    """The value that the caller gives, or the family's own."""
    known = inspect.signature(family).parameters
    own = known[name].default if name in known else inspect.Parameter.empty
    value = start.get(name, _BY_HAND.get(name) if own in (None, inspect.Parameter.empty) else own)
    if value is None:
        raise ValueError(f"start holds no {name}, and {getattr(family, '__name__', family)} has no default; give one")
    return value if isinstance(value, str | float) else np.asarray(value)


def _as_numbers(name: str, value: Any) -> Float[Array, "*shape"]:
    return jnp.asarray(PRIOR_COUNTS[value] if name == "prior_counts" and isinstance(value, str) else value, jnp.float32)


def _cut(name: str, value: Any, visited: Int[np.ndarray, " v"], num_prompts: int) -> Any:
    one_each = np.shape(value) == (num_prompts,) and name != "initial_belief"
    return np.asarray(value)[visited] if one_each else value


def _one_step_ahead(
    predictor: Predictor,
    score: Callable[[Prediction, Rollouts], Float[Array, " b"]],
    batches: Rollouts,
    num_prompts: int,
) -> Float[Array, "T b"]:
    """The log score of every visit before it was observed; 0 for padding."""
    key = jax.random.key(0)  # for what is random in a prediction, which no score reads

    def step(state: Any, batch: Rollouts) -> tuple[Any, Float[Array, " b"]]:
        there = batch.group_size > 0
        prediction = predictor.predict(key, state, jnp.where(there, batch.prompt_ids, 0))
        # padding is scored as an outcome that has a probability: the gradient stays finite
        filled = batch._replace(group_size=jnp.where(there, batch.group_size, 1))
        return predictor.update(key, state, batch), jnp.where(there, score(prediction, filled), 0)

    return jax.lax.scan(step, predictor.init(key, num_prompts), batches)[1]
