"""What a training step costs: choose a batch among the whole pool, and take in its outcome.

    python -m experiments.benchmarks.select_observe --sizes 10000 100000 1000000

Every method of jaxsel through `PromptSelector`, beside the same method in NumPy, in per-prompt Python loops and
with `jax.random.beta` (peers.py): one process, the same outcomes, turn by turn, medians after a warm-up. Also what
saving and loading cost, and one Beta draw a prompt. Writes benchmark_select_observe.json and .png.
"""

import argparse
import functools
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from rich.console import Console

import jaxsel
import jaxsel.random
from experiments.benchmarks import peers, report
from experiments.provenance import RESULTS, provenance, write_result

METHODS = {
    "uniform": jaxsel.uniform,
    "mopps": functools.partial(jaxsel.mopps, decay=peers.MOPPS_DECAY),
    "threshold": jaxsel.threshold,
    "dps": functools.partial(jaxsel.dps, decay=peers.DPS_DECAY),
}
PEERS: dict[str, dict[str, Callable[[int, int], "Contender"]]] = {
    "uniform": {"numpy": peers.NumpyUniform},
    "mopps": {
        "numpy": peers.NumpyMopps,
        "jax.random.beta": peers.JaxBetaMopps,
        "dictionary": peers.DictionaryMopps,
    },
    "threshold": {"numpy": peers.NumpyThreshold},
    "dps": {"numpy": peers.NumpyDps, "dictionary": peers.DictionaryDps},
}
WARM_UPS = 3
HISTORY = 5  # random batches that everyone has observed before, so that the pool is not all ties


class Contender(Protocol):
    """One implementation of one method."""

    def select(self, batch_size: int) -> np.ndarray:
        """Chooses distinct prompts."""
        ...

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Takes in their outcome; returns when that is done."""
        ...


class Ours:
    """A `PromptSelector` that waits for the device."""

    def __init__(self, selector: jaxsel.Selector, num_prompts: int, seed: int):
        self.selector = jaxsel.PromptSelector(selector, num_prompts=num_prompts, seed=seed)

    @property
    def state(self) -> Any:
        """The belief, which no public function waits for."""
        return self.selector._state

    def select(self, batch_size: int) -> np.ndarray:
        """Chooses distinct prompts."""
        return self.selector.select(batch_size)

    def observe(self, prompt_ids: np.ndarray, successes: np.ndarray, group_size: int) -> None:
        """Takes in their outcome; `PromptSelector.observe` alone returns while the device still works."""
        self.selector.observe(prompt_ids, successes, group_size)
        self.selector.wait()


def main(arguments: list[str] | None = None) -> None:
    config = vars(_parser().parse_args(arguments))
    path = config.pop("output") / "benchmark_select_observe.json"
    load = [os.getloadavg()[0]]
    results: dict[str, list[dict[str, Any]]] = {"steps": [], "checkpoints": [], "beta_draws": []}
    for size in config["sizes"]:
        for method in METHODS:
            results["steps"] += time_steps(method, size, **_step_options(config))
        results["checkpoints"] += [time_checkpoint(name, size, config["seed"]) for name in ("mopps", "dps")]
        results["beta_draws"] += time_beta_draws(size, config["repeats"], config["seed"])
    load.append(os.getloadavg()[0])
    head = provenance(config, config["seed"])
    write_result(path, {**head, "load_average": load, "unit": "ms, medians", "results": results})
    figure = report.draw(results["steps"], path.with_suffix(".png"), batch_size=config["batch_size"])
    console = Console()
    for table in report.tables(results):
        console.print(table)
    console.print(f"load average {load[0]:.1f} before, {load[1]:.1f} after; wrote {path} and {figure.name}")


def time_steps(
    method: str,
    num_prompts: int,
    *,
    batch_size: int = 256,
    repeats: int = 30,
    largest_dictionary: int = 100_000,
    seconds: float = 10.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row an implementation of the method: median milliseconds of select, of observe and of both.

    Args:
        method: one of `METHODS`.
        num_prompts: size of the pool.
        batch_size: prompts a step.
        repeats: steps an implementation.
        largest_dictionary: pools above have no `dictionary` row: it grows in proportion.
        seconds: who has taken as long takes no further turn.
        seed: of the outcomes and of all choices.
    """
    rng = np.random.default_rng(seed)
    successes = _outcomes(num_prompts, seed)
    past = [rng.choice(num_prompts, batch_size, replace=False).astype(np.int32) for _ in range(HISTORY)]
    contenders = make_contenders(method, num_prompts, seed, with_dictionary=num_prompts <= largest_dictionary)
    for contender in contenders.values():
        for ids in past:
            contender.observe(ids, successes[ids], peers.GROUP_SIZE)
        for _ in range(WARM_UPS):
            _step(contender, batch_size, successes)
    times = _take_turns(contenders, batch_size, successes, repeats, seconds)
    return [
        {"method": method, "num_prompts": num_prompts, "implementation": name, **_summary(taken)}
        for name, taken in times.items()
    ]


def make_contenders(method: str, num_prompts: int, seed: int, *, with_dictionary: bool) -> dict[str, Contender]:
    """The method in jaxsel and its peers, by name."""
    contenders: dict[str, Contender] = {"jaxsel": Ours(METHODS[method](), num_prompts, seed)}
    for name, peer in PEERS[method].items():
        if name != "dictionary" or with_dictionary:
            contenders[name] = peer(num_prompts, seed)
    return contenders


def time_checkpoint(method: str, num_prompts: int, seed: int) -> dict[str, Any]:
    """Median milliseconds of three saves and three loads, and bytes a prompt, in the state and on disk."""
    ours = Ours(METHODS[method](), num_prompts, seed)
    # the whole pool, visited: what nobody has visited is zeros, which the disk compresses away
    ours.observe(np.arange(num_prompts), _outcomes(num_prompts, seed), peers.GROUP_SIZE)
    saves, loads = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            saves.append(_milliseconds(lambda: ours.selector.save(folder)))
            loads.append(_milliseconds(lambda: _load(folder, method, num_prompts)))
        on_disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {
        "method": method,
        "num_prompts": num_prompts,
        "save": float(np.median(saves)),
        "load": float(np.median(loads)),
        "state_bytes_per_prompt": sum(leaf.nbytes for leaf in jax.tree.leaves(ours.state)) / num_prompts,
        "disk_bytes_per_prompt": on_disk / num_prompts,
    }


def time_beta_draws(num_prompts: int, repeats: int, seed: int) -> list[dict[str, Any]]:
    """Median milliseconds of one Beta draw a prompt, as parameters of a half-trained pool have it."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(1, 17, (2, num_prompts)).astype(np.float32)
    ours, theirs = jax.jit(jaxsel.random.beta), jax.jit(jax.random.beta)
    key = jax.random.key(seed)
    draws = {
        "jaxsel": lambda: ours(key, a, b).block_until_ready(),
        "numpy": lambda: rng.beta(a, b),
        "jax.random.beta": lambda: theirs(key, a, b).block_until_ready(),
    }
    for draw in draws.values():
        draw()
    times = {name: [] for name in draws}
    for _ in range(min(repeats, 10)):
        for name, draw in draws.items():
            times[name].append(_milliseconds(draw))
    return [
        {"num_prompts": num_prompts, "implementation": name, "both": float(np.median(taken))}
        for name, taken in times.items()
    ]


def _outcomes(num_prompts: int, seed: int) -> np.ndarray:
    """What every group of a prompt gives: many unsolved, many solved, half of them mixed."""
    rng = np.random.default_rng(seed)
    return rng.binomial(peers.GROUP_SIZE, rng.beta(0.5, 0.5, num_prompts)).astype(np.int32)


def _take_turns(
    contenders: dict[str, Contender], batch_size: int, successes: np.ndarray, repeats: int, seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """Everyone steps once in every round, so that what disturbs the machine disturbs all of them."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, contender in contenders.items():
                if not times[name] or np.sum(times[name]) < 1000 * seconds:
                    times[name].append(_step(contender, batch_size, successes))
    finally:
        gc.enable()
    return times


def _step(contender: Contender, batch_size: int, successes: np.ndarray) -> tuple[float, float]:
    """One training step, and the milliseconds of its two halves."""
    start = time.perf_counter()
    ids = contender.select(batch_size)
    between = time.perf_counter()
    outcome = successes[ids]
    resumed = time.perf_counter()
    contender.observe(ids, outcome, peers.GROUP_SIZE)
    return 1000 * (between - start), 1000 * (time.perf_counter() - resumed)


def _summary(taken: list[tuple[float, float]]) -> dict[str, Any]:
    select, observe = np.array(taken).T
    quartiles = np.percentile(select + observe, [25, 50, 75]).tolist()
    return {
        "select": float(np.median(select)),
        "observe": float(np.median(observe)),
        "both": quartiles[1],
        "quartiles": [quartiles[0], quartiles[2]],
        "repeats": len(taken),
    }


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _load(folder: str, method: str, num_prompts: int) -> None:
    jaxsel.PromptSelector.load(folder, METHODS[method](), num_prompts=num_prompts).wait()


def _step_options(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "sizes"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="of the pool")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=30, help="steps an implementation")
    parser.add_argument("--seconds", type=float, default=10.0, help="no further turn after as long")
    parser.add_argument("--largest-dictionary", type=int, default=100_000, help="pool of per-prompt loops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    return parser


if __name__ == "__main__":
    main()
