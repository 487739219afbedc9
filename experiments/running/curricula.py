"""Curricula: the methods that choose prompts, made from their settings."""

import jaxsel
from experiments.running.config import MethodConfig, RunConfig
from jaxsel.integrations.embeddings import embed
from rl.curriculum import Curriculum, DynamicSampling, HistoryResampling, Selected
from rl.prompts import PromptPool
from rl.ranks import Ranks
from rl.shared_by_ranks import SharedSelector


def _mopps(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del pool
    return jaxsel.mopps(decay=method.decay, target=method.target, group_size=group_size)


def _mopps_mean(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del pool
    acquisition = jaxsel.target_success_rate(method.target)
    return jaxsel.mopps(decay=method.decay, group_size=group_size, acquisition=acquisition)


def _mopps_mixed(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del pool
    sampled = {"acquisition": jaxsel.mixed_probability(log=True), "rule": jaxsel.gumbel_top_k()}
    return jaxsel.mopps(decay=method.decay, group_size=group_size, **sampled)


def _threshold(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del pool
    return jaxsel.threshold(lower=method.lower, upper=method.upper, decay=method.decay, group_size=group_size)


def _dps(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    del group_size, pool
    return jaxsel.dps(decay=method.dps_decay, prior_counts=method.prior_counts, entropy_weight=method.entropy_weight)


def _gps(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    return jaxsel.gps(
        embed(pool.texts, progress=False),
        target=method.target,
        diversity_weight=method.diversity_weight,
        decay=method.decay,
        group_size=group_size,
        latent_size=method.latent_size,
        context_size=method.batch_size,
    )


def _adaptive(method: MethodConfig, group_size: int, pool: PromptPool) -> jaxsel.Selector:
    embeddings = embed(pool.texts, progress=False)
    return jaxsel.adaptive(embeddings, group_size=group_size, temperature=method.temperature)


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


def make_curriculum(config: RunConfig, pool: PromptPool, ranks: Ranks | None = None) -> Curriculum:
    """Return the curriculum that `config.method` names; of several ranks, the first owns the selector.

    Raises:
        ValueError: The method is unknown, or one of its parameters is out of range.
    """
    method, ranks = config.method, ranks or Ranks()
    if method.name not in METHOD_NAMES:
        raise ValueError(f"method.name is {method.name!r}; give one of {', '.join(METHOD_NAMES)}")

    def make() -> jaxsel.PromptSelector:
        return _selector(config, pool)

    selector = make() if ranks.count == 1 else SharedSelector(make, ranks)
    if method.name == "dynamic_sampling":
        return DynamicSampling(
            selector, method.batch_size, max_batches=method.max_batches, keep_surplus=method.keep_surplus
        )
    if method.name == "history_resampling":
        return HistoryResampling(selector, method.batch_size, seed=config.seed)
    return Selected(selector, method.batch_size)


def _selector(config: RunConfig, pool: PromptPool) -> jaxsel.PromptSelector:
    method, group_size = config.method, config.train.group_size
    if method.name in PREDICTIVE:
        selector, ratio = PREDICTIVE[method.name](method, group_size, pool), method.candidate_ratio or None
    else:  # the baselines go through the pool in shuffled epochs; their selector only predicts, for comparison
        selector, ratio = jaxsel.uniform(decay=method.decay, group_size=group_size), 1
    return jaxsel.PromptSelector(selector, keys=list(pool.keys), seed=config.seed, candidate_ratio=ratio)
