"""A stand-in for vLLM that fails on request, so that tests of an engine's reaction need no vLLM."""

import os
import time
from pathlib import Path

from rl.engines._vllm_server import Completion


class FakeServer:
    """A server that fails as requested. Otherwise it completes every prompt with one token and the end of sequence.

    The number of the token is the first weight of `lm_head`, so that a completion shows which weights were loaded.
    `options["trouble"]` names the failure: raise, die, hang (the process stops answering), slow (every second request
    is late) or no start. The first `options["times"]` calls of `generate` fail. A file counts them across processes.
    """

    def __init__(self, folder, options):
        self._trouble, self._times = options["trouble"], options["times"]
        self._count = Path(folder) / "count"
        self._token = 0
        if options["trouble"] == "no start":
            raise OSError("no such model")

    def generate(self, requests, sampling, eos_token_ids, timeout):
        done = int(self._count.read_text()) if self._count.exists() else 0
        self._count.write_text(str(done + 1))
        drawn = [Completion([self._token, eos_token_ids[-1]], [-0.5, -0.25]) for _ in requests]
        if done >= self._times:
            return drawn
        if self._trouble == "raise":
            raise FloatingPointError("bad kernel")
        if self._trouble == "die":
            os._exit(3)
        if self._trouble == "hang":
            time.sleep(1e6)
        return [completion if i % 2 else None for i, completion in enumerate(drawn)]

    def load(self, weights):
        weights = dict(weights)
        self._token = int(weights["lm_head.weight"].flatten()[0])

    def close(self):
        pass
