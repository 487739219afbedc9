"""How long `jaxsel.explore` takes on a large pool, and how large its page is.

    python -m experiments.benchmarks.report [--num-prompts 1000000] [--steps 100] [--batch-size 8192]

The true success rates are drawn once and do not change; batches are random. The replay of the methods is timed on its
own, because it takes as long as for any other use. The second report compiles nothing.
"""

import sys
import time
from typing import Any

import jax
import numpy as np

import jaxsel
from experiments.running.command import module_parser, quiet_pipe
from jaxsel.report.explore import Report
from jaxsel.report.material import Material, of_methods, with_prompts
from jaxsel.report.tables import tables

_GROUP_SIZE, _PROBED, _PROBES = 8, 50_000, 11
_DIMENSIONS, _LABELS = 32, 4


def simulated(num_prompts: int, steps: int, batch_size: int) -> tuple[Material, float]:
    """Return a run with embeddings, texts, labels and the predictions of two methods, and the seconds of the replay."""
    rng = np.random.default_rng(0)
    truth = rng.beta(0.6, 0.6, num_prompts)
    ids = np.concatenate([rng.choice(num_prompts, batch_size, replace=False) for _ in range(steps)])
    successes = rng.binomial(_GROUP_SIZE, truth[ids])
    step = np.repeat(np.arange(steps), batch_size)
    history = jaxsel.make_history(step, ids, successes, _GROUP_SIZE, num_prompts=num_prompts)
    probed = np.tile(rng.choice(num_prompts, min(_PROBED, num_prompts), replace=False), _PROBES)
    clock = np.repeat(np.linspace(0, steps, _PROBES).astype(int), len(probed) // _PROBES)
    probes: dict[str, Any] = {"clock": clock, "prompt_id": probed, "truth": truth[probed]}
    probes |= {"successes": rng.binomial(_GROUP_SIZE, truth[probed]), "group_size": np.full(len(probed), _GROUP_SIZE)}
    methods = {"mopps": jaxsel.mopps(), "adaptive": jaxsel.adaptive()}
    start = time.perf_counter()
    found = of_methods(history, methods, num_prompts=num_prompts, probes=probes)
    seconds = time.perf_counter() - start
    texts = [f"What is {i} + {i % 97}?" for i in range(num_prompts)]
    embeddings = rng.normal(size=(num_prompts, _DIMENSIONS)).astype(np.float32)
    return with_prompts(found, texts, embeddings, [f"label {i % _LABELS}" for i in range(num_prompts)]), seconds


def timed(make: Any) -> tuple[str, float, float, float]:
    """Return the page, the seconds and processor seconds that it took, and its size in MB."""
    start, processor = time.perf_counter(), time.process_time()
    page = make().html
    return page, time.perf_counter() - start, time.process_time() - processor, len(page.encode()) / 1e6


def main(arguments: list[str]) -> None:
    """Print the times and sizes."""
    parser = module_parser("experiments.benchmarks.report", __doc__)
    parser.add_argument("--num-prompts", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8192)
    options = parser.parse_args(arguments)
    run, seconds = simulated(options.num_prompts, options.steps, options.batch_size)
    print(f"replay of two methods: {seconds:.1f} s")
    for name in ("first report", "second report"):
        _, wall, processor, size = timed(lambda: Report(tables(run), "a large pool"))
        print(f"{name}: {wall:.1f} s, {processor:.1f} s of processor time, {size:.2f} MB")
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=options.num_prompts)
    selector.observe(selector.select(options.batch_size), np.zeros(options.batch_size, int), _GROUP_SIZE)
    jax.block_until_ready(selector.predict())
    _, wall, processor, size = timed(lambda: jaxsel.explore(selector))
    print(f"report of a selector: {wall:.1f} s, {processor:.1f} s of processor time, {size:.2f} MB")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
