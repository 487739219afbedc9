"""The counts of a trainer's log. All completions of one prompt in one training step are one visit."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxsel._visits import are_above
from jaxsel.evaluation.replay import History, make_history
from jaxsel.integrations._log_files import BY_ENDING, Reader, Row, check_copies, step_of
from jaxsel.integrations._rewards import checked_threshold

_INTEGER = re.compile(r"\s*[+-]?\d{1,19}\s*", re.ASCII)
_NO_NUMBER = dict.fromkeys(("", "none", "null", "na", "n/a"))


class Imported(NamedTuple):
    """The content of a log.

    Attributes:
        history: The visits, for `jaxsel.replay`. Its step `t`, counted from 0, is the training step `steps[t]`.
        num_prompts: Number of distinct prompts in the log, which are the pool.
        prompts: Texts or names of the prompts, as they stand in the log, ordered by first visit. The text of a
            conversation is the JSON of its messages.
        steps: The training steps that were logged, as the trainer numbers them.
    """

    history: History
    num_prompts: int
    prompts: list[str]
    steps: Int[np.ndarray, " t"]


class Columns(NamedTuple):
    """The names of the columns, and the function that turns the cell of a prompt into its name; None: `name_of`."""

    step: str
    prompt: str
    reward: str
    name: Callable[[Any], str | None] | None = None


class _Counts:
    """The counts of all visits, and the prompts by their first visit."""

    def __init__(self):
        self.visits: dict[tuple[int, int], list[int]] = {}
        self.ids: dict[str, int] = {}
        self.num_rows = 0
        self._first: dict[int, tuple[int, int]] = {}

    def add(self, step: int, prompt: str, successes: int, judged: int) -> None:
        """Count one row: the completions that have a reward (`judged`), and the correct ones of these."""
        at = self.ids.setdefault(prompt, len(self.ids))
        self._first[at] = min(self._first.get(at, (step, self.num_rows)), (step, self.num_rows))
        visit = self.visits.setdefault((step, at), [0, 0])
        visit[0] += successes
        visit[1] += judged
        self.num_rows += 1

    def imported(self) -> Imported:
        """Return the history, with the prompts in the order of their first visit."""
        order = sorted(self._first, key=self._first.__getitem__)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        prompts = list(self.ids)
        keys, counts = np.array(list(self.visits), np.int64), np.array(list(self.visits.values()), np.int64)
        steps, clock = np.unique(keys[:, 0], return_inverse=True)
        history = make_history(clock, place[keys[:, 1]], counts[:, 0], counts[:, 1], num_prompts=len(order))
        return Imported(history, len(order), [prompts[at] for at in order], steps)


def imported(
    path: Path,
    files: Sequence[Path],
    columns: Columns,
    threshold: float,
    repeated_by: str | None = None,
    reader: Reader = BY_ENDING,
) -> Imported:
    """Return the content of a log.

    Args:
        path: The file or folder of the log.
        files: The files to read, which are `path` itself or lie in it.
        columns: The names of the columns.
        threshold: A completion is correct when its reward is larger than this.
        repeated_by: Another column, such as the completions. A file is left out if this column, the prompts and the
            rewards equal those of the file before. None: no file is left out.
        reader: How the files are read.

    Raises:
        ValueError: As for `jaxsel.integrations.trainer_logs.read_logs`.
    """
    threshold = checked_threshold(threshold)
    check_copies(files)
    counts = _Counts()
    previous = None
    for file in files:
        wanted = [*columns[:3], *([repeated_by] if repeated_by else [])]
        rows: Iterable[Row] = reader.rows(file, wanted)
        if repeated_by is not None:
            rows = list(rows)
            content = [{name: name_of(row.cells.get(name)) for name in wanted if name != columns.step} for row in rows]
            if content == previous:
                continue
            previous = content
        _count(counts, rows, columns, threshold, step_of(file, path), _Names(file, reader))
    if not counts.num_rows:
        raise ValueError(f"{path} has no rows; give a log with at least one completion")
    if not any(judged for _, judged in counts.visits.values()):
        raise ValueError(f"{path} has no reward in {columns.reward!r}; give the column that holds the rewards")
    return counts.imported()


class _Names(NamedTuple):
    """The names of a file's columns, for the error that one is missing."""

    file: Path
    reader: Reader

    def missing(self, what: str, name: str) -> str:
        listed = ", ".join(map(repr, self.reader.names(self.file)))
        return f"{self.file} has no column {name!r}; give the name of the {what} among {listed}"


def _count(
    counts: _Counts, rows: Iterable[Row], columns: Columns, threshold: float, file_step: int | None, names: _Names
) -> None:
    """Count the rows of one file."""
    known = {"reward": False, "rows": False}
    for row in rows:
        known["rows"] = True
        known["reward"] |= _has(row.cells, columns.reward)
        step = _step(row, columns.step, file_step, names)
        if not _has(row.cells, columns.prompt):
            raise ValueError(names.missing("prompt", columns.prompt))
        prompt = (columns.name or name_of)(_cell(row.cells, columns.prompt))
        if prompt is None:
            raise ValueError(
                f"{row.place}, has no prompt in {columns.prompt!r}; give the column that names the prompt, or delete "
                "the row"
            )
        rewards = [one for one in _rewards(row, columns.reward) if math.isfinite(one)]
        counts.add(step, prompt, int(are_above(rewards, threshold).sum()), len(rewards))
    if known["rows"] and not known["reward"]:
        raise ValueError(names.missing("reward", columns.reward))


def _step(row: Row, column: str, file_step: int | None, names: _Names) -> int:
    """Return the step of a row: its cell, or, where there is none, the number in the name of the file or folder."""
    if not _has(row.cells, column):
        if file_step is None:
            raise ValueError(names.missing("step", column) + ", or put it into the file's name, as in step_12.jsonl")
        return file_step
    cell = _cell(row.cells, column)
    if cell is None and file_step is not None:
        return file_step
    # a float does not hold every large integer, such as a time in nanoseconds
    step = cell if isinstance(cell, int) else _digits(cell) or _number(row, column, cell)
    if not -(2**63) <= step < 2**63 or step != int(step):  # the first also holds for NaN and infinity
        raise ValueError(
            f"{row.place}, has a {column!r} that is not a whole number of 64 bits but {cell!r:.40}; give the "
            "column of the training step, or delete the row"
        )
    return int(step)


def _digits(cell: Any) -> int | None:
    """Return the integer that a text holds, exactly; None where it is something else."""
    return int(cell) if isinstance(cell, str) and _INTEGER.fullmatch(cell) else None


def _rewards(row: Row, column: str) -> list[float]:
    """Return the rewards of a row: of one completion, or of a list of completions."""
    value = _cell(row.cells, column)
    values = value if isinstance(value, list) else [value]
    return [_number(row, column, one) for one in values]


def _number(row: Row, column: str, value: Any) -> float:
    """Return the cell as a number: NaN where it is empty, 1 and 0 for true and false, also as words."""
    if isinstance(value, str):
        value = (_NO_NUMBER | {"true": 1, "false": 0}).get(value.strip().lower(), value)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{row.place}: {column!r} holds {value!r:.40}; give a column of numbers, or delete the row"
        ) from error


def _has(cells: dict[str, Any], name: str) -> bool:
    head, dot, _ = name.partition(".")
    return name in cells or (bool(dot) and isinstance(cells.get(head), dict))


def _cell(cells: Any, name: str) -> Any:
    """Return the value of a column by dotted name; None if it is absent."""
    if not isinstance(cells, dict):
        return None
    if name in cells:
        return cells[name]
    head, dot, rest = name.partition(".")
    return _cell(cells.get(head), rest) if dot else None


def name_of(value: Any) -> str | None:
    """Return the name of a prompt: a text as it is, a number in digits, a conversation as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(_without_nulls(value), ensure_ascii=False, sort_keys=True, default=_shown)
    return None if value is None else str(value)


def _shown(value: Any) -> Any:
    """Return what stands in a name for a value that JSON has not: a digest of bytes, such as an image's."""
    if isinstance(value, bytes):
        return hashlib.blake2b(value, digest_size=16).hexdigest()
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _without_nulls(value: Any) -> Any:
    """Drop null fields: Parquet adds them to messages, but a prompt must have the same name in every file."""
    if isinstance(value, dict):
        return {name: _without_nulls(field) for name, field in value.items() if field is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value
