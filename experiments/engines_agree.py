"""Training on vLLM's rollouts gives the same policy as training on the Hugging Face engine's rollouts.

    python -m experiments.engines_agree [--seeds 0 1 2] [--steps 40]

Claim: from the same warm start (supervised learning), the policy learns the task Countdown equally well with both
engines, and the log-probabilities of the drawn tokens agree between vLLM and the trainer to 1e-3. In so few steps, a
small policy learns the 64 prompts, each seen twenty times, and not the task. The engines draw different random numbers,
so means over seeds are compared.
The command needs vLLM, for example the environment that `make vllm` builds.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.reporting.drawing import plt, save, tidy
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import over_seeds, shown
from experiments.reporting.summaries import column, per_step
from experiments.reporting.tables import terminal_table
from experiments.running.command import Distinct, module_parser, quiet_pipe
from experiments.running.compare import SETTINGS, run_config
from experiments.running.config import EngineConfig, RunConfig, clear_errors
from experiments.running.folders import clear_runs
from experiments.running.runs import run
from jaxsel.plotting import COLOURS

ENGINES = {"hf": EngineConfig("hf"), "vllm": EngineConfig("vllm")}
ROWS = {
    "reward": "reward, first ten steps",
    "last_reward": "reward, last ten steps",
    "before": "accuracy on the prompts, before",
    "after": "accuracy on the prompts, after",
    "gap_mean": "|log-prob gap|, mean",
    "gap_max": "|log-prob gap|, largest",
    "generating": "seconds of generation per step",
    "handing_over": "seconds of passing weights per step",
}


def main(arguments: list[str]) -> None:
    """Run both engines at every seed, write the result and the figure, and print the table."""
    parser = module_parser("experiments.engines_agree", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="learning rate of the policy")
    parser.add_argument("--warm-start-steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/engines_agree"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with clear_errors():
        config = setting(options.steps, options.learning_rate, options.warm_start_steps)
        clear_runs(options.out / f"{name}-{seed}" for seed in options.seeds for name in ENGINES)
    runs = {name: [] for name in ENGINES}
    for seed in options.seeds:
        for name, engine in ENGINES.items():
            runs[name].append(run(replace(config, seed=seed, engine=engine), options.out / f"{name}-{seed}"))
    found = {name: [measured(records) for records in seeds] for name, seeds in runs.items()}
    gain = [vllm["after"] - hf["after"] for hf, vllm in zip(found["hf"], found["vllm"], strict=True)]
    table = {
        name: {key: over_seeds([numbers[key] for numbers in seeds]) for key in ROWS} for name, seeds in found.items()
    }
    payload = provenance(asdict(config), options.seeds) | {
        "engines": table,
        "per_seed": found,
        "vllm_minus_hf": over_seeds(gain),
    }
    write_result(options.results / "engines_agree.json", payload)
    _draw(runs, options.results / "engines_agree.png")
    Console().print(_table(table, options.steps))
    Console().print(f"accuracy after, vllm minus hf: {shown(over_seeds(gain))}")


def setting(steps: int, learning_rate: float, warm_start_steps: int) -> RunConfig:
    """Return the demo's Countdown settings with another learning rate and few prompts, drawn uniformly.

    The mean rewards of different steps are comparable, because every step draws its prompts in the same way.
    """
    config = run_config(SETTINGS["countdown"], "uniform", 0)
    return replace(
        config,
        pool_size=64,
        held_out_size=200,
        method=replace(config.method, batch_size=32),
        warm_start=replace(config.warm_start, steps=warm_start_steps),
        train=replace(config.train, steps=steps, probe_every=0, learning_rate=learning_rate),
    )


def measured(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the numbers of one run."""
    reward = column(records, "train/reward")
    ten = min(10, len(reward) // 2)
    return {
        "reward": float(reward[:ten].mean()),
        "last_reward": float(reward[-ten:].mean()),
        "before": records[0]["probe/pool_accuracy"],
        "after": records[-1]["probe/pool_accuracy"],
        "gap_mean": float(column(records, "policy/log_prob_gap_mean").mean()),
        "gap_max": float(column(records, "policy/log_prob_gap_max").max()),
        "generating": float(np.median(column(records, "seconds/generating"))),
        "handing_over": float(np.median(column(records, "seconds/handing_over"))),
    }


def _draw(runs: dict[str, list[list[dict[str, Any]]]], path: Path) -> Path:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, seeds), colour in zip(runs.items(), ("blue", "vermilion"), strict=True):
        rewards = per_step(seeds, "train/reward")
        steps = np.arange(1, rewards.shape[1] + 1)
        for row in rewards:
            axes.plot(steps, row, color=COLOURS[colour], alpha=0.25, linewidth=0.8)
        label = {"hf": "Hugging Face engine", "vllm": "vLLM"}[name]
        axes.plot(steps, rewards.mean(0), color=COLOURS[colour], label=label)
    axes.set(
        xlabel="step", ylabel="mean reward of a step's rollouts", title="Both engines train equally well on Countdown"
    )
    axes.legend(frameon=False)
    tidy(axes)
    return save(figure, path)


def _table(found: dict[str, dict[str, dict[str, float]]], steps: int) -> Table:
    rows = (
        [name, *(f"{one[key]['mean']:.1e}" if key.startswith("gap") else shown(one[key]) for one in found.values())]
        for key, name in ROWS.items()
    )
    title = f"Countdown, {steps} steps of GRPO; standard error over seeds in brackets"
    return terminal_table(title, ("", *found), rows)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
