"""What GPS costs: seconds and bytes of an update, a selection and a prediction of the whole pool.

    python -m experiments.gps_cost [--sizes 10000 100000 1000000]

GPS predicts the success rates of all prompts with one network, whose decoder maps each prompt's embedding to its rate.
Embeddings are 256 random numbers in float16, and batches have 256 prompts; every pool size has a process of its own.
The peak rate is measured in the same process by a multiplication of 4096 x 4096 matrices in float32. A prediction's
share of the peak counts the multiplications of the decoder alone, without look-ups, draws and additions.

Claim: the prediction of a pool of 1e6 prompts takes less than 1 GiB beside its embeddings. The time of a prediction
grows in proportion to the pool, and the time of an update does not grow.
"""

import argparse
import json
import statistics
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
from experiments.benchmarks.memory import resident_bytes
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.tables import text_table
from experiments.running.command import quiet_pipe

FEATURES, BATCH, GROUP_SIZE, WIDTH, DRAWS = 256, 256, 8, 64, 10


def main(arguments: list[str]) -> None:
    """Measure every size, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one, options.repeats)))
        return
    rows = [_in_process(size, options.repeats) for size in options.sizes]
    print(_table(rows))
    config = {"features": FEATURES, "dtype": "float16", "batch_size": BATCH, "repeats": options.repeats}
    gpu = "_gpu" if jax.default_backend() == "gpu" else ""
    path = options.out / f"gps_cost{gpu}.json"
    write_result(path, provenance(config, 0) | {"rows": rows})
    print(f"written: {path}")


def measure(num_prompts: int, repeats: int) -> dict[str, Any]:
    """Return the median seconds and the bytes of one pool size."""
    rng = np.random.default_rng(0)
    embeddings = np.empty((num_prompts, FEATURES), np.float16)
    for start in range(0, num_prompts, 2**16):
        embeddings[start : start + 2**16] = rng.standard_normal(embeddings[start : start + 2**16].shape, np.float32)
    selector = jaxsel.gps(embeddings, num_draws=DRAWS, width=WIDTH)
    key = jax.random.key(0)
    state = selector.init(key, num_prompts)
    del embeddings
    update = jax.jit(selector.update, donate_argnums=1).lower(key, state, _batch(rng, num_prompts)).compile()
    rates = jax.jit(lambda key, state: selector.predict(key, state, None).success_rate).lower(key, state).compile()
    everything = jax.jit(lambda key, state: selector.predict(key, state, None)).lower(key, state).compile()
    select = jax.jit(selector.select, static_argnums=2).lower(key, state, BATCH).compile()
    before, seconds = resident_bytes("VmRSS"), {}

    def updated() -> Any:
        nonlocal state
        state = update(key, state, _batch(rng, num_prompts))
        return state

    seconds["update"] = _median(updated, repeats)
    seconds["predict the success rates"] = _median(lambda: rates(key, state), repeats)
    seconds["predict everything"] = _median(lambda: everything(key, state), repeats)
    seconds["select 256"] = _median(lambda: select(key, state), repeats)
    grown = _device_peak() or resident_bytes("VmHWM") - before
    peak = _matmul_peak(repeats)
    multiplications = num_prompts * ((FEATURES + 1) * (WIDTH + 2) + DRAWS * WIDTH * (WIDTH + 2))
    return {
        "num_prompts": num_prompts,
        "embedding_bytes": num_prompts * FEATURES * 2,
        "peak_bytes_beside": grown,
        "temporary_bytes": {"update": _temporary(update), "predict": _temporary(rates), "select": _temporary(select)},
        "seconds": seconds,
        "matmul_peak_gflops": peak / 1e9,
        "share_of_peak": 2 * multiplications / seconds["predict the success rates"] / peak,
    }


def _batch(rng: np.random.Generator, num_prompts: int) -> jaxsel.Rollouts:
    columns = rng.choice(num_prompts, BATCH), rng.integers(0, GROUP_SIZE + 1, BATCH), np.full(BATCH, GROUP_SIZE)
    return jaxsel.Rollouts(*(jnp.array(column, jnp.int32) for column in columns))


def _median(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _matmul_peak(repeats: int, size: int = 4096) -> float:
    """Return the floating-point operations per second of a matrix multiplication."""
    matrix = jnp.ones((size, size))
    return 2 * size**3 / _median(lambda: jax.jit(jnp.matmul)(matrix, matrix), repeats)


def _device_peak() -> int:
    """Return the peak of a GPU's allocations less the allocations in use; 0 where the device does not report them."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0) and stats["peak_bytes_in_use"] - stats["bytes_in_use"]


def _temporary(compiled: Any) -> int:
    return int(compiled.memory_analysis().temp_size_in_bytes)


def _in_process(num_prompts: int, repeats: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.gps_cost", "--one", str(num_prompts), "--repeats", str(repeats)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _table(rows: list[dict[str, Any]]) -> str:
    lines = {}
    for name in rows[0]["seconds"]:
        lines[f"{name}, ms"] = [f"{1e3 * row['seconds'][name]:,.1f}" for row in rows]
    lines["embeddings, MiB"] = [f"{row['embedding_bytes'] / 2**20:,.0f}" for row in rows]
    lines["peak beside them, MiB"] = [f"{row['peak_bytes_beside'] / 2**20:,.0f}" for row in rows]
    lines["matmul peak, GFLOP/s"] = [f"{row['matmul_peak_gflops']:,.0f}" for row in rows]
    lines["prediction's share of it"] = [f"{row['share_of_peak']:.0%}" for row in rows]
    columns = ["prompts", *(f"{row['num_prompts']:,}" for row in rows)]
    title = f"GPS on {jax.devices()[0].device_kind}, medians"
    return text_table(title, columns, [[name, *cells] for name, cells in lines.items()])


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
