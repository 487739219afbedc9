"""A selector on a pool that the processes of a SLURM job share: writes its choices and a checkpoint to a folder."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

import jaxsel

NUM_PROMPTS, BATCH, METHOD = 101, 8, jaxsel.dps(entropy_weight=0.3)


def play(selector: jaxsel.PromptSelector, steps: int) -> list[list[int]]:
    """Return the prompts that the selector chooses, when the success of a rollout depends on prompt and step alone."""
    chosen = []
    for step in range(steps):
        ids = selector.select(BATCH)
        rng = np.random.default_rng(step)
        selector.observe(ids, rng.binomial(8, 0.1 + 0.8 * (np.asarray(ids) % 7) / 6), 8)
        chosen.append(np.asarray(ids).tolist())
    return chosen


def make(mesh: jax.sharding.Mesh | None = None) -> jaxsel.PromptSelector:
    """Return the selector that both the job and a single process play with."""
    return jaxsel.PromptSelector(METHOD, num_prompts=NUM_PROMPTS, seed=3, mesh=mesh)


if __name__ == "__main__":
    jaxsel.initialize_distributed()
    folder, selector = Path(sys.argv[1]), make(jaxsel.prompts_mesh())
    found = {"processes": jax.process_count(), "chosen": play(selector, 6)}
    selector.save(folder / "checkpoint")
    found["metrics"] = selector.metrics()
    if jax.process_index() == 0:
        (folder / "found.json").write_text(json.dumps(found))
