"""Candidates from an epoch-shuffled window, as the papers' data loaders give them."""

import numpy as np
from jaxtyping import Bool, Int

_STREAM = 0x77696E64  # others that draw from the same seed start with another number


class EpochWindow:
    """Deals the rows of a pool in shuffled order: every row once an epoch, no row twice in one window.

    A window that reaches over the end of an epoch is filled from the next one; rows that it holds already keep their
    turn in the new epoch for a later window. The order depends on the seed and the number of the epoch alone.
    """

    def __init__(self, num_prompts: int, seed: int):
        self._num_prompts = num_prompts
        self._seed = seed
        self._epoch = 0
        self._waiting = self._shuffled()

    def take(self, size: int, excluded: Bool[np.ndarray, " N"] | None = None) -> Int[np.ndarray, " c"]:
        """The next `size` rows, distinct; at most the whole pool without the excluded rows.

        Excluded rows are skipped and keep their turn: they are the first to come once they are not excluded.
        """
        if excluded is None:
            window, self._waiting = self._waiting[:size], self._waiting[size:]
        else:
            is_free = ~excluded[self._waiting]
            taken = is_free & (is_free.cumsum() <= size)
            window, self._waiting = self._waiting[taken], self._waiting[~taken]
        if len(window) < size:
            self._epoch += 1
            order, skipped = self._shuffled(), self._waiting
            free = order if excluded is None else order[~excluded[order]]
            fresh = free[~np.isin(free, window)][: size - len(window)]
            window = np.concatenate([window, fresh])
            self._waiting = np.concatenate([skipped, order[~np.isin(order, np.concatenate([fresh, skipped]))]])
        return window

    def state_dict(self) -> dict[str, np.ndarray]:
        """What `load_state_dict` needs to go on in the same order; of one shape at all times, filled up with -1."""
        missing = self._num_prompts - len(self._waiting)
        waiting = np.pad(self._waiting, (0, missing), constant_values=-1)
        return {"epoch": np.asarray(self._epoch, np.int32), "waiting": waiting}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Goes on where the other window was."""
        self._epoch = int(state["epoch"])
        waiting = np.asarray(state["waiting"], np.int32)
        self._waiting = waiting[waiting >= 0]

    def _shuffled(self) -> Int[np.ndarray, " N"]:
        rng = np.random.default_rng([_STREAM, self._seed, self._epoch])
        return rng.permutation(self._num_prompts).astype(np.int32)
