"""A progress bar that moves in a terminal, and plain lines with the time that is left in a file or a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS = 30.0
"""The seconds between two lines in a log. The first estimate and the last line do not wait."""
FIRST = 5
"""The number of items after which a log holds the first estimate of the time that is left."""


def bar(
    items: Iterable[T], *, desc: str = "", unit: str = "item", disable: bool = False, **options: Any
) -> Iterable[T]:
    """Return the items as an iterable that shows its progress on standard error.

    In a log, the estimate leaves out the first item, which often takes longer, for example because it compiles. A range
    counts from its start, as a resumed run does.

    Args:
        items: The items to iterate over.
        desc: The name of the work.
        unit: What an item is.
        disable: Whether to show nothing.
        **options: Further options of `tqdm`, for a terminal.
    """
    if disable or sys.stderr.isatty():
        return tqdm(items, desc=desc or None, unit=unit, disable=disable, **options)
    total = options.get("total", len(items) if isinstance(items, Sized) else None)
    before: int = getattr(items, "start", 0)  # of a range
    return _logged(items, f"{desc}: {unit}" if desc else unit, unit, before, total)


def _logged(items: Iterable[T], head: str, unit: str, before: int, total: int | None) -> Iterator[T]:
    end = "" if total is None else f" of {before + total}"
    began = said = second = time.monotonic()
    number = 0
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        second = now if number == 1 else second
        if number != total and (number == FIRST or now - said >= SECONDS):
            said = now
            pace = (now - second) / (number - 1) if number > 1 else now - began
            left = "" if total is None else f", about {_clock(pace * (total - number))} left"
            _say(f"{head} {before + number}{end}, {_pace(pace, unit)}{left}")
    if number:
        _say(f"{head} {before + number}{end}, done in {_clock(time.monotonic() - began)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _pace(seconds: float, unit: str) -> str:
    return f"{seconds:.2g} s per {unit}" if seconds < 100 else f"{seconds:.0f} s per {unit}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
