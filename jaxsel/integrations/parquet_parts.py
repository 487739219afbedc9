"""Tables that grow while a run goes on, as folders of Parquet files that a crash does not damage.

This module needs `pip install "jaxsel[history]"`. A folder holds files `part-000000.parquet`, `part-000001.parquet` and
so on. A file appears, or is replaced, only once all of it is on disk, so a reader never sees a part of it.
"""

import re
from pathlib import Path

from jaxsel.integrations._extras import extra
from jaxsel.integrations.atomic_files import replaced_when_complete

with extra("history"):
    import pyarrow as pa
    import pyarrow.parquet as pq


_NAME = re.compile(r"part-(\d+)\.parquet")


class PartFiles:
    """Collects tables in memory and writes them as one new file at each `flush`.

    Args:
        folder: The folder of the files, created if it is missing.

    Raises:
        ValueError: There is a file in place of the folder.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"{folder} is a file or lies below one; give a folder") from error
        self._folder = folder
        self._tables: list[pa.Table] = []
        # not the number of files: where one was deleted by hand, the next file must not replace the last one
        self._next = max((_number(part) for part in part_files(folder)), default=-1) + 1

    def add(self, table: pa.Table) -> None:
        """Add rows; the next `flush` writes them."""
        self._tables.append(table)

    def flush(self) -> None:
        """Write the collected rows to disk."""
        if self._tables:
            write_table(self._folder / f"part-{self._next:06d}.parquet", pa.concat_tables(self._tables))
            self._next += 1
            self._tables = []

    def drop_from(self, column: str, first: int) -> None:
        """Drop the rows whose number in `column` is `first` or larger. Numbers must not decrease from row to row."""
        kept = part_files(self._folder)
        for number, part in enumerate(kept):
            table = read_table(part)
            early = table.filter(pa.array(table[column].to_numpy() < first))
            if len(early) < len(table):
                write_table(part, early)
                for later in kept[number + 1 :]:
                    later.unlink()
                self._next = _number(part) + 1
                break


def part_files(folder: Path) -> list[Path]:
    """Return the files of a folder in the order in which they were written."""
    return sorted((part for part in folder.glob("part-*.parquet") if _NAME.fullmatch(part.name)), key=_number)


def read_table(path: Path) -> pa.Table:
    """Return the table in a file.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        table = pq.read_table(path)
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError) as error:
        cure = f"put back a copy of it, or delete the folder {path.parent.name} and start the run anew"
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}); {cure}") from error


def _number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))


def write_table(path: Path, table: pa.Table) -> None:
    """Replace the file by the table, once all of it is on disk."""
    with replaced_when_complete(path) as file:
        pq.write_table(table, file)
