"""Posteriors and predictions in the form of ArviZ, for its plots, its diagnostics and its model comparison.

This module needs `pip install "jaxsel[arviz]"`, which installs ArviZ's packages `arviz_base`, `arviz_stats` and
`arviz_plots`. Their names are the same in ArviZ 0.8, the newest for Python 3.11, and in ArviZ 1.

* `from_posterior` is for the posterior of `jaxsel.reference_models.sample`. It serves ArviZ's `summary`, `loo`,
  `loo_pit` and `compare`, and the plots of chains, posteriors and predictive checks.
* `from_replay` is for the predictions of any method, from `jaxsel.replay`. It serves the plots of predictive checks,
  for example `plot_ppc_pit`.
* `one_step_ahead` is for the same predictions, and serves `compare`.

A replay is no posterior. Each of its predictions was made before its visit was observed. Nothing has to be left out,
and `loo` would remove an outcome that the prediction never knew. Therefore `from_replay` has no group `log_likelihood`,
and `one_step_ahead` returns the log scores in the form of a leave-future-out cross-validation. ArviZ refuses to compare
them with the result of `loo`, which knows the later visits. Convergence diagnostics say nothing about a replay, because
its draws are independent.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxsel import _validate
from jaxsel.evaluation.reference_models.posterior import ReferencePosterior
from jaxsel.evaluation.replay import History, Replay, earlier_visits
from jaxsel.integrations._extras import extra
from jaxsel.numerics import beta_binomial

with extra("arviz"):
    import arviz_base
    import arviz_stats.utils as arviz_stats
    import xarray

if TYPE_CHECKING:
    from arviz_stats.utils import ELPDData

_DIMS = {"success_rate": ["prompt"], "weights": ["feature"]}
_NEARLY = 1e-6  # spreads this close to 0 and 1 are drawn as 0 and 1, where the Beta distribution has no density


def from_posterior(
    posterior: ReferencePosterior, *, keys: Sequence[Hashable] | None = None, seed: int = 0
) -> xarray.DataTree:
    """Return a posterior of `jaxsel.reference_models.sample` for ArviZ.

    The groups have these variables. All but those of the last two groups begin with the dimensions chain and draw.
    Brackets name further dimensions.

    * `posterior`: `success_rate` (prompt) at the sampled step, `mean`, `spread`, `drift` and `volatility`; with
      embeddings also `weight_scale` and `weights` (feature).
    * `prior`: The same scalars.
    * `sample_stats`: `diverging`.
    * `log_likelihood` and `posterior_predictive`: `successes` (visit).
    * `observed_data`: `successes` (visit).
    * `constant_data`: `step`, `prompt_id`, `group_size` and, with `keys`, `key`, all (visit).

    Every visit has a logit of its own, which `log_likelihood` and `posterior_predictive` integrate out, given the
    prompt's other visits; see `jaxsel.reference_models.VisitPosterior`. So `loo` leaves out a visit together with its
    logit. The Pareto k that it reports shows for which visits importance sampling works. `loo` predicts a visit from
    earlier and later visits. It compares models of one history, for example with and without embeddings.

    Hyperparameters that were fixed are attributes of the group `posterior`, for example `fixed_volatility`.

    Args:
        posterior: Result of `jaxsel.reference_models.sample`.
        keys: Key of each prompt of the pool. They become the coordinates of the dimension prompt. None: prompt ids.
        seed: Seed of the draws of the groups `prior` and `posterior_predictive`.

    Raises:
        ValueError: `keys` does not cover the pool, or the seed is not an integer from 0 to 2^32 - 1.
    """
    from jaxsel.evaluation.reference_models.model import priors  # it imports NumPyro, which a replay does not need

    _validate.integer_in(0, 2**32, seed=seed)
    visits, num_chains = posterior.visits, len(posterior.diverging)

    def by_chain(draws: Any) -> np.ndarray:
        return np.asarray(draws).reshape(num_chains, -1, *draws.shape[1:])

    hyperparameters = {name: by_chain(draws) for name, draws in posterior.hyperparameters.items()}
    fixed = {name: draws for name, draws in hyperparameters.items() if draws.ndim == 2 and np.ptp(draws) == 0}
    varying = {name: draws for name, draws in hyperparameters.items() if name not in fixed}
    successes_key, *prior_keys = jax.random.split(jax.random.key(seed), 1 + len(priors()))
    size = posterior.diverging.shape
    prior = {
        name: np.asarray(distribution.sample(key, size))
        for key, (name, distribution) in zip(prior_keys, priors().items(), strict=True)
        if name in varying
    }
    groups = {
        "posterior": {"success_rate": by_chain(posterior.success_rate), **varying},
        "prior": prior,
        "sample_stats": {"diverging": np.asarray(posterior.diverging)},
        "log_likelihood": {"successes": by_chain(visits.log_likelihood())},
        "posterior_predictive": {"successes": by_chain(visits.successes(successes_key))},
        **_data(visits.history, keys),
    }
    if not prior:
        del groups["prior"]
    attributes = {"step": posterior.step} | {f"fixed_{name}": float(draws.flat[0]) for name, draws in fixed.items()}
    coords = {"prompt": _named(posterior.prompt_ids, keys)}
    return _tree(groups, coords, {"posterior": attributes})


def from_replay(
    history: History,
    replay: Replay,
    *,
    keys: Sequence[Hashable] | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> xarray.DataTree:
    """Return a method's predictions of each visit, made before the visit was observed, for ArviZ.

    The group `posterior_predictive` has draws of `successes`, in one chain, with the dimension visit. The groups
    `observed_data` and `constant_data` are those of `from_posterior`. The second also has `visits` and `waiting`, as in
    `jaxsel.replay.Replay`. With them you can select parts of the history, for example prompts without an earlier visit.

    A draw of s is Beta-Binomial, with the predicted mean and variance of the success rate, as in
    `jaxsel.metrics.beta_binomial_log_score`. This is exact for mopps, and an approximation for dps and gps.

    Args:
        history: The history that was replayed.
        replay: Result of `jaxsel.replay` for this history.
        keys: Key of each prompt of the pool, for the variable `key` of `constant_data`.
        num_draws: Number of draws per visit.
        seed: Seed of the draws.

    Raises:
        ValueError: The replay belongs to another history, `keys` does not cover the pool, or the seed is not an integer
            from 0 to 2^32 - 1.
    """
    _validate.positive_integer(num_draws=num_draws)
    _validate.integer_in(0, 2**32, seed=seed)
    mean, spread = _moments(history, replay)
    rng = np.random.default_rng(seed)
    inner = np.clip(spread, _NEARLY, 1 - _NEARLY)
    total = 1 / inner - 1
    alpha, beta = (np.maximum(share * total, np.finfo(np.float32).tiny) for share in (mean, 1 - mean))
    rates = rng.beta(alpha, beta, (num_draws, len(mean)))
    rates = np.where(spread < _NEARLY, mean, rates)
    rates = np.where(spread > 1 - _NEARLY, rng.random(rates.shape) < mean, rates)
    successes = rng.binomial(history.group_size, rates)[None].astype(np.int32)
    groups = {"posterior_predictive": {"successes": successes}, **_data(history, keys)}
    groups["constant_data"] |= {"visits": replay.visits, "waiting": replay.waiting}
    return _tree(groups, {}, {})


def one_step_ahead(history: History, replay: Replay) -> "ELPDData":
    """Return the log scores of a method's predictions one step ahead, as a leave-future-out cross-validation of ArviZ.

    `arviz_stats.compare` takes the results of several methods by name. The sum over visits is `elpd`, in nats; each
    visit's score is in `elpd_i`. Their mean equals `jaxsel.metrics.beta_binomial_log_score`. The standard errors of
    ArviZ take all visits as independent. `jaxsel.metrics.estimate` can take the visits of one prompt as one cluster.
    A score is minus infinity if an outcome of predicted probability 0 occurred.

    Args:
        history: The history that was replayed.
        replay: Result of `jaxsel.replay` for this history.

    Raises:
        ValueError: The replay belongs to another history.
    """
    mean, spread = _moments(history, replay)
    score = beta_binomial.log_prob(*map(jax.numpy.asarray, (history.successes, history.group_size, mean, spread)))
    scores = np.asarray(score, np.float64)
    fields: dict[str, Any] = {
        "elpd": float(scores.sum()),
        "se": float(np.sqrt(len(scores) * scores.var())),
        "p": float("nan"),
        "n_samples": 0,
        "n_data_points": len(scores),
        "scale": "log",
        "warning": False,
        "good_k": None,
        "elpd_i": xarray.DataArray(scores, dims="visit", coords={"visit": np.arange(len(scores))}, name="elpd_i"),
    }
    made = getattr(arviz_stats, "ELPDDataLFO", None)  # since ArviZ 1.3
    if made is None:
        return arviz_stats.ELPDData("lfo_cv", **fields)
    return made(**fields, forecast_horizon=1, min_observations=0, refits=np.arange(history.num_steps),
                n_refits=history.num_steps)  # fmt: skip


def _moments(history: History, replay: Replay) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """Return the mean of each visit's success rate, and its variance as a share of the largest possible variance."""
    prediction = replay.prediction
    rows, expected = len(prediction.success_rate), len(history.step)
    if rows != expected:
        raise ValueError(
            f"replay has predictions for {rows} visits, but history has {expected}; replay this history again"
        )
    for name, own in zip(("visits", "waiting"), earlier_visits(history, history.prompt_ids, history.step), strict=True):
        if not np.array_equal(getattr(replay, name), own):
            raise ValueError(f"replay has other {name} than history, so it is of another; replay this history again")
    mean = np.asarray(prediction.success_rate)
    spread = beta_binomial.spread_of(jax.numpy.asarray(mean), jax.numpy.asarray(prediction.variance))
    return mean, np.asarray(spread)


def _data(history: History, keys: Sequence[Hashable] | None) -> dict[str, dict[str, np.ndarray]]:
    """Return the groups `observed_data` and `constant_data`."""
    known = {"step": history.step, "prompt_id": history.prompt_ids, "group_size": history.group_size}
    if keys is not None:
        known["key"] = _named(history.prompt_ids, keys)
    return {"observed_data": {"successes": history.successes}, "constant_data": known}


def _named(prompt_ids: Int[np.ndarray, " m"], keys: Sequence[Hashable] | None) -> np.ndarray:
    if keys is None:
        return prompt_ids
    needed = int(prompt_ids.max(initial=-1)) + 1
    if len(keys) < needed:
        raise ValueError(f"keys has {len(keys)} entries, but there is a prompt {needed - 1}; give a key per prompt")
    entries = list(keys)
    chosen = [entries[prompt_id] for prompt_id in prompt_ids.tolist()]
    # else objects: NumPy would make all texts as long as the longest, a column of each part of a tuple, and 0 a text
    if chosen and all(isinstance(key, int | np.integer) and not isinstance(key, bool) for key in chosen):
        return np.array(chosen)
    named = np.empty(len(chosen), object)
    named[:] = chosen
    return named


def _tree(groups: dict[str, Any], coords: dict[str, Any], attributes: dict[str, Any]) -> xarray.DataTree:
    visit = {name: ["visit"] for name in ("successes", *groups["constant_data"])}
    return arviz_base.from_dict(groups, dims=_DIMS | visit, coords=coords, attrs=attributes)
