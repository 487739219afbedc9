"""Prompts as columns, and the task that generates and verifies them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rl._prompt_checks import check_text


@dataclass(frozen=True)
class PromptPool:
    """Prompts that share row numbers: row `i` is `texts[i]`, `answers[i]`, `keys[i]`.

    Attributes:
        texts: what the policy reads.
        answers: what the verifier needs to judge a completion; JSON-able.
        keys: unique names that survive shuffling and filtering of the data set.

    Raises:
        ValueError: columns of different lengths, or keys that repeat.
    """

    texts: Sequence[str]
    answers: Sequence[Any]
    keys: Sequence[str]

    def __post_init__(self):
        lengths = {"texts": len(self.texts), "answers": len(self.answers), "keys": len(self.keys)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"PromptPool columns have different lengths {lengths}; give one entry per prompt")
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("PromptPool keys repeat; give every prompt a unique key")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, prompt_ids: Sequence[int]) -> "PromptPool":
        """The rows `prompt_ids`, in that order."""
        return PromptPool(
            [self.texts[i] for i in prompt_ids],
            [self.answers[i] for i in prompt_ids],
            [self.keys[i] for i in prompt_ids],
        )


class Verdict(NamedTuple):
    """What a verifier says of one completion.

    Attributes:
        success: solved or not; what the selector sees.
        reward: what the policy is reinforced with; may hold a format credit that success does not.
    """

    success: bool
    reward: float


class Demonstration(NamedTuple):
    """One prompt and a completion to imitate in the warm start."""

    prompt: str
    completion: str


class Task(NamedTuple):
    """A source of verifiable prompts.

    Attributes:
        name: as in `--config task=...`, file names and logs.
        alphabet: every character that prompts and completions use, for the character tokeniser.
        max_new_tokens: longest completion, in tokens, end of sequence included.
        pool: `(num_prompts, seed) -> PromptPool`, training prompts.
        held_out: `(num_prompts,) -> PromptPool`, evaluation prompts: the same ones whatever the seed,
            disjoint from every training pool and every demonstration.
        demonstrations: `(seed) -> Iterator[Demonstration]`, endless.
        verify: `(completion, answer) -> Verdict | None`; None means that no judgement was possible.
        stop: texts that end a completion, besides the end of sequence.
    """

    name: str
    alphabet: str
    max_new_tokens: int
    pool: Callable[[int, int], PromptPool]
    held_out: Callable[[int], PromptPool]
    demonstrations: Callable[[int], Iterator[Demonstration]]
    verify: Callable[[str, Any], Verdict | None]
    stop: tuple[str, ...] = ()


# Arrow's string arrays hold 2 GiB at most.
_ROWS_AT_ONCE = 2**17
# In the metadata of a file whose ground truths are JSON; text in any other file is the answer itself.
_ENCODED = {b"jaxsel.ground_truth": b"json"}


def write_parquet(pool: PromptPool, path: str | Path, *, data_source: str, ability: str) -> None:
    """Writes a pool in verl's Parquet schema.

    Columns: `data_source`, `prompt` (a list of chat messages), `ability`, `reward_model` (`style`,
    `ground_truth`) and `extra_info` (`index`: the row number, `key`). Where all answers are text, they are written as
    they are. Otherwise all are written as JSON, and the file's metadata say so.

    Raises:
        ValueError: a prompt that is empty or no valid Unicode.
    """
    import pyarrow.parquet as pq

    check_text(pool.texts, "pool.texts")
    encoded = not all(isinstance(answer, str) for answer in pool.answers)

    def table(start: int):
        found = _verl_table(pool, slice(start, start + _ROWS_AT_ONCE), data_source, ability, encoded)
        return found.replace_schema_metadata(_ENCODED) if encoded else found

    with pq.ParquetWriter(path, table(0).schema) as writer:
        for start in range(0, len(pool), _ROWS_AT_ONCE):
            writer.write_table(table(start))


def _verl_table(pool: PromptPool, rows: slice, data_source: str, ability: str, encoded: bool):
    import pyarrow as pa

    struct, text = pa.StructArray.from_arrays, pa.string()
    texts, keys = pa.array(pool.texts[rows], text), pa.array(pool.keys[rows], text)
    answers = pa.array([json.dumps(answer) if encoded else answer for answer in pool.answers[rows]], text)
    indices = pa.array(range(len(pool))[rows], pa.int64())
    count = len(texts)
    messages = struct([pa.repeat("user", count), texts], ["role", "content"])
    columns = {
        "data_source": pa.repeat(data_source, count),
        "prompt": pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), messages),
        "ability": pa.repeat(ability, count),
        "reward_model": struct([pa.repeat("rule", count), answers], ["style", "ground_truth"]),
        "extra_info": struct([indices, keys], ["index", "key"]),
    }
    return pa.table(columns)


def read_parquet(path: str | Path) -> PromptPool:
    """Reads a Parquet file in verl's schema with the `datasets` library.

    Keys are `extra_info.key` where there is one, else `extra_info.index`. A prompt is plain text, or messages
    joined by newlines. Answers are the file's ground truths as they are: text stays text, as in `"72"` or `"[0, 4]"`.
    Only in a file that `write_parquet` marked so are they read as JSON.

    Raises:
        ValueError: a column is missing, `extra_info.index` is missing or repeats (verl itself would silently take 0
            for every row), a row has no ground truth, or a prompt is empty or no text.
    """
    import pyarrow.parquet as pq
    from datasets import Dataset

    table: Any = Dataset.from_parquet(str(path)).with_format("arrow")[:]
    missing = {"prompt", "reward_model", "extra_info"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path} has no column {sorted(missing)}; write it in verl's schema")
    infos = [info or {} for info in table["extra_info"].to_pylist()]
    indices = [info.get("index") for info in infos]
    if None in indices or len(set(indices)) != len(indices):
        raise ValueError(f"extra_info.index in {path} is missing or repeats; give every row a unique index")
    texts = [_text(prompt, row) for row, prompt in enumerate(table["prompt"].to_pylist())]
    check_text(texts, f"prompt in {path}")
    encoded = _ENCODED.items() <= (pq.read_schema(path).metadata or {}).items()
    return PromptPool(
        texts=texts,
        answers=[_answer(judged, row, encoded) for row, judged in enumerate(table["reward_model"].to_pylist())],
        keys=[
            str(index if info.get("key") is None else info["key"]) for info, index in zip(infos, indices, strict=True)
        ],
    )


def _text(prompt: Any, row: int) -> Any:
    if not isinstance(prompt, list):
        return prompt  # what is no text is refused together with empty texts
    contents = [message.get("content") for message in prompt]
    if not all(isinstance(content, str) for content in contents):
        raise ValueError(f"prompt has a message in row {row} whose content is no text; give text")
    return "\n".join(map(str, contents))


def _answer(judged: dict[str, Any] | None, row: int, encoded: bool) -> Any:
    if judged is None or "ground_truth" not in judged:
        raise ValueError(f"reward_model has no ground_truth in row {row}; write the file in verl's schema")
    return json.loads(judged["ground_truth"]) if encoded else judged["ground_truth"]
