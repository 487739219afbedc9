"""Is the gold standard calibrated, and how far are the quick predictions of mopps, dps and gps from it?

    python -m experiments.gold_standard [--seeds 0 1 2 3 4] [--learner-seeds 0 1]

The gold standard is `jaxsel.reference_models`: it samples the exact posterior of a state-space model of all success
rates by MCMC. Claim: on data of this model, its central 90% intervals contain the true success rates of 90% +- 3% of
the prompts, and the intervals of mopps, dps and gps do not.

A history has 300 prompts, 60 of which are never drawn, and 16 steps of random batches of 60 x 8 rollouts. The methods
predict the success rates at step 16. There are two kinds of data. The second kind does not follow the model:

* the state-space model itself, at the hyperparameters of `cases.Config`, with embeddings of 8 features: a random
  direction of the features moves the starting logits of the success rates;
* the learner of `jaxsel.simulate` with embeddings from `simulate.embed`: prompts share skills, which training raises.

mopps and dps see no embeddings, and are compared with the gold standard without embeddings; gps is compared with the
gold standard that sees them. Fresh groups of 8 rollouts give the log score. Intervals of the gold standard are
quantiles of its draws. Intervals of the other methods are quantiles of the Beta distribution with their mean and
variance. For dps this is an approximation, because its belief is about three solve states.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.gold_standard.cases import Config, learner_case, state_space_case
from experiments.gold_standard.presentation import SOURCES, draw, table
from experiments.gold_standard.scoring import PARTS, run_seed, summarise
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.running.command import Distinct, module_parser, quiet_pipe
from rl.progress import bar


def run(config: Config, seeds: list[int], learner_seeds: list[int], out: Path) -> dict[str, Any]:
    """Score all methods on both kinds of data, print the tables, and write the result and the figure."""
    console = Console(width=200)
    by_source = {}
    for source, make, chosen in (("state space", state_space_case, seeds), ("learner", learner_case, learner_seeds)):
        if not chosen:
            continue
        by_source[source] = [run_seed(config, make(config, seed), seed) for seed in bar(chosen, desc=source)]
    summaries = {source: summarise(by_seed) for source, by_seed in by_source.items()}
    for source, summary in summaries.items():
        for part in PARTS:
            console.print(table(summary, SOURCES[source], part))
    result = provenance(asdict(config), seeds) | {"learner_seeds": learner_seeds}
    write_result(out / "gold_standard.json", result | {"summary": summaries, "seeds": by_source})
    print(f"figure: {draw(summaries, out / 'gold_standard.png')}")
    return summaries


def main(arguments: list[str]) -> None:
    """Run all seeds with the options of the command line."""
    parser = module_parser("experiments.gold_standard", __doc__)
    parser.add_argument("--seeds", type=int, nargs="*", action=Distinct, default=[0, 1, 2, 3, 4])
    parser.add_argument("--learner-seeds", type=int, nargs="*", action=Distinct, default=[0, 1])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="try it with 30 prompts and a few draws")
    options = parser.parse_args(arguments)
    small = Config(num_prompts=30, never_visited=6, steps=4, batch_size=10, num_warmup=60, num_samples=60)
    run(small if options.small else Config(), options.seeds, options.learner_seeds, options.out)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
