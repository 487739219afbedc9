"""Which part of GPS does what?

    python -m experiments.gps_ablations PROBLEMS [--seeds 0 1 2]

GPS predicts the success rates of all prompts with one network, which reads their embeddings and recent batches. It
chooses batches with success rates near 1/2 and diverse embeddings.

Predictions: as in `experiments.real_prompts`, every variant sees the same random batches of a simulated learner, up to
step 30. Choices: every variant of the selector chooses its own batches for the same learner, for 50 steps. Three
numbers measure diversity. They are the mean pairwise cosine distance of embeddings in a batch, the mean distance of the
batch to the last four batches, and the share of the pool's 100 clusters (k-means on the directions of the embeddings)
that the batch contains.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxsel
from experiments.real_prompts import SEEN, UNSEEN, Config, run_seed, table
from experiments.reporting import drawing
from experiments.reporting.provenance import provenance, write_result
from experiments.reporting.spread import over_seeds, shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import quiet_pipe
from experiments.running.config import clear_errors
from experiments.simulated_math import (
    GROUP_SIZE,
    Problems,
    direction_and_length,
    load_problems,
    make_learner,
    make_parser,
    online,
    rollouts,
    split,
)
from jaxsel import simulate
from jaxsel.plotting import COLOURS
from rl.progress import bar

PREDICTORS: dict[str, dict[str, Any]] = {
    "gps": {},
    "without z": {"latent_size": 0},
    "without history conditioning": {"history_conditioned": False},
    "M = 1": {"num_draws": 1},
    "M = 50": {"num_draws": 50},
    "last step only, no replay": {"history": 2, "replayed": 0},
    "no evidence of a prompt's own": {"decay": None},
    "no own evidence, binomial": {"decay": None, "likelihood": "binomial"},
    "no own evidence, squared error": {"decay": None, "likelihood": "squared_error"},
}
HORIZONS = (3, 10, 30)
SELECTOR_COLOURS = ("blue", "sky blue", "green", "orange", "vermilion", "black")
STEPS, BATCH, CLUSTERS, ANCHOR = 50, 256, 100, 4


def selectors(embeddings: np.ndarray) -> dict[str, jaxsel.Selector]:
    """Return the selectors to compare; all but the last two use the predictor of gps."""
    return {
        "gps": jaxsel.gps(embeddings),
        "without the history anchor": jaxsel.gps(embeddings, anchor_batches=0),
        "without diversity": jaxsel.gps(embeddings, rule=jaxsel.top_k()),
        "ten times the diversity": jaxsel.gps(embeddings, diversity_weight=1.0),
        "mopps": jaxsel.mopps(decay=0.5),
        "uniform": jaxsel.uniform(),
    }


def choose(problems: Problems, selector: jaxsel.Selector, clusters: np.ndarray, seeds: list[int]) -> list[dict]:
    """Return means over the steps of runs that train on the chosen batches, one dictionary per seed."""
    select = jax.jit(lambda key, state, rows: selector.select(key, state, BATCH, rows).prompt_ids)
    update = jax.jit(selector.update, donate_argnums=1)
    return [_choose(problems, selector, select, update, clusters, seed) for seed in seeds]


def _choose(
    problems: Problems, selector: jaxsel.Selector, select: Any, update: Any, clusters: np.ndarray, seed: int
) -> dict[str, float]:
    rows = jnp.array(split(len(problems.levels), Config.held_out, seed)[0])
    learner, rng = make_learner(problems, seed), np.random.default_rng([seed, 3])
    train, success_rate = jax.jit(simulate.train), jax.jit(simulate.success_rate)
    belief, state = selector.init(jax.random.key(seed), len(problems.levels)), simulate.initial_state(learner)
    directions = direction_and_length(problems.embeddings)[:, :-1]
    records, means = [], []
    for t in range(STEPS):
        ids = np.asarray(select(jax.random.key(2 * t), belief, rows))
        successes = rng.binomial(GROUP_SIZE, np.asarray(success_rate(learner, state))[ids]).astype(np.int32)
        belief = update(jax.random.key(2 * t + 1), belief, rollouts(ids, successes))
        state = train(learner, state, rollouts(ids, successes))
        mean = directions[ids].mean(0)
        # for unit vectors, 1 - |mean|^2 is the mean distance of all pairs, including pairs of a vector with itself
        within = (1 - mean @ mean) * BATCH / (BATCH - 1)
        anchor = np.mean(means[-ANCHOR:], 0) if means else mean * np.nan
        records.append(
            {
                "mixed share": np.mean((successes > 0) & (successes < GROUP_SIZE)),
                "distance within": within,
                "distance to the last": 1 - mean @ anchor,
                "clusters": len(np.unique(clusters[ids])) / CLUSTERS,
            }
        )
        means.append(mean)
    result = {name: float(np.nanmean([r[name] for r in records])) for name in records[0]}
    return result | {"true rate of the pool at the end": float(np.asarray(success_rate(learner, state))[rows].mean())}


def _choices_table(summary: dict[str, Any]) -> Table:
    rows = ([name, *map(shown, numbers.values())] for name, numbers in summary.items())
    title = f"choices of {STEPS} steps: mean over seeds (standard error)"
    return terminal_table(title, ("selector", *next(iter(summary.values()))), rows)


def draw(predictions: dict[str, Any], choices: dict[str, Any], path: Path) -> Path:
    """Draw what each part of GPS is worth, for predictions and for choices."""
    figure, (left, right) = drawing.plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    names = list(predictions)[::-1]
    for offset, (part, colour, marker) in enumerate(((UNSEEN, "blue", "o"), (SEEN, "vermilion", "^"))):
        cells = [predictions[name][max(HORIZONS)][part]["mae"] for name in names]
        at = np.arange(len(names)) + 0.12 * (2 * offset - 1)
        mean, error = (np.array([c[key] for c in cells], float) for key in ("mean", "standard_error"))
        look = {"color": COLOURS[colour], "marker": marker, "linestyle": "none"}
        left.errorbar(mean, at, xerr=error, label=f"prompts {part}", **look)
    left.set_yticks(range(len(names)), names)
    left.set(xlabel=f"mean absolute error after {max(HORIZONS)} steps", title="predictions")
    for (name, numbers), marker, colour in zip(choices.items(), "osD^vx", SELECTOR_COLOURS, strict=True):
        x, y = numbers["distance within"], numbers["mixed share"]
        style = {"marker": marker, "color": COLOURS[colour], "linestyle": "none", "markersize": 8}
        right.errorbar(x["mean"], y["mean"], y["standard_error"], x["standard_error"], label=name, **style)
    right.legend(frameon=False, loc="lower right")
    right.set(xlabel="mean pairwise distance in a batch", ylabel="share of mixed groups", title="choices")
    for axes in (left, right):
        drawing.tidy(axes)
    left.legend(frameon=False)
    figure.suptitle("What the parts of GPS are worth on MATH problems (simulated learner; bars: one standard error)")
    return drawing.save(figure, path)


def main(arguments: list[str]) -> None:
    """Run all seeds, print the tables, and write the result and the figure."""
    from sklearn.cluster import KMeans

    options = make_parser("experiments.gps_ablations", __doc__).parse_args(arguments)
    console, config = Console(), Config(horizons=HORIZONS)
    with clear_errors():
        problems = load_problems(options.problems, more_than=config.held_out)
    predictors = {name: online(jaxsel.amortized(problems.embeddings, **kw)) for name, kw in PREDICTORS.items()}
    predictions = over_seeds([run_seed(problems, config, seed, predictors) for seed in options.seeds])
    directions = direction_and_length(problems.embeddings)[:, :-1]
    clusters = KMeans(CLUSTERS, random_state=0).fit_predict(directions)
    runs = {
        name: choose(problems, selector, clusters, options.seeds)
        for name, selector in bar(selectors(problems.embeddings).items(), desc="choices", unit="selector")
    }
    choices = {name: over_seeds(by_seed) for name, by_seed in runs.items()}
    for part in (UNSEEN, SEEN):
        for metric in ("spearman", "mae"):
            console.print(table(predictions, part, metric))
    console.print(_choices_table(choices))
    result = provenance(
        asdict(config) | {"problems": len(problems.levels), "texts": problems.fingerprint, "choosing_steps": STEPS},
        options.seeds,
    )
    write_result(options.out / "gps_ablations.json", result | {"predictions": predictions, "choices": choices})
    print(f"figure: {draw(predictions, choices, options.out / 'gps_ablations.png')}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
