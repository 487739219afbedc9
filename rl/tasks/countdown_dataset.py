"""The published Countdown data set of three and four numbers, for chat models.

Reference: Jiayi-Pan/Countdown-Tasks-3to4 on the Hugging Face hub, by TinyZero. It has the columns `target` and `nums`
and one split, `train`. Countdown-34 is the whole data set, and Countdown-4 is its rows of four numbers.
`rl.tasks.countdown_published` generates similar prompts. `rl.tasks.countdown_verifier.verify` judges answers.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rl.prompts import PromptPool
from rl.prompts.files import read_rows
from rl.prompts.sources import find_sources, is_path
from rl.tasks.countdown_instances import held_out_mask
from rl.tasks.countdown_verifier import numbers_of

DATA_SET = "Jiayi-Pan/Countdown-Tasks-3to4"
_SPLIT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<start>-?\d+|\d+%)?:(?P<stop>-?\d+|\d+%)?\])?")
CHAT_PROMPT = (
    "Here are some numbers: {numbers}. Combine all of them into one arithmetic expression whose value is "
    "{target}. You may use +, -, *, / and parentheses, and every number must appear exactly once. Think "
    "first, then give the expression alone, without an equals sign, between <answer> and </answer>, for "
    "example <answer>(1 + 2) / 3</answer>."
)


def load_dataset_pool(
    name_or_path: str | Path = DATA_SET,
    *,
    split: str = "train",
    number_counts: Collection[int] | None = None,
    held_out: bool | None = None,
    template: str = CHAT_PROMPT,
) -> PromptPool:
    """Load a Countdown data set; a row that repeats an earlier row is left out.

    Numbers and targets may be given as text, such as `[3, 5, 7]` and `22`, as CSV holds them. A prompt's key consists
    of its numbers and target, so it identifies the prompt also in a shuffled or filtered file.

    Args:
        name_or_path: Name on the hub, or a local folder or file with the same columns, of any format that
            `rl.prompts.read_prompts` reads.
        split: Name of the split, which may be sliced, as in `train[:327680]` or `train[:50%]`. A single file is train.
        number_counts: Counts of numbers to keep, such as `(4,)`. None: all.
        held_out: True keeps the eighth of the instances that evaluation uses, and False keeps the rest. Unlike slices
            of the split, the two sets never share the same numbers and target, in any order. None: all.
        template: The prompt's text with the placeholders `{numbers}` and `{target}`.

    Raises:
        ValueError: The template lacks a placeholder, there is no such data set or split, a file is damaged, the data
            set lacks a column, a cell holds no integers of at least 0, or no row is left.
    """
    if "{numbers}" not in template or "{target}" not in template:
        raise ValueError(f"template={template!r} lacks a placeholder; write {{numbers}} and {{target}} in it")
    numbers, targets = _columns(name_or_path, split)
    keep = {len(row) for row in numbers} if number_counts is None else set(number_counts)
    sides = _held_out(numbers, targets) if held_out is not None else [None] * len(numbers)
    rows = {
        f"{' '.join(map(str, row))}={target}": (row, target)
        for row, target, side in zip(numbers, targets, sides, strict=True)
        if len(row) in keep and side is held_out
    }
    if not rows:
        raise ValueError(
            f"no row of {name_or_path} is left; loosen number_counts={number_counts} or held_out={held_out}"
        )
    return PromptPool(
        texts=[prompt_of(template, *row) for row in rows.values()],
        answers=[{"target": target, "numbers": row} for row, target in rows.values()],
        keys=list(rows),
    )


def _columns(source: str | Path, split: str) -> tuple[list[list[int]], list[int]]:
    columns = _from_files(source, split) if is_path(source) else _from_hub(str(source), split)
    rows = [_row(place, nums, target) for place, nums, target in columns]
    return [numbers for numbers, _ in rows], [target for _, target in rows]


def _from_files(source: str | Path, split: str) -> list[tuple[str, Any, Any]]:
    """Return the place and the two cells of every row, as they stand in the files."""
    found = _SPLIT.fullmatch(split)
    if found is None:
        raise ValueError(f"split={split!r}; give a name, or a name with a slice of rows, as in train[:327680]")
    alone = Path(source).expanduser().is_file() and found["name"] == "train"
    rows: list[tuple[str, Any, Any]] = []
    try:
        files = [read_rows(one) for one in find_sources(source, split=None if alone else found["name"])]
    except ValueError as error:
        more = ", or give one of its files" if Path(source).expanduser().is_dir() else ""
        raise ValueError(f"name_or_path={source} with split={split} cannot be read: {error}{more}") from error
    for file in files:
        missing = {"nums", "target"} - set(file.columns)
        if missing and file.rows:
            raise ValueError(f"{file.name} has no column {sorted(missing)} but {file.columns}; rename its columns")
        rows += [(f"row {at} of {file.name}", row.get("nums"), row.get("target")) for at, row in enumerate(file.rows)]
    return rows[_row_number(found["start"], len(rows)) : _row_number(found["stop"], len(rows))]


def _row_number(bound: str | None, num_rows: int) -> int | None:
    """Return the bound of a slice of rows; a percentage is rounded to whole rows."""
    if not bound:
        return None
    return round(int(bound[:-1]) * num_rows / 100) if bound.endswith("%") else int(bound)


def _from_hub(name: str, split: str) -> list[tuple[str, Any, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        dataset = load_dataset(name, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        cure = "give a path, or the name of a data set on the hub with this split, and check the network"
        why = " ".join(str(error).split())
        raise ValueError(f"name_or_path={name} with split={split} cannot be loaded ({why}); {cure}") from error
    missing = {"nums", "target"} - set(dataset.column_names)
    if missing:
        raise ValueError(f"name_or_path={name} has no column {sorted(missing)}; rename its columns")
    table = dataset.with_format("arrow")[:]
    columns = zip(table["nums"].to_pylist(), table["target"].to_pylist(), strict=True)
    return [(f"row {at} of {name}", *row) for at, row in enumerate(columns)]


def _row(place: str, nums: Any, target: Any) -> tuple[list[int], int]:
    try:
        numbers, (goal,) = numbers_of(nums), numbers_of([_plain(target)])
        if numbers and all(type(number) is int and number >= 0 for number in (*numbers, goal)):
            return numbers, goal
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{place} has nums {nums!r:.60} and target {target!r:.60}; give integers of at least 0")


def _plain(target: Any) -> Any:
    """Return a text such as 22.0, as pandas writes a column with a missing cell, without its zeros."""
    return re.sub(r"\.0*\s*\Z", "", target) if isinstance(target, str) else target


def _held_out(numbers: list[list[int]], targets: list[int]) -> list[bool]:
    counts, sides = np.array([len(row) for row in numbers]), np.zeros(len(numbers), bool)
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        sides[rows] = held_out_mask(np.array([numbers[i] for i in rows]), np.array(targets)[rows])
    return sides.tolist()


def prompt_of(template: str, numbers: Iterable[int], target: int) -> str:
    """Return the template with an instance in the places of `{numbers}` and `{target}`."""
    return template.replace("{numbers}", ", ".join(map(str, numbers))).replace("{target}", str(target))
