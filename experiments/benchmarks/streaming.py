"""The limit of the machine: the time of moving an operation's bytes without doing anything else.

"beta" stands for mopps and threshold, which keep a Beta posterior per prompt; dps keeps probabilities of three solve
states and a 3 x 3 matrix of transition counts. These are the floats (of four bytes) per prompt of the pool that an
operation has to move, if everything else stays in registers:

    beta select     reads 2 (successes, failures), writes a score and reads it again to choose
    beta predict    reads 2, writes 1
    beta observe    reads and writes 3 per observed prompt only, so it is not compared with a copy
    dps select      reads the probability of "mixed" to find the threshold, and again to choose
    dps observe     reads 3 + 9 (the prediction, transition counts), writes 3 + 3 (the filtered and the next belief)
    dps predict     reads 3, writes 3
    kalman select   reads 3 (mean, variance, step of the last visit), writes a score and reads it again to choose
    kalman predict  reads 3, writes 1
    uniform select  writes a random number and reads it again

A copy of x bytes moves 2 x bytes: it reads and writes each of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.clock import median_milliseconds
from experiments.benchmarks.peers.common import Peer

_FLOAT = 4
_BETA = {"select": 2 + 2, "predict": 2 + 1}
FLOATS_PER_PROMPT = {
    "uniform": {"select": 2, "predict": _BETA["predict"]},
    "mopps": _BETA,
    "threshold": _BETA,
    "dps": {"select": 2, "observe": 3 + 9 + 3 + 3, "predict": 3 + 3},
    "kalman": {"select": 3 + 2, "predict": 3 + 1},
}


def streams(method: str, operation: str) -> bool:
    """Return whether every part of the operation passes over the whole pool."""
    return all(part in FLOATS_PER_PROMPT[method] for part in operation.split(" + "))


def bytes_moved(method: str, operation: str, num_prompts: int) -> int:
    """Return the bytes to read and write; 0 where the operation does not stream over the pool."""
    return sum(_FLOAT * FLOATS_PER_PROMPT[method].get(part, 0) * num_prompts for part in operation.split(" + "))


class Copy(Peer):
    """A peer that only moves the bytes of each operation."""

    def __init__(self, method: str, num_prompts: int, seed: int = 0):
        super().__init__(num_prompts, seed)
        sizes = {name: bytes_moved(method, name, num_prompts) for name in ("select", "observe", "predict")}
        self.kind, self.stream = {}, {}
        for name, size in sizes.items():
            self.kind[name], self.stream[name] = fastest_stream(size)

    def select(self, batch_size: int) -> np.ndarray:
        """Move the bytes of a select, without choosing."""
        self.stream["select"]()
        return np.arange(batch_size)

    def observe(self, prompt_ids: Any, successes: Any, group_size: int) -> None:
        """Move the bytes of an observe, without learning."""
        self.stream["observe"]()

    def predict(self) -> None:
        """Move the bytes of a whole-pool predict, without predicting."""
        self.stream["predict"]()


class CopyTo:
    """A stream by `numpy.copyto`, from one half of the bytes to the other."""

    def __init__(self, num_bytes: int):
        self.source = np.ones(num_bytes // 2 // _FLOAT, np.float32)
        self.target = np.empty_like(self.source)

    def __call__(self) -> None:
        np.copyto(self.target, self.source)


class InPlace:
    """A stream by a compiled multiplication in place, which reads and writes every byte of a donated array."""

    def __init__(self, num_bytes: int):
        self.array = jnp.ones(num_bytes // 2 // _FLOAT)
        self.scale = jax.jit(lambda x: x * 0.999, donate_argnums=0)

    def __call__(self) -> None:
        self.array = self.scale(self.array).block_until_ready()


class OutOfPlace:
    """A stream by a compiled addition into a fresh array."""

    def __init__(self, num_bytes: int):
        self.array = jnp.ones(num_bytes // 2 // _FLOAT)
        self.add = jax.jit(lambda x: x + 1)

    def __call__(self) -> None:
        self.add(self.array).block_until_ready()


def fastest_stream(num_bytes: int) -> tuple[str, Callable[[], None]]:
    """Return the name of the fastest way to read half of the bytes and write the other half, and the way itself."""
    if num_bytes == 0:
        return "nothing", lambda: None
    kinds = [InPlace, OutOfPlace] if jax.default_backend() != "cpu" else [CopyTo, InPlace, OutOfPlace]
    best, quickest = None, float("inf")
    for kind in kinds:
        stream = kind(num_bytes)
        time = median_milliseconds(stream, repeats=5)
        if time < quickest:
            best, quickest = stream, time
    assert best is not None
    return type(best).__name__, best
