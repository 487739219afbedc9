"""The columns of a prompt file: which one holds the prompts, the answers and the solve rates.

| who writes it | prompts | answers |
|---|---|---|
| verl, SkyRL | `prompt` | `reward_model.ground_truth`, `reward_spec.ground_truth` |
| TRL | `prompt` | `ground_truth`, `answer`, `solution` |
| open-instruct | `messages` | `ground_truth` |
| slime | `prompt`, `text` | `label` |
| Hugging Face | `question`, `problem`, `content` | `answer`, `expected_answer`, `solution` |

A dot leads into a record: `extra_info.index` is the field `index` of the column `extra_info`. Names with capitals, such
as `Problem` and `Answer`, are found where no column has one of these names.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rl.prompts.files import FileRows
from rl.prompts.media import COLUMNS as MEDIA

PROMPTS = ("prompt", "question", "problem", "messages", "content", "text")
ANSWERS = (
    *("reward_model.ground_truth", "reward_spec.ground_truth", "ground_truth", "label", "answer"),
    *("expected_answer", "final_answer", "solution", "target", "verification_info"),
)
IDENTITIES = ("extra_info", "data_source", "dataset", "split", "index")
ENCODED = {b"jaxsel.ground_truth": b"json"}
"""The metadata of a Parquet file whose ground truths are JSON. In any other file, a text is the answer itself."""

_RATE = re.compile(r"(?<![a-z])(solve|pass|success)_rates?(?![a-z])", re.I)


class Columns(NamedTuple):
    """The columns of a file by dotted name; "" where there is none."""

    prompt: str
    answer: str
    rate: str


def cell(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column by dotted name; None if it is absent."""
    if name in row:
        return row[name]
    head, _, rest = name.partition(".")
    inner = row.get(head)
    return cell(inner, rest) if rest and isinstance(inner, Mapping) else None


def is_wanted(name: str, named: Sequence[str]) -> bool:
    """Return whether a file's column can hold something that the reader needs."""
    media = {column for columns in MEDIA.values() for column in columns}
    known = {*PROMPTS, *IDENTITIES, *media, *(answer.partition(".")[0] for answer in ANSWERS)}
    return (
        name.lower() in known or bool(_RATE.search(name)) or any(name in (one, one.partition(".")[0]) for one in named)
    )


def find_columns(file: FileRows, prompt: str | None, answer: str | None, rate: str | None) -> Columns:
    """Return the columns of a file. A column that is null in every row does not count.

    Args:
        file: The file.
        prompt: Name of the prompts' column. None: the first of `PROMPTS` that is there.
        answer: Name of the answers' column; "": there are no answers. None: the first of `ANSWERS` that is there.
        rate: Name of the solve rates' column; "": read no rates. None: the column whose name says solve_rate,
            pass_rate or success_rate, if there is one.

    Raises:
        ValueError: A column is missing, or several hold solve rates.
    """
    return Columns(
        _named(file, "prompt", prompt) or _first(file, "prompt", PROMPTS),
        "" if answer == "" else _named(file, "answer", answer) or _first(file, "answer", ANSWERS),
        "" if rate == "" else _named(file, "rate", rate) or _rate(file),
    )


def _holds(file: FileRows, name: str) -> bool:
    return any(cell(row, name) is not None for row in file.rows)


def _named(file: FileRows, role: str, name: str | None) -> str:
    if name is not None and not _holds(file, name):
        raise ValueError(f"{role} is {name!r}, and {file.name} has no such column but {_all(file)}; name one of them")
    return name or ""


def _first(file: FileRows, role: str, names: Sequence[str]) -> str:
    capitals = [column for name in names for column in file.columns if column.lower() == name]
    found = next((name for name in [*names, *capitals] if _holds(file, name)), None)
    if found is None:
        none = ", or give answer='' if the verifier needs no answers" if role == "answer" else ""
        raise ValueError(
            f"{file.name} has no column {', '.join(names)} for the {role} but {_all(file)}; "
            f"name one of them by {role}={none}"
        )
    return found


def _rate(file: FileRows) -> str:
    """Return the column whose name says that it holds solve rates, also inside `extra_info`; "" if there is none."""
    records = (row.get("extra_info") for row in file.rows)
    inside = {f"extra_info.{name}" for record in records if isinstance(record, Mapping) for name in record}
    names = [name for name in [*file.columns, *sorted(inside)] if _RATE.search(name) and _holds(file, name)]
    if len(names) > 1:
        raise ValueError(f"rate is None, and {file.name} has solve rates in {names}; name one of them, or give rate=''")
    return names[0] if names else ""


def _all(file: FileRows) -> str:
    return ", ".join(file.columns) or "no columns"
