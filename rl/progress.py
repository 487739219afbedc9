"""A progress bar: in a terminal it moves, in a file or a log it prints a line now and then."""

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS = 30.0
"""Between two lines of a bar in a log; the first and the last come at once."""


def bar(items: Iterable[T], **options: Any) -> "tqdm[T]":
    """The items, with a bar on standard error.

    Args:
        items: to go through.
        **options: of `tqdm`.
    """
    if sys.stderr.isatty():
        return tqdm(items, **options)
    lines: Any = _Lines(sys.stderr)
    return tqdm(items, **{"file": lines, "mininterval": SECONDS, "maxinterval": SECONDS} | options)


class _Lines:
    """What tqdm writes, as whole lines without movements of the cursor."""

    def __init__(self, file: TextIO):
        self._file = file
        self._last = ""

    def write(self, text: str) -> None:
        line = re.sub(r"\x1b\[[A-Z]|[\r\n]", "", text).rstrip()
        if line and line != self._last:
            self._file.write(f"{line}\n")
            self._last = line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
