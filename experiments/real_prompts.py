"""Does one model of all prompts know those it never saw? GPS against per-prompt posteriors and ridge regression.

    python -m experiments.real_prompts PROBLEMS [--seeds 0 1 2]

Real problems of MATH, embedded with WordLlama; a simulated learner (`experiments.simulated_math` says how it learns).
Every predictor sees the same random batches of 256 of 5,000 problems, 8 rollouts each; 1,000 problems are never drawn.
After 1, 3, 10, 30 and 100 steps its predicted success rates are compared with the true ones, on problems that were
visited and on those that never were.

Claim: on never-visited prompts gps beats ridge regression on the same embeddings from step 10 on, and mopps and dps,
which predict the same rate for all of them, at every horizon; on visited prompts it is as good as mopps. Rank
correlation is kind to mopps, half of whose predictions are ties: the same with ties broken at random stands beside it.

No setting of gps was chosen on these seeds: seeds 100 and 101 served for that, which are other learners and splits of
the same problems. gps reads the direction and length of an embedding and remembers 32 steps: ridge regression that is
given the same stands beside it.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import jaxsel
from experiments.reporting import drawing
from experiments.reporting.provenance import provenance, write_result
from experiments.reporting.spread import over_seeds, shown
from experiments.reporting.tables import terminal_table
from experiments.running.command import quiet_pipe
from experiments.simulated_math import (
    Predict,
    Problems,
    direction_and_length,
    load_problems,
    make_learner,
    make_parser,
    online,
    record,
    ridge,
    scores,
    split,
    ties_broken,
)
from rl.progress import bar

HORIZONS = (1, 3, 10, 30, 100)
PREDICTORS: dict[str, Callable[[Problems], Predict]] = {
    "gps": lambda problems: online(jaxsel.amortized(problems.embeddings)),
    "gps, no evidence of a prompt's own": lambda problems: online(jaxsel.amortized(problems.embeddings, decay=None)),
    "mopps, decay 0.5": lambda problems: online(jaxsel.beta_bernoulli(decay=0.5)),
    "mopps, ties broken at random": lambda problems: ties_broken(online(jaxsel.beta_bernoulli(decay=0.5))),
    "mopps, decay 1": lambda problems: online(jaxsel.beta_bernoulli(decay=1.0)),
    "dps": lambda problems: online(jaxsel.hidden_markov(decay=0.7)),
    "ridge": lambda problems: ridge(problems.embeddings),
    "ridge, direction and length": lambda problems: ridge(direction_and_length(problems.embeddings)),
    "the same, last 32 steps": lambda problems: ridge(direction_and_length(problems.embeddings), last=32),
}
STYLES = {
    "gps": ("#0072B2", "-", "o"),
    "gps, no evidence of a prompt's own": ("#56B4E9", "--", "s"),
    "mopps, decay 0.5": ("#D55E00", "-", "^"),
    "mopps, ties broken at random": ("#D55E00", ":", "<"),
    "mopps, decay 1": ("#E69F00", "--", "v"),
    "dps": ("#CC79A7", "-.", "D"),
    "ridge": ("#000000", "-", "x"),
    "ridge, direction and length": ("#009E73", "--", "+"),
    "the same, last 32 steps": ("#009E73", ":", "*"),
}
SEEN, UNSEEN = "visited", "never visited"


@dataclass(frozen=True)
class Config:
    """What the result depends on, besides the problems.

    Attributes:
        batch_size: problems a step.
        held_out: problems that are never drawn.
        horizons: steps after which predictions are judged.
    """

    batch_size: int = 256
    held_out: int = 1000
    horizons: tuple[int, ...] = HORIZONS


def run_seed(problems: Problems, config: Config, seed: int, predictors: dict[str, Predict]) -> dict[str, Any]:
    """`{predictor: {horizon: {visited or not: scores}}}` of one learner."""
    rows, _ = split(len(problems.levels), config.held_out, seed)
    recording = record(
        make_learner(problems, seed), rows, seed, steps=max(config.horizons), batch_size=config.batch_size
    )
    results: dict[str, Any] = {}
    for name, predict in bar(predictors.items(), desc=f"seed {seed}", unit="predictor"):
        results[name] = {}
        for t, predicted in predict(recording, config.horizons).items():
            visited = np.zeros(len(problems.levels), bool)
            visited[recording.prompt_ids[:t]] = True
            parts = {SEEN: np.flatnonzero(visited), UNSEEN: np.flatnonzero(~visited)}
            results[name][t] = {part: scores(predicted, recording.truth[t], at) for part, at in parts.items()}
    return results


def table(summary: dict[str, Any], part: str, metric: str) -> Table:
    """Predictors by horizons."""
    horizons = list(next(iter(summary.values())))
    rows = ([name, *(shown(by_step[t][part][metric]) for t in horizons)] for name, by_step in summary.items())
    title = f"{metric}, prompts {part}: mean over seeds (standard error)"
    return terminal_table(title, ("predictor", *(f"step {t}" for t in horizons)), rows)


def draw(summary: dict[str, Any], path: Path) -> Path:
    """Rank correlation and error against steps, on visited and never-visited prompts."""
    figure, axes = drawing.plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained", sharex=True, sharey="row")
    for row, metric in enumerate(("spearman", "mae")):
        for column, part in enumerate((UNSEEN, SEEN)):
            for name, by_horizon in summary.items():
                colour, line, marker = STYLES.get(name, ("#999999", ":", "."))
                cells = [by_horizon[t][part][metric] for t in by_horizon]
                mean, error = (np.array([c[key] for c in cells], float) for key in ("mean", "standard_error"))
                axes[row, column].errorbar(
                    list(by_horizon), mean, error, color=colour, linestyle=line, marker=marker, label=name, capsize=2
                )
            axes[row, column].set_xscale("log")
            axes[row, column].set_xticks(list(HORIZONS), [str(t) for t in HORIZONS])
            axes[row, column].minorticks_off()
            drawing.tidy(axes[row, column])
    axes[0, 0].set(title="prompts never visited", ylabel="Spearman with the true success rate")
    axes[0, 1].set(title="prompts visited")
    axes[1, 0].set(ylabel="mean absolute error of the success rate", xlabel="steps of 256 prompts")
    axes[1, 1].set(xlabel="steps of 256 prompts")
    axes[0, 0].annotate(
        "mopps and dps predict one rate for all: no rank", (0.02, 0.93), xycoords="axes fraction", fontsize=9
    )
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("One model of all prompts ranks those nobody rolled out (MATH problems, simulated learner)")
    return drawing.save(figure, path)


def main(arguments: list[str]) -> None:
    """Runs all seeds, prints four tables and draws the figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=max(HORIZONS), help="stop early, for a try")
    options = parser.parse_args(arguments)
    console = Console()
    problems = load_problems(options.problems)
    config = Config(horizons=tuple(t for t in HORIZONS if t <= options.steps))
    predictors = {name: make(problems) for name, make in PREDICTORS.items()}
    by_seed = [run_seed(problems, config, seed, predictors) for seed in options.seeds]
    summary = over_seeds(by_seed)
    for part in (UNSEEN, SEEN):
        for metric in ("spearman", "mae"):
            console.print(table(summary, part, metric))
    result = provenance(
        asdict(config) | {"problems": len(problems.levels), "texts": problems.fingerprint}, options.seeds
    )
    write_result(options.out / "real_prompts.json", result | {"summary": summary, "seeds": by_seed})
    console.print(f"figure: {draw(summary, options.out / 'real_prompts.png')}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
