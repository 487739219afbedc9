"""The rows of a prompt file, each with its prompt, answer, solve rate and identity."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl.prompts.answers import as_answer, fault_of_answer
from rl.prompts.files import FileRows
from rl.prompts.identity import Item, digest, identity_of
from rl.prompts.images import ImageError, embedded
from rl.prompts.media import MediaError, row_media, with_media
from rl.prompts.messages import Fault, Prompt, fault, normalised
from rl.prompts.rates import as_rate
from rl.prompts.schemas import ENCODED, Columns, cell


class _OddRowError(ValueError):
    """A row that cannot be read; the message names file and row."""


def read_items(
    file: FileRows,
    columns: Columns,
    key: str | None,
    skipped: list[str] | None,
    others: Sequence[str] | None = (),
    folder: Path | None = None,
) -> list[Item]:
    """Return the rows of a file as items.

    Args:
        file: The file.
        columns: Its columns.
        key: Name of the keys' column; None: no column was named.
        skipped: Receives one message per row that cannot be read, which is left out. None: refuse such rows.
        others: Dotted names of other columns to keep; None: all. A row without one of them has no value for it.
        folder: The folder from which relative paths of images start: their content is read, and every image is decoded
            once. None: images stay as they are.

    Raises:
        ValueError: A row cannot be read; the message names file and row.
    """
    items: list[Item] = []
    encoded = ENCODED.items() <= file.metadata.items()
    for number, row in enumerate(file.rows):
        place = f"row {number} of {file.name}"
        try:
            prompt = _prompt(row, columns.prompt, place, folder)
            answer = _answer(row, columns.answer, place, encoded)
            rate = _rate(row, columns.rate, place)
        except _OddRowError as error:
            if skipped is None:
                raise ValueError(f"{error}, or leave out odd rows by skip_odd=True") from None
            skipped.append(str(error))
            continue
        kept = row if others is None else _kept(row, others)
        items.append(Item(prompt, answer, rate, place, digest(prompt), identity_of(row, key), kept))
    return items


def _kept(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    found = {name: cell(row, name) for name in names}
    return {name: value for name, value in found.items() if name in row or value is not None}


def _prompt(row: dict[str, Any], column: str, place: str, folder: Path | None) -> Prompt:
    value = cell(row, column)
    if column.rpartition(".")[2].lower() == "messages" and isinstance(value, list) and len(value) > 1:
        last = value[-1]
        value = value[:-1] if isinstance(last, dict) and last.get("role") == "assistant" else value
    found, media = normalised(value), row_media(row)
    odd = fault(found)
    if odd is None and media:
        try:
            found = with_media(found, media)
            odd = fault(found)
        except MediaError as error:
            odd = error.fault
    if odd is None and folder is not None:
        try:
            found = embedded(found, folder)
        except ImageError as error:
            odd = Fault(f"has an image that {error}", "mend it or give another path, or leave the row out")
    if odd is not None:
        raise _odd_row(column, odd, place)
    return found


def _odd_row(column: str, odd: Fault, place: str) -> _OddRowError:
    return _OddRowError(f"{column} {odd.what} in {place}; {odd.cure}")


def _answer(row: dict[str, Any], column: str, place: str, encoded: bool) -> Any:
    if not column:
        return None
    value = as_answer(cell(row, column))
    if value is None:
        raise _odd_row(column, Fault("has no answer", "give one"), place)
    if encoded and column == "reward_model.ground_truth":
        value = json.loads(value)
    odd = fault_of_answer(value)
    if odd is not None:
        raise _odd_row(column, odd, place)
    return value


def _rate(row: dict[str, Any], column: str, place: str) -> float | None:
    if not column:
        return None
    try:
        return as_rate(cell(row, column))
    except ValueError as error:
        odd = Fault(f"has the solve rate {error}", "give a number from 0 to 1, or rate='' to read no rates")
        raise _odd_row(column, odd, place) from None
