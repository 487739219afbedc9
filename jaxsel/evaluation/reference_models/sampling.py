"""Sampling of the state-space model (`model.py` defines it) with NUTS, and predictions from its draws."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from numpy.typing import ArrayLike
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.handlers import condition
from numpyro.infer import MCMC, NUTS

from jaxsel import _validate
from jaxsel.evaluation.reference_models.model import SCALARS, VisitTable, state_space_model, tabulated
from jaxsel.evaluation.reference_models.posterior import Diagnostics, ReferencePosterior
from jaxsel.evaluation.reference_models.visits import VisitPosterior
from jaxsel.evaluation.replay import History, make_history
from jaxsel.predictors import embeddings as _embeddings

_REPORTED = (*SCALARS, "weight_scale", "weights", "last_logit", "location", "scale")


def sample(
    key: Key[Array, ""],
    history: History,
    *,
    num_prompts: int,
    prompt_ids: ArrayLike | None = None,
    step: int | None = None,
    embeddings: ArrayLike | None = None,
    fixed: Mapping[str, float] | None = None,
    num_warmup: int = 400,
    num_samples: int = 400,
    num_chains: int = 4,
) -> ReferencePosterior:
    """Return draws of success rates at a step, given the history before the step.

    Check the diagnostics of the result: a failed run raises no error.

    Args:
        key: A key, which this function consumes.
        history: Recorded visits of any method, from `make_history`.
        num_prompts: Number of prompts in the pool.
        prompt_ids: Prompts to predict. None: the whole pool, in the order of its rows. A prompt without a visit is
            drawn from the prior, given the sampled hyperparameters.
        step: Step to predict, at least 0; visits at this step and later are ignored. None: the step after the history.
        embeddings: One row per prompt of the pool, which this function standardises. None: the model treats all prompts
            alike before their visits.
        fixed: Known values of hyperparameters, by name: "mean", "spread", "drift" or "volatility".
        num_warmup: Warm-up transitions per chain, in which the sampler adapts.
        num_samples: Draws per chain after the warm-up.
        num_chains: Number of chains, which run one after the other from random starts.

    Raises:
        ValueError: An argument is out of its range, or the history belongs to another pool.
    """
    _validate.positive_integer(num_prompts=num_prompts)
    _validate.positive_integer(num_warmup=num_warmup, num_samples=num_samples, num_chains=num_chains)
    history = make_history(*history, num_prompts=num_prompts)
    step = history.num_steps if step is None else step
    _validate.integer_in(0, 2**31, step=step)
    given = range(num_prompts) if prompt_ids is None else prompt_ids
    ids = _validate.integers("prompt_ids", given, low=0, high=num_prompts)  # pyright: ignore[reportArgumentType]
    features, known = _standardised(embeddings, num_prompts), _checked(fixed)
    past = history.before(step)
    visited, visits, last_step = tabulated(past)

    nuts_key, ahead_key = jax.random.split(key)
    chain_keys = jax.random.split(nuts_key, num_chains)
    by_chain, diverging = _run_chains(chain_keys, visits, features[visited], known, num_warmup, num_samples)
    draws = {name: value.reshape(num_chains * num_samples, *value.shape[2:]) for name, value in by_chain.items()}
    # the tables hold the visits by prompt, and the history by step
    by_step = np.argsort(np.lexsort((past.step, past.prompt_ids)))
    of_visits = VisitPosterior(past, *(jnp.take(draws.pop(name), by_step, 1) for name in ("location", "scale")))
    mixing = {name: value for name, value in by_chain.items() if name not in ("location", "scale")}
    diagnostics = Diagnostics(int(diverging.sum()), *_mixing(mixing))
    last_logit = draws.pop("last_logit")
    draws |= {name: jnp.full(len(last_logit), value) for name, value in known.items()}
    row = np.full(num_prompts, -1)
    row[visited] = np.arange(len(visited))
    gap = (step - np.append(last_step, 0)[row[ids]]).astype(np.float32)
    rates = _success_rates(ahead_key, draws, last_logit, features[ids], ids, row[ids], gap)
    return ReferencePosterior(rates, draws, diagnostics, ids, step, diverging, of_visits)


@functools.partial(jax.jit, static_argnames=("num_warmup", "num_samples"))
def _run_chains(
    keys: Key[Array, " chains"],
    visits: VisitTable,
    features: Float[Array | np.ndarray, "v d"],
    known: dict[str, Float[Array, ""]],
    num_warmup: int,
    num_samples: int,
) -> tuple[dict[str, Float[Array, "chains draws ..."]], Bool[Array, "chains draws"]]:
    """Return the draws of the variables in `_REPORTED`, and whether each transition diverged.

    All histories of one shape share a compilation.
    """

    def chain(key: Key[Array, ""]):
        # at most 2^6 leapfrog steps in the warm-up: far from the posterior, deeper trees would take most of the time
        model = condition(state_space_model, known)  # pyright: ignore[reportArgumentType]
        kernel = NUTS(model, max_tree_depth=(6, 10))  # pyright: ignore[reportArgumentType]
        sampler = MCMC(kernel, num_warmup=num_warmup, num_samples=num_samples, progress_bar=False)
        sampler.run(key, visits, features)
        draws = {name: values for name, values in sampler.get_samples().items() if name in _REPORTED}
        return draws, sampler.get_extra_fields()["diverging"]

    return jax.lax.map(chain, keys)


@jax.jit
def _success_rates(
    key: Key[Array, ""],
    draws: dict[str, Float[Array, "draws ..."]],
    last_logit: Float[Array, "draws v"],
    features: Float[Array | np.ndarray, "m d"],
    ids: Int[Array | np.ndarray, " m"],
    row: Int[Array | np.ndarray, " m"],
    gap: Float[Array | np.ndarray, " m"],
) -> Float[Array, "draws m"]:
    """Return draws of each prompt's success rate at the step, one per draw of the posterior.

    Args:
        key: A key, which this function consumes.
        draws: Draws of the hyperparameters.
        last_logit: Draws of x at the last visit of each visited prompt.
        features: Standardised embeddings of the prompts.
        ids: Ids of the prompts.
        row: Row of each prompt among the visited prompts; -1: it has no visit.
        gap: Steps since each prompt's last visit, or since step 0.
    """
    mean, spread, drift, volatility = (draws[name][:, None] for name in SCALARS)
    start = jnp.broadcast_to(mean, (len(mean), len(ids)))
    if "weights" in draws:
        start = start + draws["weights"] @ features.T
    seen = row[None] >= 0
    start = jnp.where(seen, jnp.pad(last_logit, ((0, 0), (0, 1)))[:, row], start)
    spread = jnp.where(seen, 0, spread)
    location, scale = start + gap[None] * drift, jnp.sqrt(spread**2 + gap[None] * volatility**2)
    # one key per id, so that a prompt's draws do not depend on the other prompts
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(ids)
    eps = jax.vmap(lambda key: jax.random.normal(key, (len(location),)), out_axes=1)(keys)
    return jax.nn.sigmoid(location + scale * eps)


def _mixing(by_chain: dict[str, Float[Array, "chains draws ..."]]) -> tuple[float, float]:
    """Return the largest split R-hat and the smallest effective sample size of all quantities that vary."""
    columns = [np.asarray(value).reshape(*value.shape[:2], -1) for value in by_chain.values()]
    values = np.concatenate(columns, axis=2).astype(np.float64)
    values = values[:, :, np.ptp(values, axis=(0, 1)) > 0]
    if values.shape[1] < 4 or not values.shape[2]:
        return float("nan"), float("nan")
    return float(np.max(split_gelman_rubin(values))), float(np.min(effective_sample_size(values)))


def _standardised(embeddings: ArrayLike | None, num_prompts: int) -> Float[np.ndarray, "N d"]:
    """Return embeddings whose columns have mean 0 and variance 1. A constant column becomes 0."""
    if embeddings is None:
        return np.zeros((num_prompts, 0), np.float32)
    array = np.asarray(_embeddings.checked(embeddings), np.float64)
    if len(array) != num_prompts:
        raise ValueError(f"embeddings has {len(array)} rows for {num_prompts} prompts; give one row per prompt")
    deviation = array.std(0)
    return ((array - array.mean(0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def _checked(fixed: Mapping[str, float] | None) -> dict[str, Float[Array, ""]]:
    known = {} if fixed is None else fixed
    for name, value in known.items():
        _validate.one_of(SCALARS, fixed=name)
        (_validate.positive if name in ("spread", "volatility") else _validate.finite)(**{name: value})
    return {name: jnp.float32(value) for name, value in known.items()}
