"""How long a call to jaxsel's Ray server takes, compared with the same call in the caller's own process.

    make ray
    .venv-ray/bin/python -m experiments.ray_latency [--pool 100000] [--batch 256] [--calls 100]

Two selection methods, mopps and dps, choose batches and observe 8 rewards per prompt of each batch. The times are
wall-clock milliseconds per call. The server writes every call to its journal on disk before it answers, and saves its
whole state at every tenth `observe`. Without the server, `observe` returns before the device has finished its
computation.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import jaxsel
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.tables import text_table
from experiments.running.command import module_parser, quiet_pipe
from jaxsel.integrations.edge import TrainerEdge

GROUP = 8  # rewards per prompt
METHODS = {"mopps": jaxsel.mopps, "dps": jaxsel.dps}
_WARM_UP = 5  # untimed first calls, in which JAX compiles


def main(arguments: list[str]) -> None:
    """Time both ways of calling each method, print a table and write the result."""
    parser = module_parser("experiments.ray_latency", __doc__)
    parser.add_argument("--pool", type=int, default=100_000, help="prompts")
    parser.add_argument("--batch", type=int, default=256, help="prompts per call")
    parser.add_argument("--calls", type=int, default=100, help="timed calls of each kind")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    config = vars(parser.parse_args(arguments))
    output = config.pop("output")
    found = measure(**config)
    rows = [
        [f"{method}, {call}", *(f"{times['median']:.1f} ({times['95%']:.1f})" for times in both.values())]
        for method, calls in found.items()
        for call, both in calls.items()
    ]
    print(text_table("milliseconds per call: median (95th percentile)", ["call", "server", "in process"], rows))
    write_result(output / "ray_latency.json", provenance(config, 0) | {"milliseconds": found})


def measure(pool: int, batch: int, calls: int) -> dict[str, Any]:
    """Return milliseconds per call by method, call and place ("server" or "process"): median and 95th percentile."""
    import ray  # pyright: ignore[reportMissingImports]

    from jaxsel.integrations.ray import serve

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    found: dict[str, Any] = {}
    try:
        for name, method in METHODS.items():

            def make(method: Callable[[], jaxsel.Selector] = method) -> jaxsel.PromptSelector:
                return jaxsel.PromptSelector(method(), num_prompts=pool, seed=0, track_in_flight=True)

            with tempfile.TemporaryDirectory() as folder:
                server = serve(name, make, folder=folder)
                places = {"server": timed(server, batch, calls)}
                server.stop()
            places["process"] = timed(TrainerEdge(make()), batch, calls)
            kinds = ("next_batch", "observe")
            found[name] = {kind: {place: times[kind] for place, times in places.items()} for kind in kinds}
    finally:
        ray.shutdown()
    return found


def timed(selector: Any, batch: int, calls: int) -> dict[str, dict[str, float]]:
    """Return the times of `next_batch` and `observe` of a Ray server or of a `TrainerEdge` in this process."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"next_batch": [], "observe": []}
    for _ in range(_WARM_UP + calls):
        start = time.perf_counter()
        ids = selector.next_batch(batch)
        chosen = time.perf_counter()
        rewards = rng.integers(0, 2, (len(ids), GROUP)).astype(float)
        ready = time.perf_counter()
        selector.observe(ids, rewards)
        end = time.perf_counter()
        seconds["next_batch"].append(chosen - start)
        seconds["observe"].append(end - ready)
    return {call: summary(times[_WARM_UP:]) for call, times in seconds.items()}


def summary(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 95th percentile in milliseconds."""
    return {"median": 1000 * float(np.median(seconds)), "95%": 1000 * float(np.quantile(seconds, 0.95))}


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
