"""The cost of selection, compared with other implementations and with the limit of the machine.

    python -m experiments.benchmarks                                  # 1e4 to 1e7 prompts
    python -m experiments.benchmarks --sizes 10000 100000 --repeats 10

For every method of selection, the benchmark measures choosing a batch (select), learning from its outcomes (observe)
and predicting the whole pool (predict), the time to save and load, and the memory. It compares jaxsel (through
`PromptSelector`, and its compiled functions alone) with NumPy, torch, plain JAX and Python loops. All implementations
take turns in one process on the same observations; times are medians after a warm-up. The command writes
benchmark.json and benchmark.png.
"""

import argparse
import os
from typing import Any

from experiments.benchmarks import figure, run, tables
from experiments.benchmarks.checkpoints import time_checkpoints, time_keys
from experiments.benchmarks.targets import cpu_targets
from experiments.benchmarks.timing import make_data
from experiments.reporting.provenance import provenance, write_result
from experiments.running.command import quiet_pipe


def main(arguments: list[str] | None = None) -> None:
    """Measure everything, print the tables and write the results and the figure."""
    config = vars(_parser().parse_args(arguments))
    output = config.pop("output")
    load = [os.getloadavg()[0]]
    results: dict[str, list[dict[str, Any]]] = {"times": [], "streams": [], "bytes": [], "memory": []}
    results["memory"] = run.measure_memory(config)
    for size in config["sizes"]:
        data = make_data(size, config["observe"], config["seed"])
        for method in config["methods"]:
            print(f"{method}, {size:,} prompts ...", flush=True)
            times, stream = run.time_method(method, size, data, config)
            disk, sizes = time_checkpoints(method, size, data, seed=config["seed"])
            results["times"] += times + disk
            results["streams"].append(stream)
            results["bytes"].append(sizes)
        if "mopps" in config["methods"]:
            times, sizes = time_keys(size, data, seed=config["seed"])
            results["times"] += times
            results["bytes"].append(sizes)
        if "threshold" in config["methods"] and size <= config["largest_slow"]:
            results["times"].append(run.time_one_draw(size, data))
    load.append(os.getloadavg()[0])
    targets = cpu_targets(results["times"], results["memory"])
    head = provenance(config, config["seed"]) | {"load_average": load, "unit": "ms, medians"}
    path = output / "benchmark.json"
    # "bars" is the key of targets in the committed results
    write_result(path, {**head, "bars": [target.as_dict() for target in targets], "results": results})
    title = f"{config['select']:,} of the pool chosen, {config['observe']:,} observed, {os.cpu_count()} CPU cores"
    figure.draw(results["times"], path.with_suffix(".png"), title=title)
    print(tables.LEGEND)
    for table in tables.time_tables(results["times"]):
        print(f"\n{table}")
    print(f"\n{tables.streaming_table(results['times'])}")
    print(f"\n{tables.bytes_table(results['bytes'], results['memory'])}")
    print(f"\n{tables.targets_table(targets)}")
    print(f"\nload average {load[0]:.1f} before, {load[1]:.1f} after; wrote {path} and {path.stem}.png")


def _parser() -> argparse.ArgumentParser:
    return run.make_parser("experiments.benchmarks", __doc__, sizes=[10**4, 10**5, 10**6, 10**7], seconds=10.0)


if __name__ == "__main__":
    with quiet_pipe():
        main()
