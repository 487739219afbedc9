"""What methods with embeddings cost: seconds and bytes of an update, a selection and a prediction of the whole pool.

    python -m experiments.embedding_cost [--sizes 10000 100000 1000000] [--methods gps adaptive]

Both methods predict the success rates of all prompts from their embeddings: `gps` by a network whose decoder maps each
embedding to its rate, `adaptive` by one product of the embeddings with its weights. Embeddings are random numbers in
float16, and batches have 256 prompts; every method and pool size has a process of its own. "Reading" finds the largest
of the embeddings' words, taken as integers: no prediction can take less time than this.

Claim: the prediction of a pool of 1e6 prompts takes less than 1 GiB beside its embeddings. The time of a prediction
grows in proportion to the pool, and the time of an update does not grow.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from experiments.benchmarks.clock import median_milliseconds
from experiments.benchmarks.memory import resident_bytes
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.tables import text_table
from experiments.running.command import module_parser, quiet_pipe

BATCH, GROUP_SIZE = 256, 8
SELECTORS: dict[str, Callable[[np.ndarray], jaxsel.Selector]] = {"gps": jaxsel.gps, "adaptive": jaxsel.adaptive}
_MIB = 2**20


def main(arguments: list[str]) -> None:
    """Measure every method and size, print a table and write the result."""
    options = _parser().parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.methods[0], options.one, options.features, options.repeats)))
        return
    rows = [
        _in_process(method, size, options)
        for method, size in itertools.product(options.methods, map(int, options.sizes))
    ]
    print(_table(rows))
    config = {"features": options.features, "dtype": "float16", "batch_size": BATCH, "repeats": options.repeats}
    path = options.out / f"embedding_cost{'_gpu' if jax.default_backend() == 'gpu' else ''}.json"
    write_result(path, provenance(config, 0) | {"rows": rows})
    print(f"written: {path}")


def measure(method: str, num_prompts: int, num_features: int, repeats: int) -> dict[str, Any]:
    """Return the median seconds and the bytes of one method in a pool of one size."""
    rng = np.random.default_rng(0)
    selector = SELECTORS[method](_embeddings(rng, num_prompts, num_features))
    key = jax.random.key(0)
    state = selector.init(key, num_prompts)
    jax.block_until_ready(state)
    rollouts = _batch(rng, num_prompts)
    start = time.perf_counter()
    update = jax.jit(selector.update, donate_argnums=1).lower(key, state, rollouts).compile()
    rates = jax.jit(lambda key, state: selector.predict(key, state, None).success_rate).lower(key, state).compile()
    everything = jax.jit(lambda key, state: selector.predict(key, state, None)).lower(key, state).compile()
    select = jax.jit(selector.select, static_argnums=2).lower(key, state, BATCH).compile()
    compilation = time.perf_counter() - start
    seconds = {"reading": _median(_reading(state.embeddings), repeats)}
    before = resident_bytes("VmRSS")

    def updated() -> Any:
        nonlocal state
        state = update(key, state, _batch(rng, num_prompts))
        return state

    seconds["update"] = _median(updated, repeats)
    seconds["predict the success rates"] = _median(lambda: rates(key, state), repeats)
    seconds["predict everything"] = _median(lambda: everything(key, state), repeats)
    seconds[f"select {BATCH}"] = _median(lambda: select(key, state), repeats)
    return {
        "method": method,
        "num_prompts": num_prompts,
        "embedding_bytes": num_prompts * num_features * 2,
        "peak_bytes_beside": _device_peak() or resident_bytes("VmHWM") - before,
        "temporary_bytes": {"update": _temporary(update), "predict": _temporary(rates), "select": _temporary(select)},
        "compilation_seconds": compilation,
        "seconds": seconds,
    }


def _reading(embeddings: jax.Array) -> Callable[[], Any]:
    """Return the quickest way known here to read all bytes: NumPy on a CPU, and JAX elsewhere."""
    if jax.default_backend() == "cpu":
        words = np.asarray(embeddings).reshape(-1).view(np.uint16)
        words = words[: len(words) // 4 * 4].view(np.uint64)
        return lambda: words.max()
    largest = jax.jit(lambda embeddings: jax.lax.bitcast_convert_type(embeddings, jnp.uint16).max())
    return lambda: largest(embeddings)


def _embeddings(rng: np.random.Generator, num_prompts: int, num_features: int) -> np.ndarray:
    embeddings = np.empty((num_prompts, num_features), np.float16)
    for start in range(0, num_prompts, 2**16):
        embeddings[start : start + 2**16] = rng.standard_normal(embeddings[start : start + 2**16].shape, np.float32)
    return embeddings


def _batch(rng: np.random.Generator, num_prompts: int) -> jaxsel.Rollouts:
    columns = rng.choice(num_prompts, BATCH), rng.integers(0, GROUP_SIZE + 1, BATCH), np.full(BATCH, GROUP_SIZE)
    return jaxsel.Rollouts(*(jnp.array(column, jnp.int32) for column in columns))


def _median(run: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds until the result of a call is there."""
    return median_milliseconds(lambda: jax.block_until_ready(run()), repeats) / 1000


def _device_peak() -> int:
    """Return the peak of a GPU's allocations less the allocations in use; 0 where the device does not report them."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0) and stats["peak_bytes_in_use"] - stats["bytes_in_use"]


def _temporary(compiled: Any) -> int:
    return int(compiled.memory_analysis().temp_size_in_bytes)


def _in_process(method: str, num_prompts: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.embedding_cost", "--one", str(num_prompts), "--methods", method]
    command += ["--features", str(options.features), "--repeats", str(options.repeats)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _table(rows: list[dict[str, Any]]) -> str:
    lines = {}
    for name in rows[0]["seconds"]:
        lines[f"{name}, ms"] = [f"{1e3 * row['seconds'][name]:,.1f}" for row in rows]
    lines["compilation of these, s"] = [f"{row['compilation_seconds']:.1f}" for row in rows]
    lines["embeddings, MiB"] = [f"{row['embedding_bytes'] / _MIB:,.0f}" for row in rows]
    lines["peak beside them, MiB"] = [f"{row['peak_bytes_beside'] / _MIB:,.0f}" for row in rows]
    columns = ["medians", *(f"{row['method']} {row['num_prompts']:,}" for row in rows)]
    return text_table(
        f"methods with embeddings on {jax.devices()[0].device_kind}",
        columns,
        [[name, *cells] for name, cells in lines.items()],
    )


def _parser() -> argparse.ArgumentParser:
    parser = module_parser("experiments.embedding_cost", __doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e4, 1e5, 1e6], help="prompts in the pool")
    parser.add_argument("--methods", nargs="+", choices=SELECTORS, default=list(SELECTORS))
    parser.add_argument("--features", type=int, default=256, help="numbers per embedding")
    parser.add_argument("--repeats", type=int, default=7, help="measurements per median")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
