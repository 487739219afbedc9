"""Completions of a run, kept for reading, as Parquet files in the folder `completions`.

A file has one row per completion. Its columns are:

* `step`, `prompt_id`, `key`, `sample`: The training step, the row and the key of the prompt in the pool, and the number
  of the completion within its group.
* `prompt`, `completion`: The texts. The completion is missing if its generation failed.
* `reward`: The reward that the loss saw, with the penalty for overlong completions. It is missing if the completion was
  not judged.
* `success`: The verdict that the selector observed. It is missing if the completion was not judged.
* `finish`: Why the completion ended, see `rl.finish.REASONS`.
* `prompt_tokens`, `completion_tokens`: The lengths in tokens.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxsel.integrations.parquet_parts import PartFiles, part_files, read_table
from jaxsel.runtime.checkpoint.disk import local_path
from rl.finish import REASONS
from rl.groups import Groups
from rl.prompts import PromptPool
from rl.prompts.messages import plain_text

_SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in ("step", "prompt_id")),
        ("key", pa.string()),
        ("sample", pa.int32()),
        *((name, pa.string()) for name in ("prompt", "completion")),
        ("reward", pa.float32()),
        ("success", pa.bool_()),
        ("finish", pa.string()),
        *((name, pa.int32()) for name in ("prompt_tokens", "completion_tokens")),
    ]
)


class CompletionLog:
    """Keeps the completions of the first prompts of every step, and writes them at each `flush`.

    Args:
        folder: The folder of the files.
        num_prompts: The number of prompts per step. With 0, a folder that does not exist is not created.
        first_step: The step at which the run continues. Rows from this step on are dropped: the step is repeated.
    """

    def __init__(self, folder: Path, num_prompts: int, *, first_step: int = 0):
        self._num_prompts = num_prompts
        self._files = PartFiles(folder) if num_prompts or folder.exists() else None
        if self._files is not None:
            self._files.drop_from("step", first_step)

    def add(self, step: int, groups: Groups, pool: PromptPool) -> None:
        """Add the completions of a step; the next `flush` writes them."""
        if self._num_prompts and self._files is not None:
            kept = groups.take(np.arange(min(self._num_prompts, len(groups.prompt_ids))))
            self._files.add(_table(step, kept, pool))

    def flush(self) -> None:
        """Write the collected completions to disk."""
        if self._files is not None:
            self._files.flush()


def read_completions(folder: str | Path) -> pa.Table:
    """Read the completions of a run, which may still be running, have ended or have crashed.

    Args:
        folder: The folder `completions` of the run.

    Raises:
        ValueError: The folder holds no completions, or one of its files is damaged.
    """
    parts = part_files(local_path(folder, "folder"))
    if not parts:
        cure = "give the folder `completions` of a run with keep_completions above 0"
        raise ValueError(f"{folder} holds no completions (part-*.parquet); {cure}")
    return pa.concat_tables([read_table(part) for part in parts])


def _table(step: int, groups: Groups, pool: PromptPool) -> pa.Table:
    b, n = groups.rewards.shape
    completions, rows = groups.completions, groups.prompt_ids.tolist()
    rewards = groups.rewards.flatten().tolist()
    judged = groups.rewards.isfinite().flatten().tolist()
    correct = [None] * (b * n) if groups.correct is None else groups.correct.flatten().tolist()
    finish = [None] * (b * n) if groups.finish is None else [REASONS[i] for i in groups.finish.flatten().tolist()]
    columns: dict[str, list[Any]] = {
        "step": [step] * (b * n),
        "prompt_id": _repeated(rows, n),
        "key": _repeated([_writable(str(pool.keys[row])) for row in rows], n),
        "sample": list(range(n)) * b,
        "prompt": _repeated([_writable(plain_text(pool.texts[row])) for row in rows], n),
        "completion": [text if text is None else _writable(text) for text in completions.texts],
        "reward": [reward if known else None for reward, known in zip(rewards, judged, strict=True)],
        "success": [success if known else None for success, known in zip(correct, judged, strict=True)],
        "finish": finish,
        "prompt_tokens": _repeated(completions.prompt_mask.sum(1).tolist(), n),
        "completion_tokens": completions.mask.sum(1).tolist(),
    }
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in _SCHEMA], schema=_SCHEMA)


def _repeated(values: list[Any], times: int) -> list[Any]:
    return [value for value in values for _ in range(times)]


def _writable(text: str) -> str:
    """Return the text with a question mark in place of every lone surrogate, which Parquet cannot hold."""
    return text.encode(errors="replace").decode()
