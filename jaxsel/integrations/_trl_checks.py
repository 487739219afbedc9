"""What `jaxsel.integrations.trl` checks before training: TRL itself, the data, the selector and the checkpoints."""

import inspect
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxsel.base import Selector
from jaxsel.integrations._extras import extra
from jaxsel.integrations._pools import check_keys, selector_of_rows
from jaxsel.runtime.prompt_selector import PromptSelector

TESTED = "TRL 1.3.0 and 1.16.0"
"""The versions of TRL that this module was tested with."""
_HOOKS = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
}


def check_hooks(trainer: type) -> None:
    """Refuse a trainer if a method that `SelectsPrompts` overrides is missing or has other parameters.

    Raises:
        RuntimeError: A method is missing or differs.
        ImportError: TRL is not installed.
    """
    with extra("trl"):
        import trl

    theirs = [kind for kind in trainer.__mro__ if kind.__module__.partition(".")[0] == trl.__name__]
    for name, parameters in _HOOKS.items():
        hook = next((vars(kind)[name] for kind in theirs if name in vars(kind)), None)
        found = None if hook is None else list(inspect.signature(hook).parameters)
        if found != parameters:
            has = f"no method {name}" if found is None else f"the method {name}({', '.join(found)})"
            bases = ", ".join(kind.__name__ for kind in theirs[:1]) or "none of TRL's trainers"
            raise RuntimeError(
                f"{trainer.__name__} is based on {bases}, which has {has} where {name}({', '.join(parameters)}) was "
                f"expected; use GRPOTrainer or RLOOTrainer. {versions()}"
            )


def versions() -> str:
    """Return the versions that were tested, the installed version, and what to do about a difference."""
    with extra("trl"):
        version = metadata.version("trl")
    cure = 'pip install "trl>=1.3,<=1.16"'
    return f"jaxsel was tested with {TESTED}, and this is TRL {version}; if TRL has changed: {cure}"


def check_rows(dataset: Any) -> None:
    """Refuse a stream, because its rows cannot be read by number.

    Raises:
        ValueError: The data is a stream or is missing.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(
            f"train_dataset is a {type(dataset).__name__}, whose rows cannot be chosen by number; load it without "
            "streaming=True, or take a part of the stream: datasets.Dataset.from_list(list(stream.take(100_000)))"
        )


def checked_keys(dataset: Any, key_column: str | None, num_prompts: int) -> list[Any] | None:
    """Return the keys of the training data, or None without a key column.

    Args:
        dataset: The trainer's training data.
        key_column: Column of the keys.
        num_prompts: Number of prompts per generation.

    Raises:
        ValueError: Rows cannot be read by number, there are too few rows, or the keys are missing or repeat.
    """
    check_rows(dataset)
    if len(dataset) < num_prompts:
        raise ValueError(
            f"train_dataset has {len(dataset)} rows, and each generation takes {num_prompts} different prompts; give "
            "more rows or a smaller generation_batch_size"
        )
    if key_column is None:
        return None
    columns = list(getattr(dataset, "column_names", None) or dataset[0])
    if key_column not in columns:
        raise ValueError(f"key_column is {key_column!r}, which train_dataset lacks; give one of {columns}")
    keys = list(dataset[key_column]) if hasattr(dataset, "column_names") else [row[key_column] for row in dataset]
    check_keys(keys, f"the column {key_column!r} of train_dataset")
    return keys


def prompt_selector(
    selector: Selector | PromptSelector | None, dataset: Any, keys: list[Any] | None, seed: int
) -> PromptSelector:
    """Return the selector for the training data.

    Raises:
        ValueError: The selector is of another size or has other keys.
    """
    return selector_of_rows(selector, len(dataset), keys=keys, seed=seed, data="train_dataset")


def rows(dataset: Any, ids: Int[np.ndarray, " b"]) -> list[dict[str, Any]]:
    """Return rows as TRL's data loader would: a new dictionary for each, because TRL may write into it."""
    several = getattr(dataset, "__getitems__", None)
    return several(ids.tolist()) if several is not None else [dict(dataset[int(row)]) for row in ids]


def text(prompt: Any) -> str:
    """Return the prompt as one text. A conversation becomes JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, sort_keys=True, default=str)


def newest_complete(output_dir: Path) -> Path | None:
    """Return the newest checkpoint that was not cut short by a crash; None if the folder has no checkpoint.

    Raises:
        ValueError: All checkpoints were cut short.
    """
    numbered = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in output_dir.glob("checkpoint-*")]
    found = sorted((int(match[1]), path) for match, path in numbered if match is not None)
    complete = next((path for _, path in reversed(found) if _is_complete(path)), None)
    if found and complete is None:
        names = ", ".join(path.name for _, path in found)
        raise ValueError(f"{output_dir} has only checkpoints that were cut short ({names}); delete them to start anew")
    return complete


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())  # the last file that TRL writes
    except (OSError, ValueError):
        return False
    return True


def steps(batches: int, accumulation: int) -> int:
    """Return the smallest number of optimiser steps that uses up whole generations.

    A generation lasts for `batches` micro-batches, and an optimiser step takes `accumulation` of them.
    """
    return int(np.lcm(batches, accumulation)) // accumulation
