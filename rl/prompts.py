"""The pool of prompts as columns, and the task that generates and verifies prompts."""

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
        texts: Texts that the policy reads.
        answers: Reference answers that the verifier needs to judge a completion, as values that JSON can hold.
        keys: Unique names that survive shuffling and filtering of the data set.

    Raises:
        ValueError: The columns have different lengths, or a key repeats.
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
        """Return the pool of the rows `prompt_ids`, in that order."""
        return PromptPool(
            [self.texts[i] for i in prompt_ids],
            [self.answers[i] for i in prompt_ids],
            [self.keys[i] for i in prompt_ids],
        )


class Verdict(NamedTuple):
    """The judgement of one completion.

    Attributes:
        success: Whether the completion solves the prompt; the selector observes this.
        reward: Reward for the policy update. It may include a credit for the format, which success does not.
    """

    success: bool
    reward: float


class Demonstration(NamedTuple):
    """A prompt, and a completion for the policy to imitate in the warm start."""

    prompt: str
    completion: str


class Task(NamedTuple):
    """A source of verifiable prompts.

    Attributes:
        name: Name of the task in `task=...` on the command line, in file names and in logs.
        alphabet: All characters of prompts and completions, for the character tokeniser.
        max_new_tokens: Longest completion in tokens, end of sequence included.
        pool: Function `(num_prompts, seed) -> PromptPool` that makes training prompts.
        held_out: Function `(num_prompts,) -> PromptPool` that makes evaluation prompts. They are the same in every
            run, and disjoint from all training pools and demonstrations.
        demonstrations: Function `(seed) -> Iterator[Demonstration]` whose iterator never ends.
        verify: Function `(completion, answer) -> Verdict | None`. None means that no judgement was possible.
        stop: Texts that end a completion, besides the end of sequence.
    """

    name: str
    alphabet: str
    max_new_tokens: int
    pool: Callable[[int, int], PromptPool]
    held_out: Callable[[int], PromptPool]
    demonstrations: Callable[[int], Iterator[Demonstration]]
    verify: Callable[[str, Any], Verdict | None]
    stop: tuple[str, ...] = ()


# A string array of Arrow holds at most 2 GiB.
_ROWS_AT_ONCE = 2**17
# This metadata marks a file whose ground truths are JSON. In any other file, a text is the answer itself.
_ENCODED = {b"jaxsel.ground_truth": b"json"}


def write_parquet(pool: PromptPool, path: str | Path, *, data_source: str, ability: str) -> None:
    """Write a pool as a Parquet file in verl's schema.

    The columns are `data_source`, `prompt` (a list of chat messages), `ability`, `reward_model` (with `style` and
    `ground_truth`) and `extra_info` (with `index`, the row number, and `key`). If every answer is a text, the answers
    are written unchanged. Otherwise all answers are written as JSON, and the file's metadata say so.

    Args:
        pool: The prompts.
        path: The file to write.
        data_source: Value of the column `data_source`.
        ability: Value of the column `ability`.

    Raises:
        ValueError: A prompt is empty or not valid Unicode.
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
    """Read a Parquet file in verl's schema with the `datasets` library.

    A row's key is `extra_info.key` if it is there, and `extra_info.index` otherwise. A prompt is plain text, or a list
    of messages whose texts are joined by newlines. Answers are the file's ground truths, unchanged: a text such as
    `"72"` or `"[0, 4]"` stays a text. Answers are read as JSON only from a file that `write_parquet` marked as JSON.

    Raises:
        ValueError: A column is missing, or `extra_info.index` is missing or repeats (verl itself would silently use 0
            for every row). Or: a row has no ground truth, or a prompt is empty or not text.
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
        return prompt  # `check_text` refuses other types together with empty texts
    contents = [message.get("content") for message in prompt]
    if not all(isinstance(content, str) for content in contents):
        raise ValueError(f"prompt has a message in row {row} whose content is not text; give text")
    return "\n".join(map(str, contents))


def _answer(judged: dict[str, Any] | None, row: int, encoded: bool) -> Any:
    if judged is None or "ground_truth" not in judged:
        raise ValueError(f"reward_model has no ground_truth in row {row}; write the file in verl's schema")
    return json.loads(judged["ground_truth"]) if encoded else judged["ground_truth"]
