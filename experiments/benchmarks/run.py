"""One benchmark run: its options, and the times of all implementations in one process."""

import argparse
from pathlib import Path
from typing import Any

from experiments.benchmarks import contenders, memory, timing
from experiments.benchmarks.clock import median_milliseconds
from experiments.benchmarks.jaxsel_calls import SELECTORS
from experiments.benchmarks.peers.python_peers import ListSampler
from experiments.benchmarks.streaming import Copy, streams
from experiments.benchmarks.timing import Data, Row, take_turns
from experiments.reporting.provenance import RESULTS
from experiments.running.command import module_parser


def make_parser(module: str, description: str | None, *, sizes: list[int], seconds: float) -> argparse.ArgumentParser:
    """Return a parser of the options of a run, with the defaults that the CPU and the GPU benchmark set differently."""
    parser = module_parser(module, description)
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="sizes of the pool")
    parser.add_argument("--methods", nargs="+", choices=SELECTORS, default=list(SELECTORS))
    parser.add_argument(
        "--select",
        type=int,
        default=8192,
        help="prompts chosen; pools of less than ten times this number use the number of --observe",
    )
    parser.add_argument("--observe", type=int, default=1024, help="prompts observed")
    parser.add_argument("--repeats", type=int, default=30, help="turns of every implementation")
    parser.add_argument("--seconds", type=float, default=seconds, help="an implementation stops after this time")
    parser.add_argument(
        "--largest-slow",
        type=int,
        default=10**6,
        help="largest pool for loops in Python, jax.random.beta, TensorFlow Probability and Dynamax",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    return parser


def select_size(num_prompts: int, config: dict[str, Any]) -> int:
    """Return the number of prompts to choose; a pool of less than ten batches uses the number that is observed."""
    return config["select"] if num_prompts >= 10 * config["select"] else config["observe"]


def time_method(
    method: str, num_prompts: int, data: Data, config: dict[str, Any], *, device: str = "cpu"
) -> tuple[list[Row], Row]:
    """Return the times of one method's select, observe and predict, and the kind of plain copy to compare each with.

    A copy of as many bytes is the least time that an operation can take, because it only reads and writes memory.
    """
    copy = Copy(method, num_prompts)
    everyone = contenders.make_contenders(
        method, num_prompts, config["seed"], largest_slow=config["largest_slow"], device=device
    )
    everyone["copy"] = copy
    times = take_turns(
        everyone,
        data,
        select_size=select_size(num_prompts, config),
        repeats=config["repeats"],
        seconds=config["seconds"],
    )
    fused = {name for name, contender in everyone.items() if contender.fused}
    labels = {"method": method, "num_prompts": num_prompts}
    found = timing.rows(times, fused, **labels)
    found = [row for row in found if row["implementation"] != "copy" or streams(method, row["operation"])]
    return found, {**labels, **copy.kind}


def time_one_draw(num_prompts: int, data: Data) -> Row:
    """Return the time of drawing one prompt from a list. Whole batches are drawn this way in small pools only."""
    sampler = ListSampler(num_prompts, seed=0)
    timing.replay(sampler, data)
    labels = {"method": "threshold", "num_prompts": num_prompts, "operation": "one prompt", "implementation": "list"}
    return {**labels, "ms": median_milliseconds(sampler.draw, repeats=3), "repeats": 3}


def measure_memory(config: dict[str, Any]) -> list[Row]:
    """Return every method's peak memory of a training step, at the largest pool."""
    size = max(config["sizes"])
    batch = {"select_size": select_size(size, config), "observe_size": config["observe"]}
    return [memory.measure(method, size, **batch) for method in config["methods"]]
