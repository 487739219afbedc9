"""Rows of Parquet and Arrow files as Python values; texts that `datasets` encoded as JSON are decoded."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_JSON_FEATURE = b'"_type": "Json"'
_ROWS_AT_ONCE = 8192


class ColumnError(Exception):
    """A column of an undamaged file has a value that Python cannot hold; the message names the column."""


class ArrowRows(NamedTuple):
    """The rows of a file with the wanted columns, the names of all its columns, and its metadata."""

    rows: list[dict[str, Any]]
    columns: list[str]
    metadata: dict[bytes, bytes]


def read_parquet_rows(path: str, wanted: Callable[[str], bool]) -> ArrowRows:
    """Return the rows of a Parquet file with the columns whose name is wanted."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        columns = [name for name in schema.names if wanted(name)]
        return _gathered(schema, file.iter_batches(_ROWS_AT_ONCE, columns=columns), columns)


def read_arrow_rows(path: str, wanted: Callable[[str], bool]) -> ArrowRows:
    """Return the rows of an Arrow file or stream (`save_to_disk` of `datasets`) with the wanted columns."""
    import pyarrow as pa

    with pa.memory_map(path) as source:
        try:
            reader: Any = pa.ipc.open_stream(source)
            batches = reader
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        columns = [name for name in reader.schema.names if wanted(name)]
        return _gathered(reader.schema, (batch.select(columns) for batch in batches), columns)


def _gathered(schema: Any, batches: Iterator[Any], columns: list[str]) -> ArrowRows:
    rows = [row for batch in batches for row in _rows_of(batch, columns)]
    metadata = schema.metadata or {}
    if _JSON_FEATURE in metadata.get(b"huggingface", b""):
        rows = _decoded(rows, schema)
    return ArrowRows(rows, schema.names, metadata)


def _rows_of(batch: Any, columns: list[str]) -> list[dict[str, Any]]:
    batch.validate(full=True)  # reading the values of a damaged file could end the process
    if not columns:
        return [{} for _ in range(batch.num_rows)]
    names = batch.schema.names
    values = map(_values_of, batch.columns, names)
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _values_of(column: Any, name: str) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, LookupError) as error:  # such as a year above 9999, or an unknown time zone
        raise ColumnError(f"has a {column.type} in the column {name} that Python cannot hold ({error})") from error


def _decoded(rows: list[dict[str, Any]], schema: Any) -> list[dict[str, Any]]:
    """Return the rows with the values that `datasets` stored as JSON text because their types are mixed."""
    from datasets import Features

    features = Features.from_arrow_schema(schema)
    return [{name: _value(value, features[name]) for name, value in row.items()} for row in rows]


def _value(value: Any, feature: Any) -> Any:
    inner = getattr(feature, "feature", None)
    if type(feature).__name__ == "Json":
        return json.loads(value) if isinstance(value, str) else value
    if inner is not None and isinstance(value, list):
        return [_value(item, inner) for item in value]
    if isinstance(feature, dict) and isinstance(value, dict):
        return {name: _value(item, feature.get(name)) for name, item in value.items()}
    return value
