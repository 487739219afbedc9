"""A journal of a server's calls. A call is on disk before it is answered, so that a crash loses no answered call."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from jaxsel.integrations.atomic_files import named

_CURE = "load a checkpoint of the trainer into a new folder"


class Journal:
    """A file with one line per call: a checksum and the call as JSON.

    Args:
        path: The file, made where it is missing. Its folder exists.
    """

    def __init__(self, path: Path):
        self.path = path
        path.touch()

    def append(self, call: dict[str, Any]) -> None:
        """Add a call. It is on disk when this returns.

        Raises:
            OSError: The disk is full, or fails otherwise. The journal stays as it was.
        """
        line = _line(call)
        with named(self.path, "the call was not carried out"), self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError("the disk is full")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def read(self) -> list[dict[str, Any]]:
        """Return all calls in their order. A last line that a crash cut short is removed: its call was not answered.

        Raises:
            ValueError: The journal is damaged elsewhere.
        """
        calls, end = [], 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines):
            call = _call(line)
            if call is None and number < len(lines) - 1:
                raise ValueError(f"{self.path} is damaged in line {number + 1}; {_CURE}")
            if call is not None:
                calls.append(call)
                end += len(line)
        os.truncate(self.path, end)
        return calls

    def clear(self) -> None:
        """Remove all calls, because a saved state includes them."""
        os.truncate(self.path, 0)


def _line(call: dict[str, Any]) -> bytes:
    text = json.dumps(call).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _call(line: bytes) -> dict[str, Any] | None:
    """Return the call of a complete line, or None."""
    text = line[9:-1]
    return json.loads(text) if line == b"%08x %s\n" % (zlib.crc32(text), text) else None
