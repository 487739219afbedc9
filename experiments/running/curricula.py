"""Curricula: the methods that choose prompts, made from their settings."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxsel
from experiments.running.config import RunConfig
from experiments.running.embeddings import difficulties, pool_embeddings
from experiments.running.method_config import MethodConfig
from rl.curriculum import Curriculum, DynamicSampling, HistoryResampling, Selected
from rl.policy import Policy
from rl.prompts import PromptPool
from rl.ranks import Ranks
from rl.shared_by_ranks import SharedSelector

Embeddings = Callable[[], np.ndarray]
"""A function that computes the embeddings of the pool; methods without embeddings do not call it."""


class Given(NamedTuple):
    """What a method is made from, besides its own settings.

    Attributes:
        group_size: Rollouts per prompt.
        embeddings: Function that computes the embeddings of the pool.
        priors: `prior_alpha` and `prior_beta` from the solve rates of the pool; empty: uniform priors.
    """

    group_size: int
    embeddings: Embeddings
    priors: Mapping[str, Any]


def _mopps(method: MethodConfig, given: Given, **replaced: Any) -> jaxsel.Selector:
    settings: dict[str, Any] = {"decay": method.decay, "target": method.target, "group_size": given.group_size}
    return jaxsel.mopps(**settings, **given.priors, **replaced)


def _mopps_mean(method: MethodConfig, given: Given, **replaced: Any) -> jaxsel.Selector:
    return _mopps(method, given, acquisition=jaxsel.target_success_rate(method.target), **replaced)


def _mopps_mixed(method: MethodConfig, given: Given, **replaced: Any) -> jaxsel.Selector:
    parts = {"acquisition": jaxsel.mixed_probability(log=True), "rule": jaxsel.gumbel_top_k()}
    return _mopps(method, given, **parts | replaced)


def _threshold(method: MethodConfig, given: Given, **replaced: Any) -> jaxsel.Selector:
    settings: dict[str, Any] = {"lower": method.lower, "upper": method.upper, "decay": method.decay}
    return jaxsel.threshold(**settings, group_size=given.group_size, **given.priors, **replaced)


def _dps(method: MethodConfig, given: Given, **replaced: Any) -> jaxsel.Selector:
    settings: dict[str, Any] = {"prior_counts": method.prior_counts, "entropy_weight": method.entropy_weight}
    return jaxsel.dps(decay=method.dps_decay, **settings, group_size=given.group_size, **given.priors, **replaced)


def _gps(method: MethodConfig, given: Given, **replaced: Any) -> jaxsel.Selector:
    return jaxsel.gps(
        given.embeddings(),
        target=method.target,
        diversity_weight=method.diversity_weight,
        decay=method.decay,
        group_size=given.group_size,
        latent_size=method.latent_size,
        context_size=method.batch_size,
        screened=method.screened or None,
        **given.priors,
        **replaced,
    )


def _adaptive(method: MethodConfig, given: Given, **replaced: Any) -> jaxsel.Selector:
    if method.acquisition == "expected_signal":
        replaced = {"acquisition": jaxsel.expected_signal(given.group_size, log=True)} | replaced
    return jaxsel.adaptive(
        given.embeddings(),
        group_size=given.group_size,
        screened=method.screened or None,
        **_temperature(method),
        **given.priors,
        **replaced,
    )


def _arcus(method: MethodConfig, given: Given, **replaced: Any) -> jaxsel.Selector:
    return jaxsel.arcus(target=method.target, group_size=given.group_size, **_temperature(method), **replaced)


def _temperature(method: MethodConfig) -> dict[str, Any]:
    return {} if method.temperature is None else {"temperature": method.temperature}


PREDICTIVE = {
    "mopps": _mopps,
    "mopps_mean": _mopps_mean,
    "mopps_mixed": _mopps_mixed,
    "threshold": _threshold,
    "dps": _dps,
    "gps": _gps,
    "adaptive": _adaptive,
    "arcus": _arcus,
}
"""Methods that predict success rates: by name, a function that makes their selector, perhaps with another `rule`."""


def make_curriculum(
    config: RunConfig,
    pool: PromptPool,
    ranks: Ranks | None = None,
    *,
    policy: Policy | None = None,
    run_dir: Path | None = None,
) -> Curriculum:
    """Return the curriculum that `config.method` names; of several ranks, the first owns the selector.

    Args:
        config: Settings of the run.
        pool: The training prompts.
        ranks: Processes that train together; None: this process alone.
        policy: The policy at the start of the run, for embeddings from its hidden states.
        run_dir: Folder of the run, which keeps such embeddings for a resumed run; None: they are not kept.

    Raises:
        ValueError: One of the parameters of the method is out of range, or it needs a policy.
    """
    method, ranks = config.method, ranks or Ranks()

    def make() -> jaxsel.PromptSelector:
        embeddings = partial(pool_embeddings, method.embeddings, pool, policy, run_dir, method.kernel_features)
        return _selector(config, pool, embeddings)

    selector = make() if ranks.count == 1 else SharedSelector(make, ranks)
    if method.keeps_mixed_groups:
        options = {"max_batches": method.max_batches, "margin": method.margin, "keep_surplus": method.keep_surplus}
        return DynamicSampling(selector, method.batch_size, **options)
    if method.name == "history_resampling":
        return HistoryResampling(selector, method.batch_size, seed=config.seed)
    return Selected(selector, method.batch_size)


def check_pool(method: MethodConfig, pool: PromptPool) -> None:
    """Refuse a pool that lacks what the method needs. This takes no policy, which may take minutes to load.

    Raises:
        ValueError: The pool is smaller than a batch, or has no strata or no solve rates, which the method needs.
    """
    if method.batch_size > len(pool) and method.name != "history_resampling":  # which then trains on the whole pool
        raise ValueError(
            f"method.batch_size is {method.batch_size}, and the pool has {len(pool)} prompts; give at most that "
            "or a larger pool_size"
        )
    _priors(method, pool)
    if method.stratified:
        _strata(pool)
    if method.embeddings == "difficulty" and method.name in ("gps", "adaptive"):
        difficulties(pool)


def _selector(config: RunConfig, pool: PromptPool, embeddings: Embeddings) -> jaxsel.PromptSelector:
    method, group_size = config.method, config.train.group_size
    given = Given(group_size, cache(embeddings), _priors(method, pool))
    if method.name in PREDICTIVE:
        make, ratio = PREDICTIVE[method.name], method.candidate_ratio or None
        selector = make(method, given)
        if method.stratified:
            selector = make(method, given, rule=_stratified(selector.rule, pool))
        if method.explore_share or method.explore_after:
            after = method.explore_after or None
            selector = jaxsel.exploring(selector, share=method.explore_share, after=after)
    else:  # the baselines go through the pool in shuffled epochs; their selector only predicts, for comparison
        selector, ratio = jaxsel.uniform(decay=method.decay, group_size=group_size, **given.priors), 1
    return jaxsel.PromptSelector(selector, keys=list(pool.keys), seed=config.seed, candidate_ratio=ratio)


def _stratified(rule: jaxsel.Rule | None, pool: PromptPool) -> jaxsel.Rule:
    """Return a rule with a quota per stratum of the pool, within which the given rule chooses.

    Raises:
        ValueError: The pool has no strata, or the rule cannot choose within them.
    """
    assert rule is not None  # every method of this module has one
    return jaxsel.stratified(rule, list(_strata(pool)))


def _strata(pool: PromptPool) -> Sequence[str]:
    if pool.strata is None:
        raise ValueError(
            "method.stratified is true, and the prompts have no strata; name their column by data.stratum, take the "
            "task word_problems or reasoning_gym:NAME, or give method.stratified=false"
        )
    return pool.strata


def _priors(method: MethodConfig, pool: PromptPool) -> dict[str, Any]:
    n = method.prior_rollouts
    if not n:
        return {}
    if pool.rates is None:
        raise ValueError(
            f"method.prior_rollouts is {n:g}, and the pool has no solve rates; name their column by data.rate, or give "
            "method.prior_rollouts=0"
        )
    alpha, beta = jaxsel.informative_prior([None if rate is None else rate * n for rate in pool.rates], n)
    return {"prior_alpha": alpha, "prior_beta": beta}
