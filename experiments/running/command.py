"""What every command line of this folder does around its main function."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """Ends without a traceback where nobody reads the output any more, as in `--help | head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        output = sys.stdout.fileno()
        if not _abandoned(output):
            raise  # it was another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # for what Python flushes at its end
        sys.exit(0)


def _abandoned(descriptor: int) -> bool:
    """Whether the reading end of a pipe is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
