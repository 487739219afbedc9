"""What every command line of this folder does around its main function."""

import os
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
        if _readable():
            raise  # it was another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        sys.exit(0)


def _readable() -> bool:
    """Whether standard output still takes what is left to write."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True
