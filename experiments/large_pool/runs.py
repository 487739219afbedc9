"""One simulated run, and its numbers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import jaxsel
from jaxsel import simulate

ORACLE = "oracle"
SELECTORS: dict[str, Callable[[], jaxsel.Selector]] = {
    "uniform": jaxsel.uniform,
    "mopps": jaxsel.mopps,
    "mopps_mean": lambda: jaxsel.mopps(acquisition=jaxsel.target_success_rate()),
    "mopps_top_mixed": lambda: jaxsel.mopps(acquisition=jaxsel.mixed_probability()),
    "threshold": jaxsel.threshold,
    "dps": jaxsel.dps,
    "arcus": jaxsel.arcus,
}
"""Selectors that need nothing but settings. The other methods need the pool's embeddings; the oracle needs its learner.

mopps_top_mixed takes the prompts with the highest P(mixed), the probability that some but not all rollouts are correct.
(mopps_mixed in `experiments.train` samples in proportion to P(mixed).) state_space takes the prompts with the largest
E[p (1 - p)], where p is the success rate. adaptive samples in proportion to E[p (1 - p)] to the power of
1 / temperature, and adaptive_focused and adaptive_sharp do so at the temperatures `FOCUSED` and `SHARP`.
"""
FOCUSED, SHARP = 1 / 3, 1 / 30
"""Temperatures at which `adaptive` is greedier than by default, and nearly greedy."""
SCREENED = 0.05
"""Share of the pool that `gps_screened` decodes with all draws of the latent."""
EMBEDDED: dict[str, Callable[["Config", np.ndarray], jaxsel.Selector]] = {
    "gps": lambda config, pool: jaxsel.gps(pool, context_size=config.batch_size),
    "gps_screened": lambda config, pool: jaxsel.gps(pool, context_size=config.batch_size, screened=SCREENED),
    "state_space": lambda config, pool: jaxsel.make_selector(
        jaxsel.state_space(pool, group_size=config.group_size),
        jaxsel.expected_variance(),
        jaxsel.top_k(),
        method="state_space",
    ),
    "adaptive": lambda config, pool: jaxsel.adaptive(pool, group_size=config.group_size),
    "adaptive_focused": lambda config, pool: jaxsel.adaptive(pool, group_size=config.group_size, temperature=FOCUSED),
    "adaptive_sharp": lambda config, pool: jaxsel.adaptive(pool, group_size=config.group_size, temperature=SHARP),
}
"""Selectors that need the embeddings of the pool."""
NAMES = (*SELECTORS, *EMBEDDED)
AMONG = {"pool": "the whole pool", "subset": "a random subset"}
LEARNERS: dict[str, dict[str, Any]] = {"default": {}, "training_like": simulate.TRAINING_LIKE}
"""Arguments of the simulated learner. The default forgets nothing. With `TRAINING_LIKE`, training on some skills lowers
all skills a little.
"""
BLOCK = 10
"""Steps per point of a curve."""
PARTS = 4
"""Parts of a run that have a calibration error each, so that errors of opposite sign do not cancel over the run."""
_STREAM = 0x6C617267  # separates these draws from other draws with the same seed


@dataclass(frozen=True)
class Config:
    """The settings of a run, except pool size, method and seed.

    Attributes:
        steps: Number of training steps.
        batch_size: Prompts per step.
        group_size: Rollouts per prompt.
        subset: Size of the random subset to choose among, in batches.
        num_features: Number of features in the embeddings.
        learner: Name of the simulated learner, one of `LEARNERS`.
        num_probes: Number of random prompts for accuracy, rank correlation and calibration.
    """

    steps: int = 200
    batch_size: int = 256
    group_size: int = 8
    subset: int = 10
    num_features: int = 32
    learner: str = "default"
    num_probes: int = 16_384


def run(config: Config, name: str, num_prompts: int, seed: int, among: str) -> dict[str, Any]:
    """Return the numbers of one run; its seconds include making the pool and the metrics, but not compilation."""

    def learner_of(seed: jax.Array | np.uint32) -> tuple[simulate.Learner, jax.Array]:
        learner_key, run_key = jax.random.split(jax.random.key(seed))
        return simulate.make_learner(learner_key, num_prompts, **LEARNERS[config.learner]), run_key

    selector = None if name == ORACLE else _selector(config, name, num_prompts, seed, jax.jit(learner_of))

    def simulated(seed: jax.Array | np.uint32, belief: Any) -> simulate.Trace:
        learner, key = learner_of(seed)
        return simulate.simulate(
            key,
            simulate.oracle(learner, group_size=config.group_size) if selector is None else selector,
            learner,
            num_steps=config.steps,
            batch_size=config.batch_size,
            group_size=config.group_size,
            num_probes=config.num_probes,
            candidate_ratio=config.subset if among == "subset" else None,
            belief=belief,
        )

    # not inside `simulated`, where the embeddings would become constants of the compiled function
    belief = None if selector is None else jax.jit(selector.init, static_argnums=1)(_own_key(seed, 1), num_prompts)
    compiled = jax.jit(simulated).lower(np.uint32(seed), belief).compile()
    start = time.perf_counter()
    trace = jax.block_until_ready(compiled(np.uint32(seed), belief))
    seconds = time.perf_counter() - start
    ids = np.asarray(trace.prompt_ids)
    shares = np.asarray(trace.mixed_share)
    return {
        "mixed_shares": [float(block.mean()) for block in np.split(shares, range(BLOCK, len(shares), BLOCK))],
        "mixed_share": float(shares.mean()),
        "mixed_share_late": float(shares[len(shares) // 2 :].mean()),
        "coverage": len(np.unique(ids)) / num_prompts,
        "visited_before": 1 - len(np.unique(ids)) / ids.size,
        "mean_success_rate": float(trace.mean_success_rate[-1]),
        "calibration_error": _calibration_error(trace.probe_predicted_mixed, trace.probe_successes, config),
        "calibration_error_of_batches": _calibration_error(trace.predicted_mixed, trace.successes, config),
        "spearman": float(trace.spearman[-1]),
        "mean_absolute_error": float(trace.mean_absolute_error[-1]),
        "seconds_a_step": seconds / config.steps,
    }


def _calibration_error(predicted: jax.Array, successes: jax.Array, config: Config) -> float:
    """Return the calibration error of P(mixed): its mean over `PARTS` parts of the run."""
    mixed = (successes > 0) & (successes < config.group_size)
    parts = zip(np.array_split(predicted, PARTS), np.array_split(mixed, PARTS), strict=True)
    errors = [jaxsel.metrics.expected_calibration_error(p.ravel(), y.ravel()) for p, y in parts]
    return float(np.mean(errors))


def _selector(
    config: Config, name: str, num_prompts: int, seed: int, learner_of: Callable[[int], tuple[simulate.Learner, Any]]
) -> jaxsel.Selector:
    if name in EMBEDDED:
        embed = jax.jit(simulate.embed, static_argnames="num_features")
        features = embed(_own_key(seed, 0), learner_of(seed)[0], num_features=config.num_features)
        selector = EMBEDDED[name](config, np.asarray(features, np.float16))
    else:
        selector = SELECTORS[name]()
    return selector if len(jax.devices()) == 1 else jaxsel.shard(selector, jaxsel.prompts_mesh(), num_prompts)


def _own_key(seed: int, use: int) -> jax.Array:
    """Return a key for draws that belong neither to the pool nor to the run."""
    return jax.random.split(jax.random.fold_in(jax.random.key(_STREAM), seed))[use]
