"""Histories from the logs of other trainers, for `jaxsel.replay`.

A log has one row a completion: the training step, the prompt and the reward, in a file of CSV, JSON lines or Parquet,
or in a folder of such files. Rows of one step and prompt become one visit. Rollouts of one step are of the same
weights: where a trainer takes several batches between two updates, give a column that tells updates apart as `step`.

A log says what was kept. Where groups are filtered before they are logged (dynamic sampling), or only every tenth step
is, the history lacks the rest, and with it most groups that were not mixed.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from jaxtyping import Int

import jaxsel


class Imported(NamedTuple):
    """What a log says.

    Attributes:
        history: for `jaxsel.replay`; a step of its clock is a step that was logged.
        num_prompts: the size of the pool: all prompts of the log.
        prompts: their texts or names, as the log has them, in the order of their ids: that of their first visit. A
            conversation is the JSON of its messages.
        steps: what the trainer called each step.
    """

    history: jaxsel.History
    num_prompts: int
    prompts: list[str]
    steps: Int[np.ndarray, " t"]


def read_logs(
    path: str | Path, *, step: str = "step", prompt: str = "prompt", reward: str = "reward", threshold: float = 0.5
) -> Imported:
    """Reads a log whose columns have any names.

    Args:
        path: a file, or a folder of files of one kind: .csv, .jsonl or .parquet. Subfolders are not read.
        step: the column of the training step, a whole number.
        prompt: the column of the prompt: its text, its name or number, or a list of messages.
        reward: the column of the reward. An empty one, null, NaN or infinity is no information:
            never a failure.
        threshold: above it a completion is correct.

    Raises:
        ValueError: no such file, a kind that cannot be read, a missing column, a step or reward that is no number, a
            prompt that is missing, no rows, or none with a reward.
    """
    columns = {"step": step, "prompt": prompt, "reward": reward}
    return _imported(path, _tables(_files(Path(path)), columns), columns, threshold)


def read_verl(path: str | Path, *, reward: str = "score", threshold: float = 0.5) -> Imported:
    """Reads what verl writes with `trainer.rollout_data_dir`: one file of JSON lines a step.

    The fields are `input`, `output`, `gts`, `score`, `step` and what the reward function adds (read in verl 0.9.1:
    `_write_generations` of trainer/ppo/ray_trainer.py and trainer/ppo/v1/trainer_base.py). `input` is the prompt with
    its chat template, without special tokens. `uid` is drawn anew at every visit, and names no prompt.

    Args:
        path: that folder.
        reward: "score" is the whole reward, format credits included; what the reward function calls "acc", say, may be
            nearer to correctness.
        threshold: see `read_logs`.

    Raises:
        ValueError: see `read_logs`.
    """
    return read_logs(path, step="step", prompt="input", reward=reward, threshold=threshold)


def read_trl(path: str | Path, *, reward: str | None = None, threshold: float = 0.5) -> Imported:
    """Reads what TRL's GRPOTrainer writes with `log_completions=True`: completions/completions_00001.parquet and so on.

    The columns are `step`, `prompt`, `completion`, one a reward function, what these log besides, and `advantage` (read
    in TRL 1.16.0: `log` of trainer/grpo_trainer.py). A file is written whenever the trainer logs, so set
    `logging_steps=1`; it holds the newest completions, which are the same again where a batch is used for several
    steps: such a file is left out. An evaluation writes over the file of its step: judge by runs without.

    Args:
        path: the trainer's `output_dir`, or the folder `completions` in it.
        reward: the column of the reward function that says what is correct; None: the only one.
        threshold: see `read_logs`.

    Raises:
        ValueError: see `read_logs`; there are several columns that may be rewards.
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
"""The columns that were asked for, by what they stand for."""


def _files(path: Path) -> list[Path]:
    """The file itself, or those of the folder."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file of {_KINDS}, or a folder of such files")
    found = sorted(file for file in path.iterdir() if file.suffix in _READERS) if path.is_dir() else [path]
    kinds = sorted({file.suffix for file in found})
    if len(kinds) != 1 or kinds[0] not in _READERS:
        holds = f"holds {_listed(kinds)}" if found else "holds no log"
        raise ValueError(f"{path} {holds}; give a file of {_KINDS}, or a folder of files of one kind")
    return found


def _tables(files: Sequence[Path], columns: dict[str, str]) -> Iterator[Table]:
    """File by file, so that no more than one file's completions are in memory."""
    for file in files:
        names, found = _READERS[file.suffix](file, list(columns.values()))
        for what, name in columns.items():
            if names and name not in names:
                raise ValueError(f"{file} has no column {name!r}; give the name of the {what} among {_listed(names)}")
        yield {what: found[name] for what, name in columns.items()} if names else {what: [] for what in columns}


Found = tuple[list[str], dict[str, list[Any]]]
"""The names of all columns, and those of the columns asked for that there are; no names where there are no rows."""


def _read_parquet(file: Path, wanted: list[str]) -> Found:
    names = pq.read_schema(file).names
    table = pq.read_table(file, columns=[name for name in wanted if name in names])
    return names, table.to_pydict()


def _read_csv(file: Path, wanted: list[str]) -> Found:
    if not file.stat().st_size:
        return [], {}
    text = pa_csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=True)
    table = pa_csv.read_csv(file, parse_options=pa_csv.ParseOptions(newlines_in_values=True), convert_options=text)
    return table.column_names, table.select([name for name in wanted if name in table.column_names]).to_pydict()


def _read_jsonl(file: Path, wanted: list[str]) -> Found:
    """By the standard library: Python writes NaN where a reward is missing, which no other reader takes."""
    names: dict[str, None] = {}
    columns = {name: [] for name in wanted}
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number}, is no JSON ({error}); cut it off, or repair it") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}, is {line.strip():.40}; give one object a completion")
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
    """Leaves out a file whose completions are those of the one before."""
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
            f"{path} has {columns['step']!r} that is no whole number; give the column of the training step"
        )
    known = np.isfinite(reward)
    if not known.any():
        raise ValueError(f"{path} has no reward in {columns['reward']!r}; give the column that holds them")
    names, clock = np.unique(given, return_inverse=True)
    ids: dict[Any, int] = {}
    for row in np.argsort(clock, kind="stable"):
        ids.setdefault(prompts[row], len(ids))
    history = jaxsel.make_history(
        clock,
        np.array([ids[name] for name in prompts]),
        (known & (reward > threshold)).astype(np.int32),
        known.astype(np.int32),
        num_prompts=len(ids),
    )
    return Imported(history, len(ids), list(ids), names.astype(np.int64))


def _number(value: Any, column: str) -> float:
    """NaN where there is none; 1 and 0 for true and false, in words too."""
    if isinstance(value, str):
        value = {"": None, "none": None, "null": None, "true": 1, "false": 0}.get(value.strip().lower(), value)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{column!r} holds {value!r:.40}; give a column of numbers") from error


def _name(value: Any) -> str | None:
    """A text as it is, a number in digits, a conversation as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(_without_nulls(value), ensure_ascii=False, sort_keys=True)
    return None if value is None else str(value)


def _without_nulls(value: Any) -> Any:
    """Parquet fills the fields that a message has not, so that the same prompt may look another in another file."""
    if isinstance(value, dict):
        return {name: _without_nulls(field) for name, field in value.items() if field is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
