"""Candidates from a window that moves over a shuffled pool, as the data loaders of the papers provide them."""

import numpy as np
from jaxtyping import Bool, Int

from jaxsel._rows import new_rows

_STREAM = 0x77696E64  # makes this order independent of other random numbers with the same seed


class EpochWindow:
    """Offers the rows of a pool in shuffled order: every row once per epoch, no row twice in one window.

    A window that passes the end of an epoch is filled from the next epoch. Rows that it already contains are offered
    again in the new epoch, in a later window. The order depends only on the seed and the number of the epoch.
    """

    def __init__(self, num_prompts: int, seed: int):
        self._num_prompts = num_prompts
        self._seed = seed
        self._epoch = 0
        self._waiting = self._shuffled()

    def take(self, size: int, excluded: Bool[np.ndarray, " N"] | None = None) -> Int[np.ndarray, " c"]:
        """Return the next `size` distinct rows, at most the whole pool without the excluded rows.

        Excluded rows are skipped. Once they are no longer excluded, they are the first rows of the next window.
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
        """Return what `load_state_dict` needs; padding with -1 keeps the shapes the same at all times."""
        missing = self._num_prompts - len(self._waiting)
        waiting = np.pad(self._waiting, (0, missing), constant_values=-1)
        return {"epoch": np.asarray(self._epoch, np.int32), "waiting": waiting}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what the `state_dict` of another window returned."""
        self._epoch = int(state["epoch"])
        waiting = np.asarray(state["waiting"], np.int32)
        self._waiting = waiting[waiting >= 0]

    def on_changed_pool(self, rows: Int[np.ndarray, " N"]) -> None:
        """Continue with a changed pool, where prompt i was prompt `rows[i]` before, or is new if `rows[i]` is -1.

        Prompts that this epoch has not yet offered keep their order. New prompts get random places among them.
        """
        waiting = new_rows(rows, self._num_prompts)[self._waiting]
        waiting, new = waiting[waiting >= 0], np.flatnonzero(rows < 0).astype(np.int32)
        rng = np.random.default_rng([_STREAM, self._seed, self._epoch, len(rows)])
        places = np.sort(rng.integers(0, len(waiting) + 1, len(new)))
        self._waiting = np.insert(waiting, places, rng.permutation(new))
        self._num_prompts = len(rows)

    def _shuffled(self) -> Int[np.ndarray, " N"]:
        rng = np.random.default_rng([_STREAM, self._seed, self._epoch])
        return rng.permutation(self._num_prompts).astype(np.int32)
