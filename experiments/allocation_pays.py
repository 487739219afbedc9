"""Test time: does a frozen predictor spend a budget of samples better than an even spread?

    python -m experiments.allocation_pays PROBLEMS [--seeds 0 1 2]

The predictor is the one of GPS, a network that reads the embeddings of all problems. It observes 30 steps of 256 random
problems, whose outcomes a simulated learner gives (`experiments.simulated_math`). It is then frozen. A budget of 1 to
32 samples per problem is allocated to 1,000 problems that it never saw.

There are three strategies: evenly, by bins of the predicted success rate (an idea of the GPS paper, with bins and
weights of our own), and by the marginal gain in the expected number of problems solved at least once. The simulation
knows the true success rates, which give that number exactly. Allocation by marginal gain with the true rates bounds the
gain of any prediction; with the predicted rates alone, it shows the worth of the predicted uncertainty.

Claim: allocation by marginal gain solves more problems than an even spread. The claim hardly holds: see
experiments/README.md.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

import jaxsel
from experiments.reporting import drawing
from experiments.reporting.provenance import provenance, write_result
from experiments.reporting.spread import over_seeds, shown, standard_error
from experiments.reporting.tables import terminal_table
from experiments.running.command import quiet_pipe
from experiments.running.config import clear_errors
from experiments.simulated_math import Problems, load_problems, make_learner, make_parser, record, rollouts, split
from jaxsel.plotting import COLOURS
from rl.progress import bar

STEPS, BATCH, HELD_OUT = 30, 256, 1000
SAMPLES = (1, 2, 4, 8, 16, 32)
STYLES = {
    "uniform": (COLOURS["black"], "-", "x"),
    "bins": (COLOURS["orange"], "--", "s"),
    "marginal, rates alone": (COLOURS["sky blue"], "-.", "v"),
    "marginal": (COLOURS["blue"], "-", "o"),
    "marginal, true rates": (COLOURS["light grey"], ":", "."),
}


def run_seed(problems: Problems, seed: int) -> dict[str, list[float]]:
    """Return the share of held-out problems solved at least once, by strategy, for every budget."""
    rows, held_out = split(len(problems.levels), HELD_OUT, seed)
    recording = record(make_learner(problems, seed), rows, seed, steps=STEPS, batch_size=BATCH)
    predictor = jaxsel.amortized(problems.embeddings)
    update, state = jax.jit(predictor.update, donate_argnums=1), predictor.init(jax.random.key(seed), len(problems[0]))
    for t in range(STEPS):
        state = update(jax.random.key(t), state, rollouts(recording.prompt_ids[t], recording.successes[t]))
    prediction = jax.tree.map(np.asarray, jax.jit(predictor.predict)(jax.random.key(STEPS), state, held_out))
    truth = recording.truth[STEPS][held_out]

    def solved(beliefs: Any, strategy: str) -> list[float]:
        budgets = [samples * HELD_OUT for samples in SAMPLES]
        spent = [jaxsel.allocate(beliefs, budget, strategy=strategy) for budget in budgets]
        return [jaxsel.expected_solved(truth, samples) / HELD_OUT for samples in spent]

    return {
        "uniform": solved(prediction, "uniform"),
        "bins": solved(prediction, "bins"),
        "marginal, rates alone": solved(prediction.success_rate, "marginal"),
        "marginal": solved(prediction, "marginal"),
        "marginal, true rates": solved(truth, "marginal"),
    }


def draw(by_seed: list[dict[str, list[float]]], path: Path) -> Path:
    """Draw the share that every strategy solves, and its gain over an even spread."""
    figure, (left, right) = drawing.plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for name in by_seed[0]:
        colour, line, marker = STYLES[name]
        style = {"color": colour, "linestyle": line, "marker": marker, "label": name, "capsize": 2}
        solved = np.array([results[name] for results in by_seed])
        gain = 100 * (solved - [results["uniform"] for results in by_seed])
        left.errorbar(SAMPLES, *_mean_and_error(solved), **style)
        right.errorbar(SAMPLES, *_mean_and_error(gain), **style)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(SAMPLES, [str(n) for n in SAMPLES])
        axes.set_xlabel("samples per problem, on average")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.set(ylabel="share of unseen problems solved at least once", title="pass@budget")
    right.set(ylabel="percentage points over an even spread", title="gain")
    left.legend(frameon=False)
    figure.suptitle("What a frozen predictor gains at test time, on problems that it never saw")
    return drawing.save(figure, path)


def _mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(0), np.nan_to_num(standard_error(values))


def main(arguments: list[str]) -> None:
    """Run all seeds, print the table, and write the result and the figure."""
    options = make_parser("experiments.allocation_pays", __doc__).parse_args(arguments)
    console = Console()
    with clear_errors():
        problems = load_problems(options.problems, more_than=HELD_OUT)
    by_seed = [run_seed(problems, seed) for seed in bar(options.seeds, unit="seed")]
    rows = (
        [name, *(shown(over_seeds(solved)) for solved in zip(*(results[name] for results in by_seed), strict=True))]
        for name in by_seed[0]
    )
    title = "share of unseen problems solved at least once: mean (standard error)"
    console.print(terminal_table(title, ("samples per problem", *map(str, SAMPLES)), rows))
    config = {"steps": STEPS, "batch_size": BATCH, "held_out": HELD_OUT, "samples": SAMPLES}
    result = provenance(config | {"problems": len(problems.levels), "texts": problems.fingerprint}, options.seeds)
    write_result(options.out / "allocation_pays.json", result | {"solved": by_seed})
    print(f"figure: {draw(by_seed, options.out / 'allocation_pays.png')}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
