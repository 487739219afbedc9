"""The published Countdown data set of three and four numbers, for chat models.

Reference: Jiayi-Pan/Countdown-Tasks-3to4 on the Hugging Face hub, by TinyZero. It has the columns `target` and `nums`
and one split, `train`. Countdown-34 is the whole data set, and Countdown-4 is its rows of four numbers.
`rl.tasks.countdown_published` generates similar prompts. `rl.tasks.countdown_verifier.verify` judges answers.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rl.prompts import PromptPool
from rl.tasks.countdown_instances import held_out_mask
from rl.tasks.countdown_verifier import numbers_of

DATA_SET = "Jiayi-Pan/Countdown-Tasks-3to4"
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
    """Load a Countdown data set with the `datasets` library; a row that repeats an earlier row is left out.

    Numbers and targets may be given as text, such as `[3, 5, 7]` and `22`, as CSV holds them. A prompt's key consists
    of its numbers and target, so it identifies the prompt also in a shuffled or filtered file.

    Args:
        name_or_path: Name on the hub, or a local folder or file of Parquet, JSON or CSV with the same columns.
        split: Name of the split, which may be sliced, as in `train[:327680]`.
        number_counts: Counts of numbers to keep, such as `(4,)`. None: all.
        held_out: True keeps the eighth of the instances that evaluation uses, and False keeps the rest. Unlike slices
            of the split, the two sets never share the same numbers and target, in any order. None: all.
        template: The prompt's text with the placeholders `{numbers}` and `{target}`.

    Raises:
        ValueError: The template lacks a placeholder, the data set lacks a column, a cell holds no integers of at
            least 0, or no row is left.
    """
    if "{numbers}" not in template or "{target}" not in template:
        raise ValueError(f"template={template!r} lacks a placeholder; write {{numbers}} and {{target}} in it")
    numbers, targets = _columns(str(name_or_path), split)
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


def _columns(name_or_path: str, split: str) -> tuple[list[list[int]], list[int]]:
    from datasets import load_dataset

    path = Path(name_or_path)
    folder, file = (str(path.parent), path.name) if path.is_file() else (name_or_path, None)
    dataset = load_dataset(folder, data_files=file, split=split)
    missing = {"nums", "target"} - set(dataset.column_names)
    if missing:
        raise ValueError(f"name_or_path={name_or_path} has no column {sorted(missing)}; rename its columns")
    table = dataset.with_format("arrow")[:]
    columns = table["nums"].to_pylist(), table["target"].to_pylist()
    rows = [_row(name_or_path, at, *row) for at, row in enumerate(zip(*columns, strict=True))]
    return [numbers for numbers, _ in rows], [target for _, target in rows]


def _row(source: str, at: int, nums: Any, target: Any) -> tuple[list[int], int]:
    try:
        numbers, (goal,) = numbers_of(nums), numbers_of([target])
        if numbers and all(type(number) is int and number >= 0 for number in (*numbers, goal)):
            return numbers, goal
    except (TypeError, ValueError):
        pass
    raise ValueError(f"row {at} of {source} has nums {nums!r} and target {target!r}; give integers of at least 0")


def _held_out(numbers: list[list[int]], targets: list[int]) -> list[bool]:
    counts, sides = np.array([len(row) for row in numbers]), np.zeros(len(numbers), bool)
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        sides[rows] = held_out_mask(np.array([numbers[i] for i in rows]), np.array(targets)[rows])
    return sides.tolist()


def prompt_of(template: str, numbers: Iterable[int], target: int) -> str:
    """Return the template with an instance in the places of `{numbers}` and `{target}`."""
    return template.replace("{numbers}", ", ".join(map(str, numbers))).replace("{target}", str(target))
