"""Keys of prompts, and prompts that repeat.

A key names a prompt across shuffled, filtered and extended files. It is the column that the caller names. If the caller
names none, it is the first of these that every row has and that no two rows share: `extra_info.key`, which
`write_parquet` writes; `data_source` (or `dataset`), split and index together, because every source counts from 0;
`extra_info.index` or `index`; a digest of the prompt's text.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rl.prompts.messages import Prompt, fault_of_text
from rl.prompts.rates import mean_rate
from rl.prompts.schemas import cell

TEXT = "text"
"""The name of a key that is a digest of the prompt's text."""

_SHOWN = 3


class Item(NamedTuple):
    """A row that was read.

    Attributes:
        prompt: The prompt.
        answer: The reference answer.
        rate: The solve rate; None if there is none.
        place: The row and the file, for messages.
        digest: A digest of the prompt.
        identity: The columns of the row that can identify it.
        others: Other columns of the row, for a verifier.
    """

    prompt: Prompt
    answer: Any
    rate: float | None
    place: str
    digest: str
    identity: Mapping[str, Any]
    others: Mapping[str, Any]


def digest(prompt: Prompt) -> str:
    """Return 32 hexadecimal digits that depend on the prompt alone, whatever file it comes from.

    An image counts by its content, whatever the name of its file.
    """
    text = json.dumps(_without_paths(prompt), sort_keys=True, default=_bytes_digest)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def loose_digest(prompt: Prompt) -> str:
    """Return the digest of a prompt whose texts differ from this one's at most in spaces and in the form of Unicode."""
    return digest(_loosened(prompt))


def _loosened(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFC", value).split())
    if isinstance(value, list):
        return [_loosened(one) for one in value]
    return {name: _loosened(one) for name, one in value.items()} if isinstance(value, dict) else value


def identity_of(row: Mapping[str, Any], named: str | None) -> dict[str, Any]:
    """Return what can identify a row: the value of every possible key by the key's name."""
    index = cell(row, "extra_info.index") if cell(row, "extra_info.index") is not None else row.get("index")
    source = row.get("data_source") if row.get("data_source") is not None else row.get("dataset")
    split = cell(row, "extra_info.split") if cell(row, "extra_info.split") is not None else row.get("split")
    parts = [part for part in (source, split, index) if _is_name(part)]
    whole = "/".join(map(str, parts)) if _is_name(index) and _is_name(source) else None
    found = {"extra_info.key": cell(row, "extra_info.key"), "data_source/split/index": whole, "index": index}
    return found if named is None else {named: cell(row, named)}


def merged(items: Sequence[Item]) -> list[Item]:
    """Return the items without those that repeat prompt and answer of an earlier one; the rates are averaged."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.digest, _answer_text(item)), []).append(item)
    return [group[0]._replace(rate=mean_rate(item.rate for item in group)) for group in groups.values()]


def keys_of(items: Sequence[Item], named: str | None) -> tuple[str, list[str]]:
    """Return the name of the key and one key per item.

    Raises:
        ValueError: The named column is missing in a row or repeats. Or: no column is named, and two rows have the same
            prompt and no column that tells them apart.
    """
    names = [named] if named is not None else list(items[0].identity) if items else []
    for name in names:
        values = [item.identity[name] for item in items]
        if all(map(_is_name, values)) and len({str(value) for value in values}) == len(values):
            return name, [str(value) for value in values]
    if named is not None:
        raise ValueError(_fault_of_key(items, named))
    pairs = list(repeats(items))
    if pairs:
        differ = any(_answer_text(first) != _answer_text(again) for first, again in pairs)
        cure = "leave out the rows with the wrong answers" if differ else "merge=True reads them as one"
        raise ValueError(f"{described(pairs)}, and no column tells them apart; {cure}, or name a column by key=")
    return TEXT, [item.digest for item in items]


def repeats(items: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    """Yield every item whose prompt repeats an earlier one, as the earlier item and the item."""
    first: dict[str, Item] = {}
    for item in items:
        earlier = first.setdefault(item.digest, item)
        if earlier is not item:
            yield earlier, item


def described(pairs: Sequence[tuple[Item, Item]]) -> str:
    """Return a sentence that counts the repeated prompts and names the first ones."""
    shown = ", ".join(f"{again.place} repeats {first.place}{_answers(first, again)}" for first, again in pairs[:_SHOWN])
    more = ", ..." if len(pairs) > _SHOWN else ""
    return f"{len(pairs)} prompts repeat an earlier one ({shown}{more})"


def same_answer(first: Item, again: Item) -> bool:
    """Return whether two items have the same answer, type included."""
    return _answer_text(first) == _answer_text(again)


def _answers(first: Item, again: Item) -> str:
    if same_answer(first, again):
        return ""
    return f" with another answer, {again.answer!r:.40} instead of {first.answer!r:.40}"


def _answer_text(item: Item) -> str:
    return json.dumps(item.answer, sort_keys=True, default=repr)


def _fault_of_key(items: Sequence[Item], named: str) -> str:
    seen: dict[str, Item] = {}
    for item in items:
        value = item.identity[named]
        if not _is_name(value):
            cure = "give every row an integer or a text that UTF-8 can hold"
            return f"key is {named!r}, which is {value!r} in {item.place}; {cure}"
        earlier = seen.setdefault(str(value), item)
        if earlier is not item:
            return (
                f"key is {named!r}, which is {value!r} in {earlier.place} and in {item.place}; "
                "give every prompt a key of its own"
            )
    raise AssertionError("the keys are unique")  # keys_of has found a fault


def _is_name(value: Any) -> bool:
    """Return whether a value can be a key: a text that UTF-8 can hold, or an integer."""
    if isinstance(value, str):
        return value != "" and fault_of_text(value) is None
    return isinstance(value, int) and not isinstance(value, bool)


def _without_paths(value: Any) -> Any:
    """Return a prompt whose records `{"bytes": content, "path": ...}` are their content."""
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), bytes) and value.keys() <= {"bytes", "path"}:
            return value["bytes"]
        return {name: _without_paths(inside) for name, inside in value.items()}
    return [_without_paths(inside) for inside in value] if isinstance(value, list | tuple) else value


def _bytes_digest(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)
