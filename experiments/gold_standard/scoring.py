"""How often every method's posterior intervals contain the true success rates, and other scores."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from experiments.gold_standard.cases import Case, Config
from experiments.reporting.spread import over_seeds
from jaxsel import metrics, reference_models

LEVELS = (0.5, 0.8, 0.9, 0.95)
GOLD, GOLD_EMBEDDED = "gold standard", "gold standard with embeddings"
METHOD_NAMES = (GOLD, GOLD_EMBEDDED, "mopps, decay 0.5", "mopps, decay 1", "dps", "gps")
PARTS = ("all", "visited", "never visited")


def cheap(config: Config, case: Case) -> dict[str, jaxsel.Prediction]:
    """Return the predictions of the online methods, which need no sampling, at the end of the history."""
    methods = {
        "mopps, decay 0.5": jaxsel.mopps(decay=0.5, group_size=config.group_size),
        "mopps, decay 1": jaxsel.mopps(decay=1.0, group_size=config.group_size),
        "dps": jaxsel.dps(),
        "gps": jaxsel.gps(case.embeddings),
    }
    end, num_prompts = case.history.num_steps, config.num_prompts
    return {
        name: jaxsel.replay(case.history, method, num_prompts=num_prompts, probe_steps=(end,)).probes[end]
        for name, method in methods.items()
    }


def run_seed(config: Config, case: Case, seed: int) -> dict[str, Any]:
    """Return `{method: {part of the pool: scores}}` and the diagnostics of the gold standards, which sample by MCMC."""
    results: dict[str, Any] = {"diagnostics": {}}
    fresh = np.random.default_rng([seed, 2]).binomial(config.group_size, case.truth).astype(np.int32)
    golds = {}
    for name, embeddings in {GOLD: None, GOLD_EMBEDDED: case.embeddings}.items():
        started = time.perf_counter()
        posterior = reference_models.sample(
            jax.random.key(seed),
            case.history,
            num_prompts=config.num_prompts,
            embeddings=embeddings,
            num_warmup=config.num_warmup,
            num_samples=config.num_samples,
            num_chains=config.num_chains,
        )
        golds[name] = posterior.prediction(config.group_size)
        results["diagnostics"][name] = posterior.diagnostics._asdict() | {"seconds": time.perf_counter() - started}
        low, high = posterior.intervals(LEVELS)
        held = np.asarray((low <= case.truth[None]) & (case.truth[None] <= high))
        results[name] = by_part(config, golds[name], golds[name], case.truth, fresh, held, posterior.pit(case.truth))
    for name, prediction in cheap(config, case).items():
        prediction = jax.tree.map(jnp.asarray, prediction)
        gold = golds[GOLD_EMBEDDED if name == "gps" else GOLD]
        pit = metrics.rate_pit(prediction, case.truth)
        held = np.stack([np.abs(np.asarray(pit) - 0.5) <= level / 2 for level in LEVELS])
        results[name] = by_part(config, prediction, gold, case.truth, fresh, held, pit)
    return results


def by_part(
    config: Config,
    prediction: jaxsel.Prediction,
    gold: jaxsel.Prediction,
    truth: np.ndarray,
    fresh: np.ndarray,
    held: np.ndarray,
    pit: Any,
) -> dict[str, dict[str, float]]:
    """Return the scores on all prompts, on visited prompts and on prompts that were never visited.

    Args:
        config: Settings of the experiment.
        prediction: Prediction of the method, for the whole pool.
        gold: Prediction of the gold standard.
        truth: True success rates.
        fresh: Successes in fresh groups of every prompt.
        held: Whether the central interval of each level contains the truth, one row per level.
        pit: Probability integral transform of the truth.
    """
    drawn = np.arange(config.num_prompts) < config.num_prompts - config.never_visited
    groups = np.full(config.num_prompts, config.group_size, np.int32)
    found = {}
    for part, counts in zip(PARTS, (np.ones_like(drawn), drawn, ~drawn), strict=True):
        weights = jnp.asarray(counts, jnp.float32)
        deviation, of_gold = (np.sqrt(np.asarray(p.variance))[counts].mean() for p in (prediction, gold))
        numbers = {f"coverage {level}": held[row][counts].mean() for row, level in enumerate(LEVELS)}
        numbers |= {
            "pit distance": metrics.uniformity(pit, weights=weights).distance,
            "difference of means": metrics.mean_absolute_error(
                prediction.success_rate, gold.success_rate, weights=weights
            ),
            "ratio of deviations": deviation / of_gold,
            "absolute error": metrics.mean_absolute_error(prediction.success_rate, truth, weights=weights),
            "log score": metrics.beta_binomial_log_score(prediction, fresh, groups, weights=weights),
        }
        found[part] = {name: float(number) for name, number in numbers.items()}
    return found


def summarise(by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean and the standard error of every score of every method, over seeds."""
    return over_seeds([{name: results[name] for name in METHOD_NAMES} for results in by_seed])
