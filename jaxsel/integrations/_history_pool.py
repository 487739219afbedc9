"""The file `pool.parquet` of a recorded history: the texts and embeddings of the prompts.

This module needs `pip install "jaxsel[history]"`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsel import _validate
from jaxsel.integrations._extras import extra
from jaxsel.integrations.parquet_parts import read_table

with extra("history"):
    import pyarrow as pa

POOL = "pool.parquet"
ABOUT = b"jaxsel"
"""The name under which a file's metadata say what it holds."""


def pool_table(texts: Sequence[str] | None, embeddings: np.ndarray | None, num_prompts: int) -> pa.Table:
    """Return the columns `text` and `embedding`, as far as they are given."""
    for name, given in (("texts", texts), ("embeddings", embeddings)):
        if given is not None and len(given) != num_prompts:
            raise ValueError(f"{name} has {len(given)} entries for {num_prompts} prompts; give one per prompt")
    columns: dict[str, Any] = {}
    if texts is not None:
        try:
            columns["text"] = pa.array(texts, pa.string())
        except (TypeError, ValueError) as error:
            raise ValueError(f"texts does not hold strings ({error}); give one string per prompt") from error
    if embeddings is not None:
        matrix = _validate.on_host("embeddings", embeddings, np.float32, "give a matrix, one row per prompt")
        if matrix.ndim != 2:
            raise ValueError(f"embeddings has shape {matrix.shape}; give a matrix, one row per prompt")
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    return pa.table(columns, metadata={ABOUT: "pool"})


def check_replaceable(folder: Path, pool: pa.Table, *, recorded: bool, continued: bool) -> None:
    """Refuse to replace a file that another program wrote, or the texts of earlier rows that stay.

    Args:
        folder: The folder of the history.
        pool: The table that replaces the file.
        recorded: Whether the folder holds rows of a history.
        continued: Whether earlier rows stay, which would get the new texts.
    """
    path = folder / POOL
    if not pool.num_columns or not path.exists():
        return
    found = read_table(path)
    is_marked = ABOUT in (found.schema.metadata or {})
    # before jaxsel marked its files, only the columns tell
    is_like_ours = bool(found.column_names) and {"text", "embedding"}.issuperset(found.column_names)
    if not is_marked and not (is_like_ours and (recorded or found.equals(pool))):
        raise ValueError(f"{path} exists and is not of a history; give another folder, or rename the file")
    if continued and "text" in found.column_names and "text" in pool.column_names:
        _check_same_texts(folder, found["text"].to_pylist(), pool["text"].to_pylist())


def _check_same_texts(folder: Path, texts: list[str], given: list[str]) -> None:
    if texts != given:
        at = next(row for row, (old, new) in enumerate(zip(texts, given, strict=True)) if old != new)
        raise ValueError(
            f"{folder} holds the history of a pool with other texts: texts[{at}] is {given[at]!r:.60}, and was "
            f"{texts[at]!r:.60}; give the texts in the same order, or another folder"
        )


def read_pool(path: Path) -> dict[str, Any]:
    """Return the recorded `texts` and `embeddings`, as far as they were recorded."""
    columns = read_table(path) if path.exists() else pa.table({})
    found: dict[str, Any] = {}
    if "text" in columns.column_names:
        found["texts"] = columns["text"].to_pylist()
    if "embedding" in columns.column_names:
        lists = columns["embedding"].combine_chunks()
        found["embeddings"] = lists.flatten().to_numpy().reshape(len(lists), -1)
    return found
