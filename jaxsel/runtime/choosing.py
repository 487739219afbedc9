"""Which prompts a selection may choose from, and the choice among them."""

import copy
import inspect
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.base import Selection, Selector
from jaxsel.runtime.belief import Belief
from jaxsel.runtime.compiled import bucket, compiled_select, lengthened
from jaxsel.runtime.in_flight import InFlight
from jaxsel.runtime.window import EpochWindow

# Batches of up to 256 prompts, or a sixteenth of a smaller pool, share a program: another one takes seconds to compile.
_ONE_PROGRAM, _SHARE = 256, 16


class Choice(NamedTuple):
    """A selection that a device may still compute.

    Attributes:
        batch_size: Number of chosen prompts.
        selection: The chosen prompts. It may be longer than `batch_size`; the rest is padding.
        window: The window after it gave its candidates (see `EpochWindow`); None: the selector has no window.
    """

    batch_size: int
    selection: Selection
    window: EpochWindow | None


class Chooser:
    """Chooses among the whole pool, a window of it or given candidates, without prompts that must not be chosen.

    A window holds the next prompts in a shuffled order of the pool. Prompts in flight are selected and not yet
    observed.

    Args:
        selector: Method, sharded if the pool is spread over a mesh of devices.
        takes_count: Whether `select` and its rule have the argument `count`, the number of prompts to choose.
        num_prompts: Size of the pool.
        seed: Seed of the window's order.
        candidate_ratio: Number of candidates per chosen prompt in a window; None: there is no window.
        in_flight: Record of the prompts in flight; None: they are not tracked.

    Attributes:
        selects: Number of selections so far. The random keys depend on it.
        in_flight: Record of the prompts in flight, or None.
    """

    def __init__(
        self,
        selector: Selector,
        takes_count: bool,
        num_prompts: int,
        seed: np.uint32,
        candidate_ratio: int | None,
        in_flight: InFlight | None,
    ):
        self.selects = 0
        self.in_flight = in_flight
        self._num_prompts = num_prompts
        self._candidate_ratio = candidate_ratio
        self._window = EpochWindow(num_prompts, int(seed)) if candidate_ratio else None
        self._select = compiled_select(selector.select)
        self._takes_count = takes_count
        self._takes_excluded = "excluded" in inspect.signature(selector.select).parameters

    def choose(
        self, belief: Belief, batch_size: int, candidates: ArrayLike | None, exclude: ArrayLike | None
    ) -> Choice:
        """Start to compute a choice. The belief's open step ends; nothing else changes until `take`.

        Raises:
            ValueError: The candidates or exclusions are wrong, or there are fewer candidates than `batch_size`.
        """
        banned = self._banned(exclude)
        among = None if candidates is None else self._allowed(candidates, banned)
        num_banned = 0 if banned is None else int(banned.sum())
        size = self._num_prompts - num_banned if among is None else len(among)
        if batch_size > size:
            without = f", where {num_banned} of the pool are excluded or in flight" if num_banned else ""
            cure = f"give at most {size}" if size else "allow some, with release(...) if they are in flight"
            raise ValueError(f"batch_size is {batch_size} of {size} prompts to choose from{without}; {cure}")
        belief.end_step()
        window = copy.copy(self._window)
        if among is None and window is not None and self._candidate_ratio is not None:
            among = window.take(min(self._candidate_ratio * batch_size, size), banned)
        return Choice(batch_size, self._selection(belief, batch_size, among, banned), window)

    def take(self, choice: Choice) -> Int[np.ndarray, " b"]:
        """Return the ids of the choice, which counts as a selection from now on."""
        ids = np.array(choice.selection.prompt_ids)[: choice.batch_size]
        if self.in_flight is not None:
            self.in_flight.hand_out(ids, self.selects)
        self.selects += 1
        self._window = choice.window
        return ids

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of a checkpoint: the window and the prompts in flight, where the selector has them."""
        window = {} if self._window is None else {"window": self._window.state_dict()}
        return window if self.in_flight is None else window | {"in_flight": self.in_flight.array}

    def put_back(self, arrays: dict[str, Any], selects: int, seed: int) -> None:
        """Continue from the named arrays of a checkpoint."""
        self.selects = selects
        if self._window is not None:
            self._window = EpochWindow(self._num_prompts, seed)
            self._window.load_state_dict({name: arrays[f"window.{name}"] for name in ("epoch", "waiting")})
        if self.in_flight is not None:
            self.in_flight.put_back(arrays.get("in_flight"))

    def _banned(self, exclude: ArrayLike | None) -> Bool[np.ndarray, " N"] | None:
        """Return a mask of the prompts that must not be chosen; None: every prompt may be chosen."""
        if self.in_flight is None and exclude is None:
            return None  # most selections need no mask of the whole pool, so none is made
        banned = np.zeros(self._num_prompts, bool) if self.in_flight is None else self.in_flight.mask(self.selects)
        if exclude is not None:
            banned[_validate.rows("exclude", exclude, self._num_prompts)] = True
        return banned if banned.any() else None

    def _allowed(self, candidates: ArrayLike, banned: Bool[np.ndarray, " N"] | None) -> Int[np.ndarray, " c"]:
        rows = _validate.rows("candidates", candidates, self._num_prompts)
        _validate.distinct("candidates", rows)
        return rows if banned is None else rows[~banned[rows]]

    def _selection(
        self,
        belief: Belief,
        batch_size: int,
        among: Int[np.ndarray, " c"] | None,
        banned: Bool[np.ndarray, " N"] | None,
    ) -> Selection:
        """Start to select. Sizes are rounded up, so that few programs are compiled."""
        options: dict[str, Any] = {}
        if among is None and banned is not None:
            if self._takes_excluded:
                options["excluded"] = banned
            else:
                among = np.flatnonzero(~banned).astype(np.int32)
        if among is not None and self._takes_excluded:
            among = np.asarray(lengthened(among, -1))
        size = batch_size
        if self._takes_count:
            size = max(bucket(batch_size), min(_ONE_PROGRAM, bucket(self._num_prompts // _SHARE)))
            size = min(size, self._num_prompts if among is None else len(among))
            options["count"] = np.int32(batch_size)
        return self._select(belief.state, belief.seed, self.selects, size, among, options)
