"""The benchmark of selection on a GPU: times, bytes moved, share of a plain copy's bandwidth, agreement with the CPU.

    make gpu PYTHON=python3      # uses the given Python and installs nothing

This module writes benchmark_gpu.json and, if Matplotlib is installed, benchmark_gpu.png. It ends with an error if JAX
sees no GPU. `make gpu` also runs the tests for a GPU and two other experiments.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import rl  # noqa: F401  (imported before JAX first uses its devices: it makes JAX share the GPU with torch)
from experiments.benchmarks import run, tables
from experiments.benchmarks.jaxsel_calls import Kernels
from experiments.benchmarks.targets import gpu_targets
from experiments.benchmarks.timing import Data, Row, make_data, replay
from experiments.reporting.provenance import provenance, write_result
from experiments.reporting.tables import text_table
from experiments.running.command import quiet_pipe

try:
    from experiments.benchmarks import figure
except ImportError:
    figure = None

_OUT_OF_MEMORY = ("resource_exhausted", "out of memory")


def main(arguments: list[str] | None = None) -> None:
    """Measure on the GPU, or end with an error if JAX sees none."""
    config = vars(_parser().parse_args(arguments))
    if jax.default_backend() != "gpu":
        sys.exit(
            f"make gpu: JAX sees no GPU, only {jax.devices()[0].device_kind}; nothing was measured. "
            "Run it on a machine with a GPU, with a JAX built for it."
        )
    output = config.pop("output")
    lane(config, output, torch_device="cuda")


def lane(config: dict[str, Any], output: Path, *, torch_device: str) -> None:
    """Measure on JAX's default device, print the tables and write the results."""
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    print(device.device_kind + (f", {memory / 2**30:.0f} GiB for JAX" if memory else ""), flush=True)
    results: dict[str, list[Row]] = {"times": [], "streams": [], "parity": []}
    for size in config["sizes"]:
        data = make_data(size, config["observe"], config["seed"])
        for method in config["methods"]:
            print(f"{method}, {size:,} prompts ...", flush=True)
            try:
                times, stream = run.time_method(method, size, data, config, device=torch_device)
            except RuntimeError as error:
                if not any(words in str(error).lower() for words in _OUT_OF_MEMORY):
                    raise
                print(f"{method}, {size:,} prompts: left out, does not fit into memory", flush=True)
                continue
            results["times"] += times
            results["streams"].append(stream)
            if size <= config["largest_parity"]:
                results["parity"].append(parity(method, size, data, config))
    if not results["times"]:
        sys.exit("make gpu: no pool fits into memory; nothing was measured. Give smaller --sizes.")
    _write(config, results, output, device.device_kind)


def parity(method: str, num_prompts: int, data: Data, config: dict[str, Any]) -> Row:
    """Return the share of prompts that the default device and the CPU both choose, after the same observations."""
    size = run.select_size(num_prompts, config)
    chosen = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            kernels = Kernels(method, num_prompts, config["seed"])
            replay(kernels, data)
            chosen.append(np.asarray(kernels.select(size)))
    return {"method": method, "num_prompts": num_prompts, "same": len(np.intersect1d(*chosen)) / size}


def _write(config: dict[str, Any], results: dict[str, list[Row]], output: Path, device_kind: str) -> None:
    targets = gpu_targets(results["times"])
    head = provenance(config, config["seed"]) | {"unit": "ms, medians"}
    path = output / "benchmark_gpu.json"
    write_result(path, {**head, "bars": [target.as_dict() for target in targets], "results": results})
    print(tables.LEGEND)
    for table in tables.time_tables(results["times"]):
        print(f"\n{table}")
    print(f"\n{tables.streaming_table(results['times'])}")
    print(f"\n{_parity_table(results['parity'])}")
    print(f"\n{tables.targets_table(targets)}")
    if figure is None:
        print("\nno figure: matplotlib is not installed")
    else:
        title = f"{config['select']:,} prompts chosen and {config['observe']:,} observed per step, {device_kind}"
        figure.draw(results["times"], path.with_suffix(".png"), title=title)
    print(f"\nwrote {path}")


def _parity_table(rows: list[Row]) -> str:
    lines = [[row["method"], f"{row['num_prompts']:,}", f"{row['same']:.2%}"] for row in rows]
    return text_table("prompts chosen by the GPU and by the CPU", ["method", "pool", "in both"], lines)


def _parser() -> argparse.ArgumentParser:
    parser = run.make_parser("experiments.benchmarks.gpu", __doc__, sizes=[10**6, 10**7, 10**8], seconds=5.0)
    parser.add_argument(
        "--largest-parity", type=int, default=10**7, help="largest pool whose choices are compared with the CPU's"
    )
    return parser


if __name__ == "__main__":
    with quiet_pipe():
        main()
