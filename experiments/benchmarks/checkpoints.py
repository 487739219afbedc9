"""The time to save and load a `PromptSelector`, and its bytes per prompt."""

import tempfile
from pathlib import Path
from typing import Any

import jaxsel
from experiments.benchmarks.clock import median_milliseconds
from experiments.benchmarks.jaxsel_calls import SELECTORS, PublicClass
from experiments.benchmarks.timing import Data, Row, replay


def time_checkpoints(method: str, num_prompts: int, data: Data, *, seed: int) -> tuple[list[Row], Row]:
    """Return rows with the times of save and load, and a row of bytes per prompt: state, all arrays, and on disk."""
    public = PublicClass(method, num_prompts, seed)
    # Without visits, the state would be zeros, which a checkpoint compresses: the size on disk would be too small.
    replay(public, data)
    arrays = public.selector.state_dict()["arrays"]
    state = sum(len(array["data"]) for name, array in arrays.items() if name.startswith("state"))
    everything = sum(len(array["data"]) for array in arrays.values())
    del arrays
    with tempfile.TemporaryDirectory() as folder:
        times = {
            "save": median_milliseconds(lambda: public.selector.save(folder), repeats=3),
            "load": median_milliseconds(lambda: _load(folder, method, num_prompts), repeats=3),
        }
        on_disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    labels: dict[str, Any] = {"method": method, "num_prompts": num_prompts}
    rows = [
        {**labels, "operation": operation, "implementation": "jaxsel", "ms": ms, "repeats": 3}
        for operation, ms in times.items()
    ]
    per_prompt = {"state": state / num_prompts, "all": everything / num_prompts, "disk": on_disk / num_prompts}
    return rows, {**labels, **per_prompt}


def _load(folder: str, method: str, num_prompts: int) -> None:
    jaxsel.PromptSelector.load(folder, SELECTORS[method](), num_prompts=num_prompts).wait()
