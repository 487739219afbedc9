"""The server of `experiments.watch`, for tests of its pages."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from experiments.watch.runs import Watched
from experiments.watch.server import Server


@contextmanager
def served(watched: Watched, every: float = 10.0) -> Iterator[Server]:
    """Yield a server of these runs on a free port, which answers until the end of the `with` block."""
    with Server(watched, host="127.0.0.1", port=0, every=every) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
