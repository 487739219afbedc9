"""Rows of one file: Parquet, Arrow, JSON, JSON lines or CSV, compressed or not.

Values are read as they stand in the file. The `datasets` library would not do so: it reads CSV with pandas, which turns
"NA", "1e5" and "007" into numbers. It reads JSON with Arrow, which turns texts such as "2020-01-01" into times and
refuses columns of mixed types. Therefore Python's own `json` and `csv` read these files; pyarrow reads Parquet and
Arrow.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

from rl.prompts.arrow import ColumnError, read_arrow_rows, read_parquet_rows

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FORMATS = (".parquet", ".arrow", *TEXT_FORMATS)


class Source(NamedTuple):
    """A file to read: the name that messages use, which also tells the format, and the local path."""

    name: str
    path: str


class FileRows(NamedTuple):
    """The rows of a file.

    Attributes:
        name: The name of the file in messages.
        rows: One record per row.
        columns: The names of all columns; the rows of a Parquet or Arrow file may hold only some of them.
        metadata: The metadata of a Parquet or Arrow file's schema; empty for other files.
    """

    name: str
    rows: list[dict[str, Any]]
    columns: list[str]
    metadata: dict[bytes, bytes]


def format_of(name: str) -> str | None:
    """Return the format by the end of a file's name, such as ".jsonl" for "a.jsonl.gz"; None if it is unreadable."""
    stem, ending = _compression(name)
    found = next((suffix for suffix in FORMATS if stem.lower().endswith(suffix)), None)
    return None if ending and found not in TEXT_FORMATS else found


def read_rows(source: Source, wanted: Callable[[str], bool] = lambda name: True) -> FileRows:
    """Return the rows of a file.

    Args:
        source: The file.
        wanted: Function that tells by its name whether a column is needed; only Parquet and Arrow leave others out.

    Raises:
        ValueError: The file's format is unknown, or its content does not have this format.
    """
    suffix = format_of(source.name)
    if suffix is None:
        raise ValueError(f"source is {source.name}, whose format is unknown; give a file of {', '.join(FORMATS)}")
    if suffix in (".parquet", ".arrow"):
        return _arrow(source, suffix, wanted)
    try:
        with _opened(source) as file:
            rows = {".json": _json, ".csv": _csv, ".tsv": _tsv}.get(suffix, _json_lines)(file, source.name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source.name} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except (OSError, EOFError) as error:
        ending = _compression(source.name)[1]
        if not ending:
            raise
        what = f"is no {COMPRESSIONS[ending]} file that can be read ({error})"
        raise ValueError(f"{source.name} {what}; compress it again, or drop {ending} from its name") from None
    return FileRows(source.name, rows, list(dict.fromkeys(name for row in rows for name in row)), {})


def _arrow(source: Source, suffix: str, wanted: Callable[[str], bool]) -> FileRows:
    import pyarrow as pa

    try:
        found = (read_parquet_rows if suffix == ".parquet" else read_arrow_rows)(source.path, wanted)
    except ColumnError as error:
        raise ValueError(f"{source.name} {error}; write it there as a text, or drop the column") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's own error, such as a missing permission; pyarrow's about a damaged page has no number
        what = f"is no {suffix[1:]} file that can be read ({' '.join(str(error).split())})"
        raise ValueError(f"{source.name} {what}; write it again, or copy it again if it was damaged") from None
    return FileRows(source.name, *found)


@contextmanager
def _opened(source: Source) -> Iterator[TextIO]:
    import pyarrow as pa

    _, ending = _compression(source.name)
    with pa.input_stream(source.path, compression=COMPRESSIONS.get(ending)) as raw:
        yield io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8-sig", newline="")


def _compression(name: str) -> tuple[str, str]:
    ending = next((ending for ending in COMPRESSIONS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)], ending


def _json(file: TextIO, name: str) -> list[dict[str, Any]]:
    """Read a list of rows, or JSON lines, which many files of this suffix hold."""
    text = file.read()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not _is_object(text.lstrip().partition("\n")[0]):
            raise ValueError(f"{name} is no JSON: {error}; mend it there") from None
        return _json_lines(io.StringIO(text, newline=""), name)
    rows = [found] if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise ValueError(f"{name} holds {type(found).__name__}; give a list of rows, or JSON lines")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{name} holds {type(row).__name__} in row {number}; give one record per row")
    return rows


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(file: TextIO, name: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is no JSON in line {number}: {error}; mend or delete the line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{name} holds {type(row).__name__} in line {number}; give one record per line")
        rows.append(row)
    return rows


def _tsv(file: TextIO, name: str) -> list[dict[str, Any]]:
    return _csv(file, name, delimiter="\t")


def _csv(file: Iterable[str], name: str, delimiter: str = ",") -> list[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses cells above 128 kB; never lowered: others may read
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        columns = next(reader, [])
        if len(set(columns)) != len(columns):  # one column may have no name: pandas writes its index so
            raise ValueError(f"{name} has the header {columns}; give every column a name of its own")
        return [_csv_row(columns, cells, number, name) for number, cells in enumerate(filter(None, reader))]
    except csv.Error as error:
        raise ValueError(f"{name} is no CSV: {error}, in line {reader.line_num}; mend it there") from None


def _csv_row(columns: list[str], cells: list[str], number: int, name: str) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise ValueError(
            f"{name} has {len(cells)} cells in row {number} and {len(columns)} columns; "
            "put quotes around cells that hold a separator or a newline"
        )
    return dict(zip(columns, cells, strict=True))
