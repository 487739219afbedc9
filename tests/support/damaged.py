"""Damages files as a faulty disk or a broken copy does: some bytes change, and the length stays."""

from pathlib import Path

import pyarrow.parquet as pq


def damage(path: Path, at: int, size: int = 32) -> None:
    """Change `size` bytes of a file from the byte `at` on."""
    content = bytearray(path.read_bytes())
    content[at : at + size] = bytes(byte ^ 0x5A for byte in content[at : at + size])
    path.write_bytes(content)


def damage_pages(path: Path) -> None:
    """Damage the first page of every column of a Parquet file, so that its schema can still be read."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    for column in (group.column(i) for i in range(group.num_columns)):
        damage(path, column.dictionary_page_offset or column.data_page_offset)
