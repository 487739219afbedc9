"""Is the gold standard gold, and how far are the cheap posteriors from it?

    python -m experiments.gold_standard [--seeds 0 1 2 3 4] [--learner-seeds 0 1]

Claim: on data of the model itself the central 90% intervals of `jaxsel.reference_models` hold the true success rates of
90% +- 3% of the prompts, and those of mopps, dps and gps do not.

300 prompts, 60 of which are never drawn; 16 steps of random batches of 60 x 8 rollouts; then the success rates at step
16 are predicted. Two kinds of data, the second of which is not the model's:

* the state-space model itself, at the hyperparameters of `Config`, with embeddings of 8 features, a random direction of
  which moves the starting logits;
* the learner of `jaxsel.simulate` with embeddings from `simulate.embed`: prompts share skills, and rise
  as they are trained on.

mopps and dps see no embeddings, and are compared with the gold standard without; gps with the one that has them.
Fresh groups of 8 judge the log score. Intervals of the gold standard are quantiles of its draws; those of the others
are of the Beta with their mean and variance, which for dps, a belief about three solve states, is a stand-in.
"""

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxsel
from experiments.reporting import drawing
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import over_seeds, shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import quiet_pipe
from jaxsel import metrics, plotting, reference_models, simulate
from rl.progress import bar

LEVELS = (0.5, 0.8, 0.9, 0.95)
GOLD, GOLD_EMBEDDED = "gold standard", "gold standard with embeddings"
STYLES = {
    GOLD: ("black", "o"),
    GOLD_EMBEDDED: ("green", "s"),
    "mopps, decay 0.5": ("vermilion", "^"),
    "mopps, decay 1": ("orange", "v"),
    "dps": ("purple", "D"),
    "gps": ("blue", "X"),
}
PARTS = ("all", "visited", "never visited")
SOURCES = {"state space": "data of the model itself", "learner": "data of a learner that shares skills"}

_TITLE = (
    "On data of its own model the sampled posterior covers what it says; mopps and gps fall short (visited prompts)"
)


@dataclass(frozen=True)
class Config:
    """What the result depends on, besides the seeds.

    Attributes:
        num_prompts: of the pool.
        never_visited: of them.
        steps: of the history.
        batch_size: prompts a step.
        group_size: rollouts a prompt.
        mean: of the logits at step 0.
        spread: likewise, what embeddings do not tell of it.
        told: the standard deviation that they tell.
        drift: of every logit, a step.
        volatility: likewise.
        num_warmup: transitions of each chain.
        num_samples: draws of each chain.
        num_chains: of the gold standard.
    """

    num_prompts: int = 300
    never_visited: int = 60
    steps: int = 16
    batch_size: int = 60
    group_size: int = 8
    mean: float = -0.5
    spread: float = 1.2
    told: float = 0.9
    drift: float = 0.03
    volatility: float = 0.3
    num_warmup: int = 300
    num_samples: int = 750
    num_chains: int = 2


class Case(NamedTuple):
    """A history, the embeddings of the pool, and the true success rates after the history."""

    history: jaxsel.History
    embeddings: np.ndarray
    truth: np.ndarray


def drawn_ids(config: Config, rng: np.random.Generator) -> np.ndarray:
    """Random batches of all prompts but the last ones."""
    visited = config.num_prompts - config.never_visited
    return np.stack([rng.choice(visited, config.batch_size, replace=False) for _ in range(config.steps)])


def recorded(config: Config, ids: np.ndarray, successes: np.ndarray) -> jaxsel.History:
    step = np.repeat(np.arange(config.steps), config.batch_size)
    return jaxsel.make_history(step, ids.ravel(), successes.ravel(), config.group_size, num_prompts=config.num_prompts)


def state_space(config: Config, seed: int) -> Case:
    """Random walks of the model."""
    rng = np.random.default_rng([seed, 0])
    embeddings = rng.normal(size=(config.num_prompts, 8))
    direction = rng.normal(size=8)
    told = config.told * embeddings @ (direction / np.linalg.norm(direction))
    start = config.mean + told + config.spread * rng.normal(size=config.num_prompts)
    moves = config.drift + config.volatility * rng.normal(size=(config.steps, config.num_prompts))
    rates = 1 / (1 + np.exp(-np.cumsum([start, *moves], axis=0)))
    ids = drawn_ids(config, rng)
    successes = rng.binomial(config.group_size, np.take_along_axis(rates[:-1], ids, axis=1))
    return Case(recorded(config, ids, successes), embeddings.astype(np.float32), rates[-1].astype(np.float32))


def learner(config: Config, seed: int) -> Case:
    """A pool of 16 skills that is trained on what is drawn."""
    pool_key, embedding_key, steps_key = jax.random.split(jax.random.key(seed), 3)
    pool = simulate.make_learner(
        pool_key, config.num_prompts, num_skills=16, difficulty_mean=0.5, difficulty_spread=1.5
    )
    state, ids, successes = simulate.initial_state(pool), drawn_ids(config, np.random.default_rng([seed, 1])), []
    rollout, train = jax.jit(simulate.rollout, static_argnums=4), jax.jit(simulate.train)
    for t, batch in enumerate(ids):
        key = jax.random.fold_in(steps_key, t)
        rollouts = rollout(key, pool, state, jnp.asarray(batch, jnp.int32), config.group_size)
        successes.append(np.asarray(rollouts.successes))
        state = train(pool, state, rollouts)
    embeddings = np.asarray(simulate.embed(embedding_key, pool, num_features=8))
    return Case(recorded(config, ids, np.stack(successes)), embeddings, np.asarray(simulate.success_rate(pool, state)))


def cheap(config: Config, case: Case) -> dict[str, jaxsel.Prediction]:
    """What the online methods say after the history."""
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
    """`{method: {part of the pool: numbers}}` and the diagnostics of the gold standards."""
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
    """Numbers on all prompts, on those that were drawn from, and on those that never were."""
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
    """Mean and standard error over seeds of every number of the methods."""
    return over_seeds([{name: results[name] for name in STYLES} for results in by_seed])


def table(summary: dict[str, Any], title: str, part: str) -> Table:
    columns = list(summary[GOLD][part])
    rows = ([name, *(shown(parts[part][column]) for column in columns)] for name, parts in summary.items())
    return terminal_table(f"{title}, {part}: mean over seeds (standard error)", ("method", *columns), rows)


def draw(summaries: dict[str, Any], path: Path) -> Path:
    """How much more or less is covered than the level says, on visited prompts."""
    size = {"figsize": (11, 5.2), "layout": "constrained"}
    figure, axes = drawing.plt.subplots(1, len(summaries), sharey=True, squeeze=False, **size)
    for ax, (source, summary) in zip(axes[0], summaries.items(), strict=True):
        ax.axhspan(-3, 3, color="#DDDDDD", zorder=0, label="within 3 points")
        for number, (name, (colour, marker)) in enumerate(STYLES.items()):
            cells = [summary[name]["visited"][f"coverage {level}"] for level in LEVELS]
            mean, error = (np.array([c[key] for c in cells], float) for key in ("mean", "standard_error"))
            # side by side, so that the bars of their standard errors can be told apart
            at, excess = np.arange(len(LEVELS)) + 0.12 * (number - 2.5), 100 * (mean - LEVELS)
            ax.errorbar(
                at,
                excess,
                100 * error,
                color=plotting.COLOURS[colour],
                linestyle="",
                marker=marker,
                label=name,
                capsize=2,
            )
        ax.set(title=SOURCES[source], xlabel="level of the central interval")
        ax.set_xticks(range(len(LEVELS)), [f"{level:.0%}" for level in LEVELS])
        drawing.tidy(ax)
    axes[0, 0].set(ylabel="coverage of the true success rate less the level\n(percentage points, standard error)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(_TITLE)
    return drawing.save(figure, path)


def run(config: Config, seeds: list[int], learner_seeds: list[int], out: Path) -> dict[str, Any]:
    """Both kinds of data; writes the result and the figure."""
    console = Console(width=200)
    by_source = {}
    for source, make, chosen in (("state space", state_space, seeds), ("learner", learner, learner_seeds)):
        if not chosen:
            continue
        by_source[source] = [run_seed(config, make(config, seed), seed) for seed in bar(chosen, desc=source)]
    summaries = {source: summarise(by_seed) for source, by_seed in by_source.items()}
    for source, summary in summaries.items():
        for part in PARTS:
            console.print(table(summary, SOURCES[source], part))
    result = provenance(asdict(config), seeds) | {"learner_seeds": learner_seeds}
    write_result(out / "gold_standard.json", result | {"summary": summaries, "seeds": by_source})
    console.print(f"figure: {draw(summaries, out / 'gold_standard.png')}")
    return summaries


def main(arguments: list[str]) -> None:
    """Runs all seeds, prints the tables and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--learner-seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="30 prompts, a few draws: for a try")
    options = parser.parse_args(arguments)
    small = Config(num_prompts=30, never_visited=6, steps=4, batch_size=10, num_warmup=60, num_samples=60)
    run(small if options.small else Config(), options.seeds, options.learner_seeds, options.out)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
