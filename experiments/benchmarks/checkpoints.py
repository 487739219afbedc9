"""The time to save and load a `PromptSelector`, and its bytes per prompt."""

import tempfile
from pathlib import Path
from typing import Any

import jaxsel
from experiments.benchmarks.clock import median_milliseconds
from experiments.benchmarks.jaxsel_calls import SELECTORS, PublicClass
from experiments.benchmarks.timing import Data, Row, replay
from jaxsel.runtime.pool import identify_pool


def time_checkpoints(method: str, num_prompts: int, data: Data, *, seed: int) -> tuple[list[Row], Row]:
    """Return rows with the times of save and load, and a row of bytes per prompt: state, all arrays, and on disk."""
    public = PublicClass(method, num_prompts, seed)
    # Without visits, the state would be zeros, which a checkpoint compresses: the size on disk would be too small.
    replay(public, data)
    times, sizes = _saved_and_loaded(public, method)
    labels: dict[str, Any] = {"method": method, "num_prompts": num_prompts}
    return [_row(labels, operation, ms) for operation, ms in times.items()], {**labels, "keys": 0, **sizes}


def time_keys(num_prompts: int, data: Data, *, seed: int) -> tuple[list[Row], Row]:
    """Return the same for mopps with a key of 40 characters per prompt, and the time to check and hash the keys."""
    keys = [f"{number:040d}" for number in range(num_prompts)]
    public = PublicClass("mopps", num_prompts, seed, keys)
    replay(public, data)
    times, sizes = _saved_and_loaded(public, "mopps")
    times = {f"{operation}, keys": ms for operation, ms in times.items()}
    times["keys alone"] = median_milliseconds(lambda: identify_pool(keys, None), repeats=3)
    labels: dict[str, Any] = {"method": "mopps", "num_prompts": num_prompts}
    return [_row(labels, operation, ms) for operation, ms in times.items()], {**labels, "keys": 40, **sizes}


def _saved_and_loaded(public: PublicClass, method: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the milliseconds of save and load, and the bytes per prompt of the state, of all arrays, and on disk."""
    selector = public.selector

    def load(folder: str) -> None:
        jaxsel.PromptSelector.load(folder, SELECTORS[method](), **public.pool).wait()

    arrays = selector.state_dict()["arrays"]
    state = sum(len(array["data"]) for name, array in arrays.items() if name.startswith("state"))
    everything = sum(len(array["data"]) for array in arrays.values())
    del arrays
    with tempfile.TemporaryDirectory() as folder:
        times = {
            "save": median_milliseconds(lambda: selector.save(folder), repeats=3),
            "load": median_milliseconds(lambda: load(folder), repeats=3),
        }
        on_disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    count = selector.num_prompts
    return times, {"state": state / count, "all": everything / count, "disk": on_disk / count}


def _row(labels: dict[str, Any], operation: str, ms: float) -> Row:
    return {**labels, "operation": operation, "implementation": "jaxsel", "ms": ms, "repeats": 3}
