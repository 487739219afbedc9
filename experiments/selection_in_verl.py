"""Selection finds mixed groups in verl: verl's own shuffling (stock) against three methods in the same training loop.

    make verl
    .venv-verl/bin/python -m experiments.selection_in_verl [--seeds 0 1 2] [--steps 30] [--pool 200]

Claim, on the mean over seeds: in the second half of training, mopps and dps with their default settings and adaptive at
a temperature of 1/3 have at least 1.4 times the share of mixed groups that stock has. A group, the completions of one
prompt in one step, is mixed if some but not all of them are correct.

The training loop is verl's own: configuration, data loader, TransferQueue, replay buffer and `fit`. There is no policy.
A completion is a coin flip with the success rate of its prompt, which never changes. So this measures jaxsel's adapter
for verl and the choice of prompts, and says nothing about training. Rates are drawn from Beta(0.3, 0.3). A step has 16
prompts and 128 completions. Seeds vary the rates, the shuffling and the choices.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import standard_error
from experiments.reporting.tables import text_table
from experiments.running.command import Distinct, module_parser, quiet_pipe

GROUP, PROMPTS = 8, 16  # completions per prompt, prompts per step
METHODS = ("mopps", "dps", "adaptive")


def main(arguments: list[str]) -> None:
    """Run every method at every seed, print a table and write the result."""
    parser = module_parser("experiments.selection_in_verl", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--pool", type=int, default=200, help="prompts")
    parser.add_argument("--methods", nargs="+", default=["stock", *METHODS])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    config = vars(parser.parse_args(arguments))
    output = config.pop("output")
    from tests.support import tiny_verl

    tiny_verl.start()
    runs = [
        run(method, seed, config["steps"], config["pool"]) for seed in config["seeds"] for method in config["methods"]
    ]
    tiny_verl.stop()
    write_result(output / "selection_in_verl.json", provenance(config, config["seeds"]) | {"runs": runs})
    lines = [line(method, [one for one in runs if one["method"] == method]) for method in config["methods"]]
    print(text_table("mixed groups in verl", ["prompts", "mixed, second half", "per seed"], lines))


def line(method: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return the method's line of the table."""
    late = [one["mixed_second_half"] for one in runs]
    error = float(standard_error(np.array(late)))
    return [method, f"{np.mean(late):.3f} ({error:.3f})", " ".join(f"{share:.2f}" for share in late)]


def run(method: str, seed: int, steps: int, pool_size: int) -> dict[str, Any]:
    """Run verl's training loop once and return the shares of mixed groups."""
    from tests.support import tiny_verl

    rates = np.random.default_rng(seed).beta(0.3, 0.3, size=pool_size).tolist()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_verl.write_rows(folder / "train.parquet", tiny_verl.numbered(pool_size))
        ours = [*tiny_verl.SELECTED, f"data.jaxsel.method={method}", f"+data.jaxsel.seed={seed}"]
        if method == "adaptive":
            ours.append("+data.jaxsel.arguments.temperature=0.333")
        stock = ["data.shuffle=True", f"data.seed={seed}", "data.dataloader_num_workers=0"]
        done = tiny_verl.train(
            folder,
            *(stock if method == "stock" else ours),
            reward=tiny_verl.coin(rates),
            steps=steps,
            prompts=PROMPTS,
            completions=GROUP,
        )
    by_step = [[rewards for now, _, rewards in done.groups if now == step] for step in range(1, steps + 1)]
    mixed = [tiny_verl.mixed_share(groups) for groups in by_step]
    return {
        "method": method,
        "seed": seed,
        "mixed_first_half": float(np.mean(mixed[: steps // 2])),
        "mixed_second_half": float(np.mean(mixed[steps // 2 :])),
        "mixed": mixed,
    }


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
