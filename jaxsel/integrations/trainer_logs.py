"""Histories from the logs of other trainers, for `jaxsel.replay`.

A log has one row per completion, with the training step, the prompt and the reward. It is a file of CSV, JSON lines or
Parquet, or a folder of such files. CSV and Parquet need `pip install "jaxsel[history]"`; JSON lines need nothing more.

Rows of the same step and prompt become one visit. The same weights are assumed to have generated all rollouts of a
step. Where a trainer takes several batches between two updates, give a column that numbers the updates as `step`.

A log holds only what the trainer kept. Some trainers filter groups before they log them (dynamic sampling), or log
only every tenth step. The history then lacks the other groups, and most of the filtered ones were not mixed.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxsel.evaluation.replay import History, make_history
from jaxsel.integrations._extras import extra


class Imported(NamedTuple):
    """The content of a log.

    Attributes:
        history: The visits, for `jaxsel.replay`. Step `t` of its clock is the training step `steps[t]`.
        num_prompts: Number of distinct prompts in the log, which are the pool.
        prompts: Texts or names of the prompts, as they stand in the log, ordered by first visit. The text of a
            conversation is the JSON of its messages.
        steps: The training steps that were logged, as the trainer numbers them.
    """

    history: History
    num_prompts: int
    prompts: list[str]
    steps: Int[np.ndarray, " t"]


def read_logs(
    path: str | Path, *, step: str = "step", prompt: str = "prompt", reward: str = "reward", threshold: float = 0.5
) -> Imported:
    """Read a log whose columns may have any names.

    Args:
        path: A file, or a folder of files of one kind: .csv, .jsonl or .parquet. Subfolders are not read.
        step: Name of the column with the training step, a whole number.
        prompt: Name of the column with the prompt: its text, its name or number, or a list of messages.
        reward: Name of the column with the reward. An empty cell, null, NaN or infinity means "not judged", and never
            counts as a failure.
        threshold: A completion is correct when its reward is larger than this.

    Raises:
        ValueError: The path does not exist, a file is of another kind, or a column is missing. Or: a step or a reward
            is not a number, a prompt is missing, there are no rows, or no row has a reward.
        ImportError: pyarrow is needed and not installed.
    """
    columns = {"step": step, "prompt": prompt, "reward": reward}
    return _imported(path, _tables(_files(Path(path)), columns), columns, threshold)


def read_verl(path: str | Path, *, reward: str = "score", threshold: float = 0.5) -> Imported:
    """Read the folder that verl writes with `trainer.rollout_data_dir`: one file of JSON lines per step.

    The fields are `input`, `output`, `gts`, `score`, `step`, and the fields that the reward function adds (read in verl
    0.9.1: `_write_generations` of trainer/ppo/ray_trainer.py and trainer/ppo/v1/trainer_base.py). `input` is the prompt
    with its chat template, without special tokens. verl draws a new `uid` at every visit, so `uid` names no prompt.

    Args:
        path: The folder.
        reward: Name of the reward field. "score" is the whole reward, format credits included. A field of the reward
            function, such as "acc", may be closer to correctness.
        threshold: A completion is correct when its reward is larger than this.

    Raises:
        ValueError: As for `read_logs`.
    """
    return read_logs(path, step="step", prompt="input", reward=reward, threshold=threshold)


def read_trl(path: str | Path, *, reward: str | None = None, threshold: float = 0.5) -> Imported:
    """Read the files that TRL's GRPOTrainer writes with `log_completions=True`.

    The files are completions/completions_00001.parquet and so on. Their columns are `step`, `prompt`, `completion`, one
    column per reward function, columns that the reward functions log, and `advantage` (read in TRL 1.16.0: `log` of
    trainer/grpo_trainer.py).

    TRL writes a file whenever the trainer logs, so set `logging_steps=1`. A file holds the newest completions. Where a
    batch is used for several steps, the next file repeats them, and this function leaves the repetition out. An
    evaluation overwrites the file of its step: use runs without evaluation.

    Args:
        path: The trainer's `output_dir`, or the folder `completions` in it.
        reward: Name of the reward function that tells whether a completion is correct. None: the only reward function.
        threshold: A completion is correct when its reward is larger than this.

    Raises:
        ValueError: As for `read_logs`, or `reward` is None and several columns may be rewards.
        ImportError: pyarrow is not installed.
    """
    folder = Path(path)
    if (folder / "completions").is_dir():
        folder = folder / "completions"
    files = _files(folder)
    if reward is None:
        names = _READERS[files[0].suffix](files[0], [])[0]
        rewards = [name for name in names if name not in ("step", "prompt", "completion", "advantage")]
        if len(rewards) != 1:
            raise ValueError(f"{path} has the columns {_listed(names)}; give the name of the reward function as reward")
        reward = rewards[0]
    columns = {"step": "step", "prompt": "prompt", "reward": reward}
    tables = _tables(files, {**columns, "completion": "completion"})
    return _imported(path, _without_repeats(tables), columns, threshold)


Table = dict[str, list[Any]]
"""The requested columns, by their meaning: "step", "prompt", "reward" or "completion"."""


def _files(path: Path) -> list[Path]:
    """Return the file itself, or the files of the folder."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file of {_KINDS}, or a folder of such files")
    found = sorted(file for file in path.iterdir() if file.suffix in _READERS) if path.is_dir() else [path]
    kinds = sorted({file.suffix for file in found})
    if len(kinds) != 1 or kinds[0] not in _READERS:
        holds = f"holds {_listed(kinds)}" if found else "holds no log"
        raise ValueError(f"{path} {holds}; give a file of {_KINDS}, or a folder of files of one kind")
    return found


def _tables(files: Sequence[Path], columns: dict[str, str]) -> Iterator[Table]:
    """Read file by file, so that no more than one file's completions are in memory."""
    for file in files:
        names, found = _READERS[file.suffix](file, list(columns.values()))
        for what, name in columns.items():
            if names and name not in names:
                raise ValueError(f"{file} has no column {name!r}; give the name of the {what} among {_listed(names)}")
        yield {what: found[name] for what, name in columns.items()} if names else {what: [] for what in columns}


Found = tuple[list[str], dict[str, list[Any]]]
"""The names of all columns, and the requested columns as far as they exist. A file without rows has no names."""


def _read_parquet(file: Path, wanted: list[str]) -> Found:
    with extra("history"):
        import pyarrow.parquet as pq

    names = pq.read_schema(file).names
    table = pq.read_table(file, columns=[name for name in wanted if name in names])
    return names, table.to_pydict()


def _read_csv(file: Path, wanted: list[str]) -> Found:
    if not file.stat().st_size:
        return [], {}
    with extra("history"):
        import pyarrow as pa
        import pyarrow.csv as pa_csv

    text = pa_csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=True)
    table = pa_csv.read_csv(file, parse_options=pa_csv.ParseOptions(newlines_in_values=True), convert_options=text)
    return table.column_names, table.select([name for name in wanted if name in table.column_names]).to_pydict()


def _read_jsonl(file: Path, wanted: list[str]) -> Found:
    """Read by the standard library: Python writes NaN for a missing reward, which no other reader accepts."""
    names: dict[str, None] = {}
    columns = {name: [] for name in wanted}
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number}, is not JSON ({error}); delete or repair the line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}, is {line.strip():.40}; give one object per completion")
            names.update(dict.fromkeys(row))
            for name, column in columns.items():
                column.append(row.get(name))
    return list(names), columns


_READERS: dict[str, Callable[[Path, list[str]], Found]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
_KINDS = ", ".join(_READERS)


def _without_repeats(tables: Iterator[Table]) -> Iterator[Table]:
    """Leave out a file that repeats the completions of the file before."""
    previous = None
    for table in tables:
        content = {what: [_name(value) for value in values] for what, values in table.items() if what != "step"}
        if content != previous:
            yield table
        previous = content


def _imported(path: str | Path, tables: Iterator[Table], columns: dict[str, str], threshold: float) -> Imported:
    steps, prompts, rewards = [], [], []
    for table in tables:
        steps += [_number(value, columns["step"]) for value in table["step"]]
        prompts += [_name(value) for value in table["prompt"]]
        rewards += [_number(value, columns["reward"]) for value in table["reward"]]
    if not steps:
        raise ValueError(f"{path} has no rows; give a log with at least one completion")
    if None in prompts:
        raise ValueError(f"{path} has rows without a {columns['prompt']!r}; give the column that names the prompt")
    given, reward = np.array(steps), np.array(rewards)
    if not np.isfinite(given).all() or not np.array_equal(given, np.trunc(given)):
        raise ValueError(
            f"{path} has a {columns['step']!r} that is not a whole number; give the column of the training step"
        )
    known = np.isfinite(reward)
    if not known.any():
        raise ValueError(f"{path} has no reward in {columns['reward']!r}; give the column that holds the rewards")
    names, clock = np.unique(given, return_inverse=True)
    ids: dict[Any, int] = {}
    for row in np.argsort(clock, kind="stable"):
        ids.setdefault(prompts[row], len(ids))
    history = make_history(
        clock,
        np.array([ids[name] for name in prompts]),
        (known & (reward > threshold)).astype(np.int32),
        known.astype(np.int32),
        num_prompts=len(ids),
    )
    return Imported(history, len(ids), list(ids), names.astype(np.int64))


def _number(value: Any, column: str) -> float:
    """Return the cell as a number: NaN where it is empty, 1 and 0 for true and false, also as words."""
    if isinstance(value, str):
        value = {"": None, "none": None, "null": None, "true": 1, "false": 0}.get(value.strip().lower(), value)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{column!r} holds {value!r:.40}; give a column of numbers") from error


def _name(value: Any) -> str | None:
    """Return the name of a prompt: a text as it is, a number in digits, a conversation as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(_without_nulls(value), ensure_ascii=False, sort_keys=True)
    return None if value is None else str(value)


def _without_nulls(value: Any) -> Any:
    """Drop null fields: Parquet adds them to messages, so the same prompt may differ from file to file."""
    if isinstance(value, dict):
        return {name: _without_nulls(field) for name, field in value.items() if field is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
