"""Record a simulated run in the format of training runs: batches, predictions, and probes of the pool with true rates.

    python -m experiments.simulated_history FOLDER [--method uniform] [--seed 0] [--num-prompts 4096] [--steps 120]

The learner is `jaxsel.simulate`'s, drawn with the seed. Its prompts have no text; `simulate.embed` makes embeddings
from their skills and difficulties. A probe rolls out every prompt of the pool anew before the first step, every
`--probe-every` steps and after the last step; no method learns from probes.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from experiments.running.command import check_integers, module_parser, quiet_pipe
from experiments.running.compiled_programs import keep_compiled_programs
from jaxsel import simulate
from jaxsel.integrations.history import HistoryLog

GROUP_SIZE = 8
SELECTORS = {"uniform": jaxsel.uniform, "mopps": jaxsel.mopps, "dps": jaxsel.dps, "threshold": jaxsel.threshold}


def record(
    folder: Path, *, method: str, seed: int, num_prompts: int, batch_size: int, steps: int, probe_every: int
) -> Path:
    """Run the simulation and write its history to the folder.

    Raises:
        ValueError: The folder already holds a history.
    """
    if any(folder.glob("part-*.parquet")):
        raise ValueError(f"{folder} already holds a history; give another folder")
    learner_key, embed_key = jax.random.split(jax.random.key(seed))
    learner = simulate.make_learner(learner_key, num_prompts)
    embeddings = np.asarray(simulate.embed(embed_key, learner), np.float16).astype(np.float32)
    selector = jaxsel.PromptSelector(SELECTORS[method](), num_prompts=num_prompts, seed=seed)
    log = HistoryLog(folder, num_prompts=num_prompts, spec=selector.spec, embeddings=embeddings)
    state, rng = simulate.initial_state(learner), np.random.default_rng([seed, 1])
    success_rate, train = jax.jit(simulate.success_rate), jax.jit(simulate.train)

    def rolled_out(prompt_ids: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        truth = np.asarray(success_rate(learner, state))[prompt_ids]
        successes = rng.binomial(GROUP_SIZE, truth).astype(np.int32)
        return (prompt_ids, successes, np.full(len(prompt_ids), GROUP_SIZE, np.int32)), truth

    for step in range(steps + 1):
        if step % probe_every == 0 or step == steps:
            visits, truth = rolled_out(np.arange(num_prompts, dtype=np.int32))
            log.probed(step, visits, selector.predict(), truth)
        if step < steps:
            visits, truth = rolled_out(selector.select(batch_size))
            log.observed(step, visits, selector.predict(visits[0]), truth)
            selector.observe(*visits)
            state = train(learner, state, jaxsel.Rollouts(*(jnp.asarray(column) for column in visits)))
        if step % 50 == 49:
            log.flush()
    log.flush()
    return folder


def main(arguments: list[str]) -> None:
    """Record one run and print the folder of its history."""
    parser = module_parser("experiments.simulated_history", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--method", choices=sorted(SELECTORS), default="uniform", help="method that chooses the batches"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-prompts", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--probe-every", type=int, default=10)
    options = parser.parse_args(arguments)
    keep_compiled_programs()
    check_integers(parser, options, seed=0, num_prompts=1, batch_size=1, steps=1, probe_every=1)
    if options.batch_size > options.num_prompts:
        parser.error(f"--batch-size is {options.batch_size}; give at most --num-prompts, {options.num_prompts}")
    print(f"history: {record(**vars(options))}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
