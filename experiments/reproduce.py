"""The published comparison, small: every way to choose prompts on the same pool, warm start and evaluation prompts.

    python -m experiments.reproduce [--tasks string_ops countdown] [--seeds 10 11 12 13 14] [--out runs/reproduce]

Claims, each on the mean over seeds and for every method that predicts; which ones miss which is said. (The best of six,
picked on the seeds that are reported, would look better than it is.)
1. it reaches dynamic sampling's final held-out accuracy with at most 30% of its rollouts,
2. it reaches uniform's final held-out accuracy in at most 1 / 1.5 of uniform's steps,
3. at least 1.5 times uniform's share of groups is mixed,
4. a step waits less than 1% of its time for choosing and learning from outcomes, which go on while the policy is
   updated.

An accuracy is the mean of two neighbouring probes (500 prompts that nobody trains on, 8 fresh rollouts each), reached
halfway between them: a single probe would cross a line early by its noise. Where a line is crossed is read off the mean
curve of the seeds, and a share is of what the baseline spent until the middle of its own last two probes.
All settings were chosen on seeds 101 to 103 (see `experiments.ablations`); the seeds here vary warm start, pool and
sampling together. Differences to the papers: the policy has 0.3 million weights and is trained on the spot, and dynamic
sampling runs for half of the others' steps, at about three times their rollouts a step. A run that was interrupted goes
on; delete `--out` to start anew.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.reporting import drawing
from experiments.reporting.figures import held_out, look_of, smoothed, with_band
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import of_seeds, shown
from experiments.reporting.summaries import Records, column, curve, probes, share_spent, summary
from experiments.reporting.tables import terminal_table
from experiments.running.command import quiet_pipe
from experiments.running.compare import SETTINGS, commits, described, run_config, run_many
from experiments.running.config import add_settings, configured
from experiments.running.folders import name_of
from experiments.running.runs import METHODS, PREDICTIVE
from jaxsel import metrics
from jaxsel.integrations.history import read_history

_COMPILING = 10  # steps in which functions are compiled
Runs = dict[str, list[Records]]


def main(arguments: list[str]) -> None:
    """Runs what is missing, writes the result of every task and the figure, and prints tables and claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=sorted(SETTINGS), default=["string_ops", "countdown"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add_settings(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="reproduce", help="of the results and the figure")
    options = parser.parse_args(arguments)
    if not {"uniform", "dynamic_sampling"} <= set(options.methods):
        parser.error("methods are compared with uniform and dynamic_sampling; name both")
    common = dict(options.set)
    if fixed := common.keys() & {"task", "seed", "method.name", "train.history"}:
        parser.error(f"--set {min(fixed)}: the experiment sets that itself; set something else")
    out = options.out / name_of(dict(sorted(common.items())))
    console, drawn = Console(), {}
    for task in options.tasks:
        shared = configured(common, SETTINGS[task])
        folders = {(m, s): out / task / f"seed-{s}" / m for s in options.seeds for m in options.methods}
        configs = {folder: run_config(shared, m, s, history=True) for (m, s), folder in folders.items()}
        records = run_many(configs, resume=True)
        drawn[task] = runs = {m: [records[folders[m, s]] for s in options.seeds] for m in options.methods}
        seen = {m: [calibration(folders[m, s] / "history") for s in options.seeds] for m in options.methods}
        result = judge(runs, seen)
        held = claims(result)
        write_result(
            options.results / f"{options.name}_{task}.json",
            provenance(described(shared), options.seeds)
            | {"commits": commits(configs), "claims": held, "methods": result, "curves": curves(runs)},
        )
        for table in tables(task, result):
            console.print(table)
        for claim in held.values():
            console.print(claim["says"], highlight=False)
    console.print(f"figure: {draw(drawn, options.results / f'{options.name}.png')}")


def calibration(history: Path) -> float:
    """Expected calibration error of P(mixed) on the probes of the second half of a run: fresh rollouts of the pool."""
    found = read_history(history).probes
    late = (found["step"] > found["step"].max() / 2) & (found["group_size"] > 0)
    mixed = (found["successes"] > 0) & (found["successes"] < found["group_size"])
    return float(metrics.expected_calibration_error(found["mixed"][late], mixed[late]))


def judge(runs: Runs, seen: dict[str, list[float]]) -> dict[str, Any]:
    """Every method's numbers: of each seed, their mean and its standard error."""
    uniform, dynamic = runs["uniform"], runs["dynamic_sampling"]
    result = {}
    for method, seeds in runs.items():
        found = [numbers(records, seen[method][at]) | against(records, uniform[at]) for at, records in enumerate(seeds)]
        result[method] = {name: of_seeds([one[name] for one in found]) for name in found[0]}
        result[method] |= {
            "share_of_steps": share_spent(seeds, uniform, "step"),
            "share_of_rollouts": share_spent(seeds, dynamic),
        }
    return result


def numbers(records: Records, calibration_error: float) -> dict[str, float]:
    """One run by itself."""
    found = summary(records)
    error = probes(records, "mae")[1]
    kept = ("rollouts", "held_out_at_start", "held_out_accuracy", "mixed_share", "spearman")
    # The shares are of the steps in which nothing is compiled.
    warm = summary([r for r in records if r["step"] >= _COMPILING] or records)
    return {
        **{name: found[name] for name in kept},
        "mean_absolute_error": float(error[len(error) // 2 :].mean()),
        "calibration_error": calibration_error,
        "ms_selecting": warm["median_ms_selecting"],
        "ms_step": warm["median_ms_step"],
        "selecting": warm["share_selecting"],
    }


def against(records: Records, uniform: Records) -> dict[str, float]:
    """One run beside uniform's on the same seed."""
    found, plain = summary(records), summary(uniform)
    return {
        "gain": found["held_out_accuracy"] - plain["held_out_accuracy"],
        "mixed_share_ratio": found["mixed_share"] / plain["mixed_share"] if plain["mixed_share"] else float("nan"),
    }


def claims(result: dict[str, Any]) -> dict[str, Any]:
    """The four claims, each judged for every method that predicts: none is picked on the seeds that are reported."""
    wanted = {
        "share_of_rollouts": ("at most", 0.3, "of dynamic sampling's rollouts to its final held-out accuracy"),
        "share_of_steps": ("at most", 1 / 1.5, "of uniform's steps to its final held-out accuracy"),
        "mixed_share_ratio": ("at least", 1.5, "times uniform's mixed groups"),
        "selecting": ("at most", 0.01, "of a step is spent waiting for choosing and learning"),
    }
    methods = [method for method in result if method in PREDICTIVE]
    found = {}
    for name, (side, bar, what) in wanted.items():
        means = {method: result[method][name]["mean"] for method in methods}
        holds = {method: bool(mean <= bar if side == "at most" else mean >= bar) for method, mean in means.items()}
        kept, missed = (", ".join(m for m in methods if holds[m] is held) or "none" for held in (True, False))
        says = f"{side} {bar:.3g} {what}: holds for {kept}; missed by {missed}"
        found[name] = {"bar": bar, "means": means, "holds": holds, "says": says}
    return found


def curves(runs: Runs) -> dict[str, Any]:
    """What the figure shows: held-out accuracies of every seed, at these steps and rollouts."""
    return {method: [curve(records) for records in seeds] for method, seeds in runs.items()}


_OUTCOME = {
    "held_out_accuracy": "held-out",
    "gain": "gain",
    "share_of_rollouts": "rollouts/DS",
    "share_of_steps": "steps/uniform",
}
_PREDICTION = {
    "mixed_share": "mixed",
    "spearman": "Spearman",
    "calibration_error": "ECE",
    "ms_selecting": "choice",
    "ms_step": "step",
}
_FINE = ("held_out_accuracy", "gain")


def tables(task: str, result: dict[str, Any]) -> Iterator[Table]:
    """Methods by numbers, 80 columns wide: what training came to, and what was predicted at what cost."""
    start, seeds = result["uniform"]["held_out_at_start"], len(result["uniform"]["gain"]["per_seed"])
    spent = {method: by_name["rollouts"]["mean"] for method, by_name in result.items()}
    rollouts = f"rollouts {spent['uniform']:,.0f}, DS {spent['dynamic_sampling']:,.0f}"
    titles = (
        f"{task}: mean of {seeds} seeds (standard error), from {start['mean']:.3f}",
        f"{task}: predictions; milliseconds of choice and step; {rollouts}",
    )
    for title, columns in zip(titles, (_OUTCOME, _PREDICTION), strict=True):
        rows = ([method, *(_cell(name, by_name[name]) for name in columns)] for method, by_name in result.items())
        yield terminal_table(title, ("method", *columns.values()), rows)


def _cell(name: str, number: dict[str, Any]) -> str:
    if name.startswith("ms"):
        return f"{number['mean']:.1f}"
    return shown(number, digits=3 if name in _FINE else 2)


def draw(drawn: dict[str, Runs], path: Path) -> Path:
    """A row a task: held-out accuracy against rollouts and against steps, and the share of mixed groups.

    Means over seeds; bands of one standard error where they do not hide each other.
    """
    figure, rows = drawing.plt.subplots(
        len(drawn), 3, figsize=(13, 3.9 * len(drawn)), layout="constrained", squeeze=False
    )
    for axes, (task, runs) in zip(rows, drawn.items(), strict=True):
        for method, seeds in runs.items():
            style = look_of(method)
            for ax, at, unit in ((axes[0], "rollouts", 1000), (axes[1], "step", 1)):
                spent, accuracy = held_out(seeds, at, unit)
                ax.plot(spent, accuracy.mean(0), **style)  # bands of seeds, whose levels differ, would hide each other
            mixed = np.array([smoothed(column(records, "train/mixed_share")) for records in seeds])
            with_band(axes[2], np.arange(mixed.shape[1]), mixed, style)
        name = task.replace("_", " ")
        axes[0].set(xlabel="rollouts (thousands)", ylabel="held-out accuracy", title=f"{name}: what rollouts bought")
        axes[1].set(xlabel="training step", ylabel="held-out accuracy", title=f"{name}: what steps bought")
        axes[2].set(xlabel="training step", ylabel="share of mixed groups", title=f"{name}: before any filter")
        for ax in axes:
            drawing.tidy(ax)
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return drawing.save(figure, path)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
