"""The belief of a selector about its pool: the method's state on the devices, and counts of visits on the host.

A visit is one step in which rollouts of a prompt are observed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from jaxsel._visits import Visits, checked_ids
from jaxsel.base import Prediction, Selector, State
from jaxsel.runtime.bookkeeping import Bookkeeping
from jaxsel.runtime.compiled import (
    compiled_predict,
    compiled_preview,
    compiled_update,
    initial_key,
    lengthened,
    wide_bucket,
)
from jaxsel.runtime.signals import SignalsWait
from jaxsel.runtime.steps import OpenStep


class Belief:
    """The state of a method, which updates change.

    Args:
        selector: Method, sharded if the pool is spread over a mesh of devices.
        num_prompts: Size of the pool.
        seed: Seed of every random key.

    Attributes:
        state: State of the method. Each update donates it to the next state.
        seed: Seed of every random key.
        updates: Number of updates so far. The random keys depend on it.
        books: Counts of visits, and errors of the last predictions. `current_books` adds the open step.
        step: The open step: observations that are not yet in the state, because their step has not ended.
    """

    def __init__(self, selector: Selector, num_prompts: int, seed: np.uint32):
        self.state: State = selector.init(initial_key(seed), num_prompts)
        self.seed = seed
        self.updates = 0
        self.books = Bookkeeping(np.zeros(num_prompts, np.int32), np.full(num_prompts, -1, np.int32), 0)
        self.step = OpenStep()
        self._num_prompts = num_prompts
        self._predict = compiled_predict(selector.predict)
        self._update = compiled_update(selector.update)
        self._preview = compiled_preview(selector.update)

    def observe(self, visits: Visits, step: int | None) -> None:
        """Update the state with the visits: at once if `step` is None, otherwise when the step ends. Signals must wait.

        Raises:
            ValueError: The counts of a prompt in the step sum to 2^24 or more. The belief stays as it was.
        """
        if step is None or self.step.is_over(step):
            self.end_step()
        if step is None:
            self._learn(*visits)
            self.books.note(visits)
        else:
            self.books.settle()
            self.step.add(step, visits)

    def observe_on_device(
        self, prompt_ids: ArrayLike, successes: Int[Array, " b"], group_size: Int[Array, " b"]
    ) -> Int[np.ndarray, " b"]:
        """Learn from counts on a device without waiting for them; return the ids as a vector. Signals must wait.

        Raises:
            ValueError: The lengths differ, or an id is not a row of the pool.
        """
        ids = checked_ids(prompt_ids, successes, group_size, self._num_prompts)
        self.end_step()
        counts = _copied(successes), _copied(group_size)
        here = jax.tree.leaves(self.state)[0].sharding
        self._learn(ids, *(jax.device_put(column.astype(np.int32), here) for column in counts))
        self.books.note_later(ids, *counts)
        return ids

    def end_step(self) -> None:
        """Learn from the observations of the open step, if one is open."""
        visits = self.step.visits
        if visits is None:
            return
        with SignalsWait():
            self._learn(*visits)  # first: if it fails, the step stays open with its observations
            self.step.end()
            self.books.note(visits)

    def predict(self, prompt_ids: Int[np.ndarray, " m"] | None, *, open_step: bool = True) -> Prediction:
        """Return predictions as NumPy arrays, for these prompts or for the whole pool if `prompt_ids` is None.

        With `open_step` false, observations of the open step do not count.
        """
        state, updates = self.current_state() if open_step else (self.state, self.updates)
        if prompt_ids is None:
            return jax.tree.map(np.array, self._predict(state, self.seed, updates, None))
        prediction = self._predict(state, self.seed, updates, lengthened(prompt_ids))
        return jax.tree.map(lambda field: np.array(np.asarray(field)[: len(prompt_ids)]), prediction)

    def current_state(self) -> tuple[State, int]:
        """Return the state and the number of updates as they would be if the open step ended. It stays open."""
        visits = self.step.visits
        if visits is None:
            return self.state, self.updates
        return self._preview(self.state, self.seed, self.updates, self._batch(visits)), self.updates + 1

    def current_books(self) -> Bookkeeping:
        """Return the books as they would be if the open step ended. It stays open."""
        return self.books if self.step.visits is None else self.books.with_visits(self.step.visits)

    @property
    def counters(self) -> dict[str, int]:
        """The number of updates and the last ended step, if there is one, for a checkpoint."""
        ended = {"ended_step": self.step.ended} if self.step.ended >= 0 else {}
        return {"observes": self.updates, **ended}

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of the books, for a checkpoint."""
        return {"visits": self.books.visits, "last_visit": self.books.last_visit}

    def put_back(self, state: State, arrays: dict[str, Any], counters: dict[str, Any], seed: np.uint32) -> None:
        """Continue from a checkpoint. The next update donates the state: nothing else may hold its arrays."""
        self.state = state
        self.seed = seed
        self.updates = int(counters["observes"])
        visits = np.array(arrays["visits"], np.int32)
        never = np.full(len(visits), -1, np.int32)  # checkpoints of earlier versions lack the last visits
        self.books = Bookkeeping(visits, np.array(arrays.get("last_visit", never), np.int32), self.updates)
        self.step = OpenStep(int(counters.get("ended_step", -1)))

    def _learn(self, *rollouts: Int[Array | np.ndarray, " b"]) -> None:
        """Update the state with ids, successes and group sizes. Signals must wait: the update donates the state."""
        self.books.settle()
        self.state = self._update(self.state, self.seed, self.updates, self._batch(rollouts))
        self.updates += 1

    def _batch(self, rollouts: Any) -> tuple[Any, ...]:
        """Return the columns, padded to one of few sizes; the padding is an id that is no prompt, without rollouts."""
        fills = (self._num_prompts, 0, 0)
        return tuple(lengthened(*column, to=wide_bucket) for column in zip(rollouts, fills, strict=True))


def _copied(counts: Any) -> Any:
    """Return a copy of a JAX or NumPy array, without waiting: the caller may change or donate its own at any time."""
    return jnp.array(counts) if isinstance(counts, jax.Array) else np.array(counts)
