"""What selection costs a training step, at a pool of 100,000 prompts.

    python -m experiments.selection_overhead [--pool-size 100000] [--steps 40]

Claim: choosing the prompts and updating the belief take under 1% of a step. Real steps of the built-in policy, torch on
one core: rollouts, verification, update; medians, so that compilation does not count. A step of a policy that a GPU
cluster trains takes seconds to minutes: the milliseconds are what to compare with it.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.compare import SETTINGS, summary
from experiments.provenance import RESULTS, provenance, write_result
from experiments.runs import RunConfig, run


def main(arguments: list[str]) -> None:
    """Measures every method with the demo's policy and step, and with a policy and a step that are larger."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool-size", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for method in ("uniform", "mopps", "dps"):
        for size, config in steps_to_measure(method, options.pool_size, options.steps).items():
            rows.append({"method": method, "step": size, **measure(config)})
    write_result(options.results / "selection_overhead.json", provenance(vars_of(options), 0) | {"rows": rows})
    Console().print(_table(rows, options.pool_size))


def steps_to_measure(method: str, pool_size: int, steps: int) -> dict[str, RunConfig]:
    """The demo's step, and one of 64 prompts with 2 million weights; both among a window and among the whole pool."""
    demo = SETTINGS["string_ops"].run_config(method, seed=0)
    train = replace(demo.train, steps=steps, probe_every=0)
    demo = replace(demo, pool_size=pool_size, held_out_size=8, train=train)
    # The time of a step does not depend on what the policy knows: two steps of warm start do.
    large = replace(
        demo,
        method=replace(demo.method, batch_size=64),
        warm_start=replace(demo.warm_start, hidden_size=192, num_layers=5, feed_forward_size=768, steps=2),
    )
    configs = {"0.3M, 16 x 8 rollouts": demo, "2M, 64 x 8 rollouts": large}
    if method != "uniform":
        whole = {
            f"{name}, whole pool": replace(config, method=replace(config.method, candidate_ratio=0))
            for name, config in configs.items()
        }
        configs |= whole
    return configs


def measure(config: RunConfig) -> dict[str, float]:
    """Median milliseconds of a step, and of selection in it."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = summary(run(config, Path(folder) / "run"))
    selecting, step = numbers["median_ms_selecting"], numbers["median_ms_step"]
    return {"ms_selecting": round(selecting, 3), "ms_step": round(step, 1), "share": round(selecting / step, 5)}


def vars_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options as a configuration, with the setting they were measured in."""
    return {"pool_size": options.pool_size, "steps": options.steps, "setting": asdict(SETTINGS["string_ops"])}


def _table(rows: list[dict[str, Any]], pool_size: int) -> Table:
    table = Table(title=f"Selection in a training step, pool of {pool_size:,} prompts")
    for name in ("method", "step", "select + observe, ms", "step, ms", "share"):
        table.add_column(name, justify="left" if name in ("method", "step") else "right")
    for row in rows:
        table.add_row(
            row["method"], row["step"], f"{row['ms_selecting']:.2f}", f"{row['ms_step']:.0f}", f"{row['share']:.2%}"
        )
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
