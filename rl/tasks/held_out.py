"""The choice of held-out prompts by their text alone: shuffled data give the same choice, and repeats stay together."""

import logging
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from rl import _checks

_log = logging.getLogger(__name__)
_LEAST_GENERATED = 0.001  # the smallest share of either side for which a generator draws prompts until one is there


def check_share(share: float) -> None:
    """Refuse a share of held-out prompts that leaves nothing on one side.

    Raises:
        ValueError: The share is not above 0 and below 1.
    """
    _checks.from_zero_to_one(held_out_share=share)
    if not 0 < share < 1:
        raise ValueError(f"held_out_share is {share}; give a number above 0 and below 1")


def say_what_is_left_out(num_prompts: int, size: int) -> None:
    """Log that a pool of `num_prompts` leaves out a part of the `size` training prompts; 0 takes all."""
    if 0 < num_prompts < size:
        _log.warning("the pool has %d of %d training prompts; pool_size=0 takes all", num_prompts, size)


def order_of(digests: Sequence[str], seed: int) -> list[int]:
    """Return the rows in a random order that depends on the seed and on each prompt's digest (hash) alone."""
    return sorted(range(len(digests)), key=lambda row: _rank(digests[row], seed))


def held_out_rows(digests: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Return whether each row is held out, bool `[N]`: the first of the distinct prompts, in a random order, are.

    Args:
        digests: One digest per prompt; equal prompts have equal digests.
        share: Share of the distinct prompts, rounded, but at least one prompt.
        seed: Seed of the order.
    """
    distinct = sorted(set(digests), key=lambda digest: _rank(digest, seed))
    chosen = set(distinct[: max(1, round(share * len(distinct)))])
    return np.array([digest in chosen for digest in digests], bool)


def _rank(digest: str, seed: int) -> bytes:
    return blake2b(f"{seed} {digest}".encode(), digest_size=16).digest()


class Split(NamedTuple):
    """The split of a task's prompts into training and held-out ones, by the text of the prompt and a seed.

    Attributes:
        share: Share of the prompts that is held out.
        seed: Seed of the choice.
    """

    share: float
    seed: int

    def is_held_out(self, text: str) -> bool:
        """Return whether a prompt is held out."""
        digest = blake2b(f"{self.seed} {text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.share * 2**64


def split_of_generator(task: str, share: float, seed: int) -> Split:
    """Return the split of a task that generates prompts until enough of them are on the wanted side.

    Raises:
        ValueError: One side is so small that the task would generate prompts almost without end.
    """
    if not _LEAST_GENERATED <= share <= 1 - _LEAST_GENERATED:
        raise ValueError(
            f"held_out_share is {share} with the task {task}, which would generate too many prompts before one is on "
            f"the smaller side; give a number from {_LEAST_GENERATED} to {1 - _LEAST_GENERATED}"
        )
    return Split(share, seed)
