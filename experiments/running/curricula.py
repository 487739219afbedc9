"""Curricula: the methods that choose prompts, made from their settings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import jaxsel
from experiments.running.config import MethodConfig, RunConfig
from experiments.running.embeddings import pool_embeddings
from rl.curriculum import Curriculum, DynamicSampling, HistoryResampling, Selected
from rl.policy import Policy
from rl.prompts import PromptPool
from rl.ranks import Ranks
from rl.shared_by_ranks import SharedSelector

Embeddings = Callable[[], np.ndarray]
"""A function that computes the embeddings of the pool; methods without embeddings do not call it."""


def _mopps(method: MethodConfig, group_size: int, embeddings: Embeddings) -> jaxsel.Selector:
    del embeddings
    return jaxsel.mopps(decay=method.decay, target=method.target, group_size=group_size)


def _mopps_mean(method: MethodConfig, group_size: int, embeddings: Embeddings) -> jaxsel.Selector:
    del embeddings
    acquisition = jaxsel.target_success_rate(method.target)
    return jaxsel.mopps(decay=method.decay, group_size=group_size, acquisition=acquisition)


def _mopps_mixed(method: MethodConfig, group_size: int, embeddings: Embeddings) -> jaxsel.Selector:
    del embeddings
    sampled = {"acquisition": jaxsel.mixed_probability(log=True), "rule": jaxsel.gumbel_top_k()}
    return jaxsel.mopps(decay=method.decay, group_size=group_size, **sampled)


def _threshold(method: MethodConfig, group_size: int, embeddings: Embeddings) -> jaxsel.Selector:
    del embeddings
    return jaxsel.threshold(lower=method.lower, upper=method.upper, decay=method.decay, group_size=group_size)


def _dps(method: MethodConfig, group_size: int, embeddings: Embeddings) -> jaxsel.Selector:
    del group_size, embeddings
    return jaxsel.dps(decay=method.dps_decay, prior_counts=method.prior_counts, entropy_weight=method.entropy_weight)


def _gps(method: MethodConfig, group_size: int, embeddings: Embeddings) -> jaxsel.Selector:
    return jaxsel.gps(
        embeddings(),
        target=method.target,
        diversity_weight=method.diversity_weight,
        decay=method.decay,
        group_size=group_size,
        latent_size=method.latent_size,
        context_size=method.batch_size,
    )


def _adaptive(method: MethodConfig, group_size: int, embeddings: Embeddings) -> jaxsel.Selector:
    return jaxsel.adaptive(embeddings(), group_size=group_size, temperature=method.temperature)


PREDICTIVE = {
    "mopps": _mopps,
    "mopps_mean": _mopps_mean,
    "mopps_mixed": _mopps_mixed,
    "threshold": _threshold,
    "dps": _dps,
    "gps": _gps,
    "adaptive": _adaptive,
}
"""Methods that predict success rates: by name, a function that makes their selector."""
METHOD_NAMES = ("uniform", "history_resampling", "dynamic_sampling", *PREDICTIVE)


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
        ValueError: The method is unknown, one of its parameters is out of range, or it needs a policy.
    """
    method, ranks = config.method, ranks or Ranks()
    if method.name not in METHOD_NAMES:
        raise ValueError(f"method.name is {method.name!r}; give one of {', '.join(METHOD_NAMES)}")

    def make() -> jaxsel.PromptSelector:
        return _selector(config, pool, partial(pool_embeddings, method.embeddings, pool, policy, run_dir))

    selector = make() if ranks.count == 1 else SharedSelector(make, ranks)
    if method.filter or method.name == "dynamic_sampling":
        options = {"max_batches": method.max_batches, "margin": method.margin, "keep_surplus": method.keep_surplus}
        return DynamicSampling(selector, method.batch_size, **options)
    if method.name == "history_resampling":
        return HistoryResampling(selector, method.batch_size, seed=config.seed)
    return Selected(selector, method.batch_size)


def _selector(config: RunConfig, pool: PromptPool, embeddings: Embeddings) -> jaxsel.PromptSelector:
    method, group_size = config.method, config.train.group_size
    if method.name in PREDICTIVE:
        selector, ratio = PREDICTIVE[method.name](method, group_size, embeddings), method.candidate_ratio or None
    else:  # the baselines go through the pool in shuffled epochs; their selector only predicts, for comparison
        selector, ratio = jaxsel.uniform(decay=method.decay, group_size=group_size), 1
    return jaxsel.PromptSelector(selector, keys=list(pool.keys), seed=config.seed, candidate_ratio=ratio)
