"""Reading prompt files into a pool."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rl.prompts.files import read_rows
from rl.prompts.identity import Item, described, keys_of, merged, repeats, same_answer
from rl.prompts.pool import PromptPool
from rl.prompts.rows import read_items
from rl.prompts.schemas import Columns, find_columns, is_wanted
from rl.prompts.sources import Sources, find_sources

_log = logging.getLogger(__name__)


class Report(NamedTuple):
    """What a reader found.

    Attributes:
        pool: The prompts.
        rows: Number of rows in the files.
        repeats: Pairs of an earlier row and a row that repeats its prompt.
        columns: The columns of the first file.
        key: Name of what identifies a prompt: a column, several columns, or the text.
        skipped: One message per row that was left out because it cannot be read.
        others: The other columns of every prompt that the reader was asked for.
    """

    pool: PromptPool
    rows: int
    repeats: list[tuple[Item, Item]]
    columns: Columns
    key: str
    skipped: list[str]
    others: list[Mapping[str, Any]]

    @property
    def conflicts(self) -> int:
        """The number of repeated prompts that have another answer than the earlier row."""
        return sum(not same_answer(*pair) for pair in self.repeats)


def read_prompts(
    source: Sources,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    key: str | None = None,
    rate: str | None = None,
    split: str | None = None,
    config: str | None = None,
    merge: bool = False,
    skip_odd: bool = False,
) -> PromptPool:
    """Read prompts with answers: Parquet, Arrow, JSON, JSON lines, CSV, compressed or not, a folder, or a hub data set.

    Values are never changed. Answers are the file's: "72" stays a text, and so do CSV's "NA", "1e5" and "007". Decimal
    numbers, dates, times and durations of Parquet and Arrow files become texts, because JSON has no such values. Only a
    file that `write_parquet` marked has answers that are read as JSON. Prompts are texts or chat messages, whose roles
    and parts stay; see `rl.prompts.messages.normalised` for the one form that a pool holds. A last message of role
    assistant in the column `messages` is a completion and no part of the prompt.

    Columns are found by name, for each file on its own; `rl.prompts.schemas` lists the names, and
    `rl.prompts.identity` lists what can be the key. A dot leads into a record: `extra_info.index` is the field `index`
    of the column `extra_info`.

    Args:
        source: A file, several files, a folder, or the name of a data set on the Hugging Face hub.
        prompt: Name of the prompts' column. None: found by name.
        answer: Name of the answers' column; "": the data have no answers. None: found by name.
        key: Name of the keys' column. None: the first that identifies every prompt.
        rate: Name of the solve rates' column; "": read no rates. None: found by name, if there is one.
        split: The split to read, for a folder or a data set on the hub. None: the only one.
        config: The configuration of a data set on the hub; refused for a file or a folder.
        merge: Whether rows with the same prompt and answer become one row with the mean of their rates. Otherwise they
            stay, and a warning names them.
        skip_odd: Whether rows that cannot be read are left out, and a warning names them. Otherwise they are refused.

    Raises:
        ValueError: A file or a column is missing, a row cannot be read, or two rows have the same prompt and nothing
            tells them apart. A row with an empty prompt, a lone surrogate, or an answer that is an empty text, NaN, an
            infinite number or bytes cannot be read. The message names file and row, and the cure.
    """
    found = read_report(
        source,
        prompt=prompt,
        answer=answer,
        key=key,
        rate=rate,
        split=split,
        config=config,
        merge=merge,
        skip_odd=skip_odd,
    )
    if found.repeats and not merge:
        _log.warning("%s; merge=True merges those with equal answers", described(found.repeats))
    if found.skipped:
        _log.warning("%d odd rows of %s are left out: %s", len(found.skipped), source, "; ".join(found.skipped[:3]))
    return found.pool


def read_report(
    source: Sources,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    key: str | None = None,
    rate: str | None = None,
    split: str | None = None,
    config: str | None = None,
    merge: bool = False,
    skip_odd: bool = False,
    others: Sequence[str] | None = (),
    images: bool = False,
) -> Report:
    """Read prompts as `read_prompts` does, and return them with what was found, without warnings.

    `others` names columns to keep in `Report.others` besides; None keeps all. With `images`, a path of an image, which
    may start from the folder of its file, becomes the image's content, and an image that cannot be decoded makes a row
    odd.
    """
    named = [name for name in (prompt, answer, key, rate) if name]
    sources = find_sources(source, split=split, config=config)
    files = [read_rows(one, lambda name: others is None or is_wanted(name, [*named, *others])) for one in sources]
    folders = [Path(one.path).parent for one, file in zip(sources, files, strict=True) if file.rows]
    filled = [file for file in files if file.rows]  # an empty file has no columns
    columns = [find_columns(file, prompt, answer, rate) for file in filled]
    skipped: list[str] = []
    items = [
        item
        for file, own, folder in zip(filled, columns, folders, strict=True)
        for item in read_items(file, own, key, skipped if skip_odd else None, others, folder if images else None)
    ]
    kept = merged(items) if merge else items
    key_name, keys = keys_of(kept, key)
    rates = [item.rate for item in kept] if any(item.rate is not None for item in kept) else None
    return Report(
        PromptPool([item.prompt for item in kept], [item.answer for item in kept], keys, rates),
        sum(len(file.rows) for file in files),
        list(repeats(items)),
        columns[0] if columns else Columns(prompt or "", answer or "", rate or ""),
        key_name,
        skipped,
        [item.others for item in kept],
    )
