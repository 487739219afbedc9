"""The context in which every command of this folder runs its main function."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """End without a traceback when the reader of the output has gone, as in `--help | head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        output = sys.stdout.fileno()
        if not _abandoned(output):
            raise  # another pipe broke
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes the output once more when it ends
        sys.exit(0)


def _abandoned(descriptor: int) -> bool:
    """Return whether the reading end of a pipe is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
