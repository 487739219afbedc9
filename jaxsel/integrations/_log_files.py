"""The files of a log, read row by row: CSV, JSON lines and Parquet, the first two also compressed by gzip."""

import csv
import glob
import gzip
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxsel.integrations._extras import extra
from jaxsel.integrations.folders import everything_below

_STEP = re.compile(r"(?:step|rollout|iteration|iter)[_=-]?(\d+)", re.IGNORECASE)
_BARE = re.compile(r"(\d+)(?:\.\D.*)?")  # 12 and 12.rank0, but not 2.5-run
_SHOWN_ROWS = 100  # rows of JSON lines whose fields an error message lists


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        place: The file and the row, for error messages.
        cells: The values by the name of their column; of Parquet, the wanted columns alone.
    """

    place: str
    cells: dict[str, Any]


def find_files(path: Path, pattern: str | None) -> list[Path]:
    """Return the file itself, or the files of a folder, in the order of the numbers in their names.

    A folder without logs may hold one folder per step, so its subfolders are then searched.

    Args:
        path: The file or the folder.
        pattern: A glob pattern of the files, relative to the folder or absolute. None: all files that can be read.

    Raises:
        ValueError: There is no such path, no file, or there are files of several kinds.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file of {KINDS}, or a folder of such files")
    if path.is_dir():
        if pattern is not None and Path(pattern).is_absolute():
            found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # `Path.glob` refuses it
        else:
            found = list(path.glob(pattern or "*"))
        if pattern is None and not any(map(kind_of, found)):
            found = everything_below(path)
        found = sorted((file for file in found if file.is_file() and kind_of(file)), key=_natural)
    else:
        found = [path]
    kinds = sorted({kind_of(file) or file.suffix for file in found})
    if len(kinds) != 1 or kinds[0] not in _READERS:
        holds = f"holds {', '.join(map(repr, kinds))}" if found else "holds no log"
        named = f" named {pattern}" if pattern else ""
        raise ValueError(f"{path} {holds}{named}; give a file of {KINDS}, or a folder of files of one kind")
    return found


def check_copies(files: Sequence[Path]) -> None:
    """Refuse a file beside its own compressed copy, whose rows would count twice.

    Raises:
        ValueError: There are both.
    """
    known = set(files)
    for file in files:
        plain = file.with_name(file.name.removesuffix(".gz"))
        if plain != file and plain in known:
            raise ValueError(f"{plain} and {file} would count the same rows twice; delete one of them")


def kind_of(file: Path) -> str | None:
    """Return the kind of a file by its name, without the ending .gz; None if it cannot be read."""
    stem = file.name.removesuffix(".gz")
    found = next((kind for kind in _READERS if stem.endswith(kind)), None)
    return None if found == ".parquet" and stem != file.name else found


def step_of(file: Path, root: Path) -> int | None:
    """Return the step that the name of a file, or of a folder between it and the root, says; None if none does.

    A name that is only a number is a step. If the root is a file, its folder's name must hold a word such as `step`.
    """
    stem = file.name.removesuffix(".gz").removesuffix(kind_of(file) or "")
    is_below = root.is_dir() and file.is_relative_to(root)  # an absolute pattern may name others
    folders = file.relative_to(root).parent.parts if is_below else (file.resolve().parent.name,)
    for name in (stem, *reversed(folders)):
        bare = _BARE.fullmatch(name) if root.is_dir() or name == stem else None
        numbers = [bare[1]] if bare else _STEP.findall(name)
        if numbers:
            return int(numbers[-1])
    return None


def rows_of(file: Path, wanted: list[str]) -> Iterator[Row]:
    """Yield the rows of a file, one at a time.

    Args:
        file: The file.
        wanted: The columns that are needed. A dot names a field of a record, as in `info.prompt_id`.

    Raises:
        ValueError: The file is damaged; the message names the row.
    """
    kind = kind_of(file)
    assert kind is not None, "find_files returns readable files alone"
    with _readable(file):
        yield from _READERS[kind](file, wanted)


def names_of(file: Path) -> list[str]:
    """Return the names of a file's columns; of JSON lines, the fields of the first rows."""
    if kind_of(file) == ".parquet":
        with _readable(file):
            return _parquet().read_schema(file).names
    rows = itertools.islice(rows_of(file, []), _SHOWN_ROWS)
    return list(dict.fromkeys(name for row in rows for name in row.cells))


def _natural(file: Path) -> list[tuple[int, int | str]]:
    """Return a sort key by which step_9 comes before step_10."""
    parts = re.split(r"(\d+)", str(file))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _opened(file: Path) -> AbstractContextManager[Iterable[str]]:
    if file.name.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Raise the errors of a damaged file as a ValueError that names the file."""
    damaged: tuple[type[Exception], ...] = (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile)
    if kind_of(file) == ".parquet":
        with extra("history"):
            import pyarrow as pa
        damaged += (pa.ArrowException, OSError)
    try:
        yield
    except damaged as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's own error, such as a missing permission; pyarrow's about a damaged page has no number
        cure = "write it again in UTF-8, or copy it again if it was cut short"
        raise ValueError(f"{file} cannot be read ({' '.join(str(error).split())}); {cure}") from error


def _parquet() -> Any:
    with extra("history"):
        import pyarrow.parquet as pq
    return pq


def _read_parquet(file: Path, wanted: list[str]) -> Iterator[Row]:
    parquet = _parquet().ParquetFile(file)
    heads = {name if name in parquet.schema_arrow.names else name.partition(".")[0] for name in wanted}
    columns = [name for name in parquet.schema_arrow.names if name in heads]
    number = 0
    for batch in parquet.iter_batches(columns=columns):
        batch.validate(full=True)
        for cells in batch.to_pylist():
            number += 1
            yield Row(f"{file}, row {number}", cells)


def _read_csv(file: Path, wanted: list[str]) -> Iterator[Row]:
    """Read by the standard library, so that NA and 1e5 stay texts; an empty cell is missing."""
    csv.field_size_limit(sys.maxsize)  # the default refuses long completions; never lowered: others may read
    try:
        with _opened(file) as lines:
            reader = csv.DictReader(lines, strict=True)
            names = reader.fieldnames or []
            twice = [name for name in wanted if names.count(name) > 1]
            if twice:
                raise ValueError(f"{file} has several columns {twice[0]!r}; give each its own name")
            for number, cells in enumerate(reader, 1):
                if None in cells or None in cells.values():
                    raise ValueError(
                        f"{file}, row {number}, has more or fewer cells than the header; put quotes around cells that "
                        "hold a comma or a line break"
                    )
                yield Row(f"{file}, row {number}", {name: value or None for name, value in cells.items()})
    except csv.Error as error:
        raise ValueError(f"{file} is no CSV ({error}); repair it, or write it again") from error


def _read_jsonl(file: Path, wanted: list[str]) -> Iterator[Row]:
    """Read by the standard library: Python writes NaN for a missing reward, which strict JSON readers refuse."""
    del wanted
    with _opened(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{file}, line {number}"
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as error:  # a ValueError also for a number of too many digits
                raise ValueError(f"{place}, is not JSON ({error}); delete or repair the line") from error
            if not isinstance(cells, dict):
                raise ValueError(f"{place}, is {line.strip():.40}; give one JSON object per completion")
            yield Row(place, cells)


_READERS: dict[str, Callable[[Path, list[str]], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
KINDS = ", ".join(_READERS)
"""The kinds of files, for error messages."""


class Reader(NamedTuple):
    """How files are read.

    Attributes:
        rows: A function of a file and the wanted columns that yields the rows, as `rows_of` does.
        names: A function that returns the names of a file's columns.
    """

    rows: Callable[[Path, list[str]], Iterator[Row]]
    names: Callable[[Path], list[str]]


BY_ENDING = Reader(rows_of, names_of)
"""Files are read as their ending says."""


def samples_by(load: Callable[[Path], Any]) -> Reader:
    """Return a reader of slime's files of torch, `{"rollout_id": ..., "samples": [...]}`, which `load` opens."""

    def rows(file: Path, wanted: list[str]) -> Iterator[Row]:
        del wanted
        try:
            content = load(file)
        except Exception as error:  # a loader of the user may raise anything
            first = next(iter(str(error).splitlines()), type(error).__name__)
            cure = "copy it again if it was cut short, or give a load that opens it"
            raise ValueError(f"{file} cannot be read ({first:.120}); {cure}") from error
        samples = content.get("samples") if isinstance(content, dict) else None
        if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
            raise ValueError(f"{file} holds no samples of slime; give a file of --save-debug-rollout-data")
        shared = {"rollout_id": content["rollout_id"]} if "rollout_id" in content else {}
        for number, sample in enumerate(samples, 1):
            known = {name: value for name, value in sample.items() if value is not None}
            yield Row(f"{file}, sample {number}", sample | shared | known)

    def names(file: Path) -> list[str]:
        return list(dict.fromkeys(name for row in rows(file, []) for name in row.cells))

    return Reader(rows, names)
