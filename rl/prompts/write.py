"""Prompt files in verl's Parquet schema."""

import itertools
import json
from pathlib import Path
from typing import Any

from rl.prompts.answers import check_answers
from rl.prompts.messages import Fault, Prompt, check_each, check_prompts, fault_of_text
from rl.prompts.pool import PromptPool
from rl.prompts.schemas import ENCODED

_ROWS_AT_ONCE = 2**17  # all rows at once could exceed the 2 GiB that a string array of Arrow holds


def write_parquet(pool: PromptPool, path: str | Path, *, data_source: str, ability: str) -> None:
    """Write a pool as a Parquet file in verl's schema.

    The columns are `data_source`, `prompt` (a list of chat messages), `ability`, `reward_model` (with `style` and
    `ground_truth`) and `extra_info` (with `index`, the row number, and `key`, and with `solve_rate` if the pool has
    rates). If every answer is a text, the answers are written unchanged. Otherwise all answers are written as JSON, and
    the file's metadata say so.

    Args:
        pool: The prompts.
        path: The file to write.
        data_source: Value of the column `data_source`.
        ability: Value of the column `ability`.

    Raises:
        ValueError: A prompt is empty. An answer is an empty text, NaN or a value that JSON cannot hold, such as an
            infinite number, or a record whose names are no texts. A key is no text. A prompt, an answer or a key has a
            lone surrogate. Or: a message holds more than a role and a text. An earlier file stays as it was then.
    """
    import pyarrow.parquet as pq

    from jaxsel.integrations.atomic_files import replaced_when_complete  # imports JAX, which few commands need

    check_prompts(pool.texts, "pool.texts")
    check_answers(pool.answers, "pool.answers")
    check_each(pool.keys, _fault_of_key, "pool.keys")
    encoded = not all(isinstance(answer, str) for answer in pool.answers)

    def table(start: int):
        found = _verl_table(pool, slice(start, start + _ROWS_AT_ONCE), data_source, ability, encoded)
        return found.replace_schema_metadata(ENCODED) if encoded else found

    first = table(0)
    with replaced_when_complete(Path(path).expanduser()) as file, pq.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for start in range(_ROWS_AT_ONCE, len(pool), _ROWS_AT_ONCE):
            writer.write_table(table(start))


def _fault_of_key(key: Any) -> Fault | None:
    if isinstance(key, str):
        return fault_of_text(key)
    return Fault(f"has the key {key!r:.40}, which is no text,", f"give {str(key)!r:.40}")


def _verl_table(pool: PromptPool, rows: slice, data_source: str, ability: str, encoded: bool):
    import pyarrow as pa

    struct, text = pa.StructArray.from_arrays, pa.string()
    prompts = [_messages(prompt, row) for row, prompt in enumerate(pool.texts[rows], rows.start)]
    roles = pa.array([message["role"] for messages in prompts for message in messages], text)
    contents = pa.array([message["content"] for messages in prompts for message in messages], text)
    offsets = pa.array([0, *itertools.accumulate(map(len, prompts))], pa.int32())
    answers = pa.array([json.dumps(answer) if encoded else answer for answer in pool.answers[rows]], text)
    info = {"index": pa.array(range(len(pool))[rows], pa.int64()), "key": pa.array(pool.keys[rows], text)}
    if pool.rates is not None:
        info["solve_rate"] = pa.array(pool.rates[rows], pa.float64())
    count = len(prompts)
    columns = {
        "data_source": pa.repeat(data_source, count),
        "prompt": pa.ListArray.from_arrays(offsets, struct([roles, contents], ["role", "content"])),
        "ability": pa.repeat(ability, count),
        "reward_model": struct([pa.repeat("rule", count), answers], ["style", "ground_truth"]),
        "extra_info": struct(list(info.values()), list(info)),
    }
    return pa.table(columns)


def _messages(prompt: Prompt, row: int) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    for message in prompt:
        if set(message) != {"role", "content"} or not isinstance(message["content"], str):
            raise ValueError(
                f"pool.texts has a message with more than a role and a text in row {row}, which verl's schema of texts "
                "cannot hold; write JSON lines"
            )
    return prompt
