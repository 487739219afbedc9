"""A progress bar that moves in a terminal, and that writes a line every 30 seconds to a file or a log."""

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS = 30.0
"""The seconds between two lines of a progress bar in a log. The first and the last line do not wait."""


def bar(items: Iterable[T], **options: Any) -> "tqdm[T]":
    """Return the items as an iterable that shows a progress bar on standard error.

    Args:
        items: The items to iterate over.
        **options: Options of `tqdm`.
    """
    if sys.stderr.isatty():
        return tqdm(items, **options)
    lines: Any = _Lines(sys.stderr)
    return tqdm(items, **{"file": lines, "mininterval": SECONDS, "maxinterval": SECONDS} | options)


class _Lines:
    """A file that turns the output of tqdm into whole lines, without movements of the cursor."""

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
