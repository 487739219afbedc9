"""Does choosing prompts pay? Uniform prompts, dynamic sampling and the named methods on one pool: a table and a figure.

    python -m experiments.demo [--task countdown] [--method mopps dps gps] [--seed 0] [--out runs/demo]

Claim: at equal rollouts, prompts chosen by MoPPS or DPS teach more than uniformly drawn prompts; dynamic sampling
teaches more per step, at several times the rollouts. `experiments/selection_pays.py` tests the claim on more seeds.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from experiments.reporting.figures import draw_comparison
from experiments.reporting.summaries import summary_table
from experiments.running.command import check_integers, module_parser, quiet_pipe
from experiments.running.compare import BASELINES, SETTINGS, run_methods
from experiments.running.config import clear_errors
from experiments.running.folders import clear_runs, name_of
from experiments.running.method_config import PREDICTIVE_NAMES


def main(arguments: list[str]) -> None:
    """Run the comparison, and print the table and the path of the figure."""
    parser = module_parser("experiments.demo", __doc__)
    parser.add_argument("--task", choices=sorted(SETTINGS), default="string_ops")
    parser.add_argument("--method", nargs="+", choices=sorted(PREDICTIVE_NAMES), default=["mopps", "dps"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="number of policy updates; default: the task's setting")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    options = parser.parse_args(arguments)
    check_integers(parser, options, seed=0, steps=1)
    console = Console()
    start = time.perf_counter()
    shared = SETTINGS[options.task]
    if options.steps:
        shared = replace(shared, train=replace(shared.train, steps=options.steps))
    chosen = {"seed": options.seed or None, "train.steps": options.steps}
    told = name_of({name: value for name, value in chosen.items() if value is not None})
    out = options.out / ",".join(filter(None, (options.task, told)))
    methods = list(dict.fromkeys([*BASELINES, *options.method]))
    with clear_errors():
        clear_runs(out / method for method in methods)
    console.print(
        f"[bold]jaxsel demo[/bold]: {options.task}, {shared.pool_size} prompts, {shared.train.steps} steps of "
        f"{shared.method.batch_size} prompts x {shared.train.group_size} rollouts"
    )
    runs = run_methods(shared, options.seed, out, methods)
    console.print(summary_table(runs))
    figure = draw_comparison(runs, out / "demo.png", title=f"{options.task}, seed {options.seed}")
    print(f"figure: {figure}    metrics: {out}/*/metrics.jsonl    {time.perf_counter() - start:.0f} seconds in all")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
