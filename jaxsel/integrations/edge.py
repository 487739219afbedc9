"""The common part of all adapters for trainers: `TrainerEdge` stands between a trainer and a selector.

An adapter for a trainer translates that trainer's calls into the calls of `TrainerEdge`. A recorded history needs
`pip install "jaxsel[history]"`; everything else needs jaxsel alone.
"""

import importlib
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import checked_visits
from jaxsel.integrations._pools import checked_texts, row_of
from jaxsel.integrations._recorder import Recorder
from jaxsel.integrations._rewards import checked_threshold, counted
from jaxsel.integrations._state_file import read_state, write_state
from jaxsel.runtime.checkpoint.disk import local_path
from jaxsel.runtime.locking import ProcessBoundLock, locked
from jaxsel.runtime.pool import Keys
from jaxsel.runtime.prompt_selector import PromptSelector
from jaxsel.runtime.signals import SignalsWait

_ENTRIES = {"selector", "waiting", "clock"}


class TrainerEdge:
    """Hands out the prompts that a selector chooses, and lets the selector observe the rewards of their completions.

    >>> import jaxsel
    >>> selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=1000, seed=0, track_in_flight=True)
    >>> edge = TrainerEdge(selector, success="accuracy", threshold=0.5)
    >>> prompt_ids = edge.next_batch(2)
    >>> edge.observe(prompt_ids, {"accuracy": [[1.0, 0.0, None], [0.0]], "format": [[0.1, 0.1, 0.1], [0.1]]})
    >>> edge.metrics()["selector/mixed_share"]
    0.5

    Success is binary: one named reward is above a threshold. The sum of all rewards is not success, because a wrong
    answer may have a reward for its format. A completion whose reward is None, NaN or infinite was not judged: it is
    neither a success nor a failure.

    A prompt that was handed out is in flight until it is observed, released or timed out (`in_flight_steps` of the
    selector). It is not chosen again before. Threads may share an edge: one method runs at a time. The same calls in
    the same order give the same prompts, also across `save` and `load`.

    Args:
        selector: Selector made with `track_in_flight=True`.
        success: Name of the reward that tells whether a completion is correct. None: there is only one reward.
        threshold: The largest reward that is not a success.
        draw_size: Number of prompts to choose together when a call asks for fewer. The others wait for the next calls.
            Choosing one prompt takes about as long as choosing a batch, so give the size of a training batch where
            prompts are handed out one by one. None: each call chooses the prompts that it returns.
        keys: Names of the prompts for `rows`, in the order of the pool: the same keys that the selector has.
        history: Folder in which to record what was observed, for `jaxsel.integrations.history.read_history`. None:
            nothing is recorded.
        texts: Texts of the prompts for the recorded history.

    Raises:
        ValueError: The selector does not track prompts in flight, the keys are those of another pool, there is not one
            text per prompt, an argument is out of range, or `history` is the address of a remote store.
        ImportError: A history is asked for, and pyarrow is not installed.
    """

    def __init__(
        self,
        selector: PromptSelector,
        *,
        success: str | None = None,
        threshold: float = 0.5,
        draw_size: int | None = None,
        keys: Keys | None = None,
        history: str | Path | None = None,
        texts: Sequence[str] | None = None,
    ):
        _validate.made(PromptSelector, selector=selector)
        if selector.in_flight is None:
            raise ValueError("selector does not track prompts in flight; make it with track_in_flight=True")
        if draw_size is not None:
            _validate.positive_integer(draw_size=draw_size)
        self._lock = ProcessBoundLock()
        self.selector = selector
        self._success, self._threshold = success, checked_threshold(threshold)
        self._draw_size = int(draw_size or 1)
        self._row_of = None if keys is None else row_of(keys, selector.pool)
        self._history = None if history is None else local_path(history, "history")
        self._texts = checked_texts(texts, selector.num_prompts)
        if history is not None:
            importlib.import_module("jaxsel.integrations.history")  # if pyarrow is missing, fail before the first batch
        self._recorder = Recorder()
        self._waiting = np.zeros(0, np.int32)  # prompts that were chosen in advance and not handed out yet
        self._resumed, self._judged_share = False, math.nan

    @locked
    def next_batch(self, batch_size: int) -> Int[np.ndarray, " b"]:
        """Hand out distinct prompts that are not in flight.

        Raises:
            ValueError: There are fewer such prompts than `batch_size`. Nothing is handed out then.
        """
        _validate.positive_integer(batch_size=batch_size)
        self.open_history()
        waiting = self._waiting
        if batch_size > len(waiting):
            waiting = np.concatenate([waiting, self._draw(batch_size - len(waiting))])
        handed_out, self._waiting = np.split(waiting, [batch_size])
        return handed_out.copy()

    def next_prompt(self) -> int:
        """Hand out one prompt that is not in flight, see `next_batch`."""
        return int(self.next_batch(1)[0])

    def rows(self, keys: Sequence[Any] | np.ndarray) -> Int[np.ndarray, " b"]:
        """Return the rows of the prompts with these keys.

        Raises:
            ValueError: A key is not in the pool, or the edge was made without keys.
        """
        if self._row_of is None:
            raise ValueError("this edge was made without keys; give keys= when you make it")
        names = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
        for at, name in enumerate(names):
            if not isinstance(name, Hashable) or name not in self._row_of:
                raise ValueError(f"keys[{at}] is {name!r:.60}, which is not in the pool; give keys of the pool")
        return np.array([self._row_of[name] for name in names], np.int32)

    @locked
    def observe(
        self, prompt_ids: ArrayLike, rewards: ArrayLike | Sequence[Any] | Mapping[str, Any], *, step: int | None = None
    ) -> None:
        """Let the selector learn from rewards. Call this before the trainer filters or masks completions.

        Groups may have any sizes and may arrive late or in parts. A group is empty if all its generations failed.

        Args:
            prompt_ids: Rows of the pool; `rows` finds them by key.
            rewards: One sequence of rewards per id, an array `[b, n]`, or one reward per id, where ids may repeat. Or a
                mapping from the names of several rewards to such a value.
            step: The trainer's number of the step. All calls with the same number form one step of the selector;
                without a number, each call is a step. See `PromptSelector.observe`.

        Raises:
            ValueError: The named reward is missing, lengths differ, a reward is not a number, or an id is not a row of
                the pool. The state stays as it was.
        """
        ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=self.selector.num_prompts)
        successes, group_size = counted(ids, rewards, self._success, self._threshold)
        self.open_history()
        visits = checked_visits(ids, successes, group_size, self.selector.num_prompts)
        recorder = self._recorder
        prediction = None
        if recorder.log is not None:  # other prompts of the step, observed earlier, must not be known
            ends = not recorder.continues(step)
            prediction = self.selector.predict(visits.prompt_ids, open_step=ends)
        with SignalsWait():
            self.selector.observe(ids, successes, group_size, step=step)
            recorder.add(step, visits, prediction)
            # an observed prompt may be chosen again: if it waited too, it could be handed out twice
            self._waiting = self._waiting[~np.isin(self._waiting, ids)]
            self._judged_share = float((group_size > 0).mean()) if len(ids) else math.nan

    @locked
    def end_step(self) -> None:
        """End the step that `observe(..., step=...)` began.

        Without this call, the step ends when a later step begins, when prompts are chosen, or at a checkpoint.
        """
        self._recorder.end_step()
        self.selector.end_step()

    @property
    def step_is_open(self) -> bool:
        """Whether observations wait for the end of their step. A checkpoint would end this step."""
        return self.selector.step_is_open

    @locked
    def release(self, prompt_ids: ArrayLike | None = None) -> None:
        """Give prompts back without an observation; None: all prompts that are in flight.

        After `load`, prompts whose completions were lost in the crash are still in flight: release them, unless the
        trainer generates them again.

        Raises:
            ValueError: An id is not a row of the pool.
        """
        given = self.selector.in_flight if prompt_ids is None else prompt_ids
        ids = _validate.rows("prompt_ids", given if given is not None else (), self.selector.num_prompts)
        self.selector.release(ids)
        self._waiting = self._waiting[~np.isin(self._waiting, ids)]

    @property
    @locked
    def handed_out(self) -> Int[np.ndarray, " k"]:
        """Rows of the prompts that were handed out and are still in flight, in ascending order."""
        in_flight = self.selector.in_flight
        return np.setdiff1d(() if in_flight is None else in_flight, self._waiting).astype(np.int32)

    @locked
    def metrics(self) -> dict[str, float]:
        """Return the finite metrics of the selector, under names that begin with "selector/".

        The edge adds two metrics. `in_flight` is the number of prompts that were handed out and are still in flight.
        `judged_share` is the share of the last observed groups that had a judged completion.
        """
        in_flight = self.selector.in_flight
        own = {"selector/in_flight": float(len(() if in_flight is None else in_flight) - len(self._waiting))}
        own |= {"selector/judged_share": self._judged_share}
        return {name: value for name, value in (self.selector.metrics() | own).items() if math.isfinite(value)}

    @locked
    def open_history(self) -> None:
        """Open the folder of the history, if there is one. The first batch or observation does so at the latest.

        Raises:
            ValueError: The folder holds another run, and this edge has loaded no state. It lacks batches that were
                observed without it. Or it holds something else.
        """
        if self._history is not None and self._recorder.log is None:
            about = {"num_prompts": self.selector.num_prompts, "spec": self.selector.spec, "texts": self._texts}
            self._recorder.record_in(self._history, resumed=self._resumed, **about)

    @locked
    def flush(self) -> None:
        """End the open step, as every checkpoint does, and write the recorded history to disk.

        `save` and `state_dict` do so too. Without a history, nothing happens.
        """
        if self._recorder.log is not None:
            self.selector.end_step()
            self._recorder.flush()

    @locked
    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs, in dictionaries and lists of numbers, strings and bytes."""
        self.selector.end_step()
        self._recorder.flush()  # flush first: a resumed run needs every batch that its checkpoint counts
        counts = {"clock": self._recorder.clock, "unrecorded": self._recorder.unrecorded}
        return {"selector": self.selector.state_dict(), "waiting": self._waiting.tolist(), **counts}

    @locked
    def load_state_dict(self, state_dict: dict[str, Any], *, changed_pool: bool = False) -> None:
        """Continue from the state of another edge. The history drops the batches that were recorded after that state.

        Args:
            state_dict: What `state_dict` returned.
            changed_pool: Whether prompts may have been added, removed or reordered. They are then matched by their
                keys, prompts in flight are free again, and a history begins anew in a folder of its own.

        Raises:
            ValueError: The state is of another method, other hyperparameters or another pool. Nothing changes then.
        """
        if not isinstance(state_dict, dict) or not state_dict.keys() >= _ENTRIES:
            raise ValueError(f"state_dict is {state_dict!r:.60}; give what TrainerEdge.state_dict returned")
        kept, num_prompts = [] if changed_pool else state_dict["waiting"], self.selector.num_prompts
        waiting = _validate.integers("state_dict['waiting']", kept, low=0, high=2**31)
        _validate.distinct("state_dict['waiting']", waiting)
        if (waiting >= num_prompts).any():
            held = f"prompt {waiting.max()} of a pool larger than {num_prompts}"
            raise ValueError(f"state_dict['waiting'] holds {held}; give the same pool, or changed_pool=True")
        counts = {"clock": state_dict["clock"], "unrecorded": state_dict.get("unrecorded", 0)}  # older: no such entry
        _validate.integer_in(0, 2**31, **counts)
        self.selector.load_state_dict(state_dict["selector"], changed_pool=changed_pool)
        self._waiting, self._resumed = waiting, not changed_pool
        ended = int(state_dict["selector"]["metadata"]["counters"].get("ended_step", -1))
        self._recorder = Recorder() if changed_pool else Recorder(ended=ended, **counts)
        if changed_pool:
            self.release()

    def save(self, path: str | Path) -> None:
        """Write the state to one file, which replaces an earlier file only when it is complete.

        Raises:
            OSError: The disk is full, or fails otherwise.
        """
        write_state(local_path(path), self.state_dict())

    def load(self, path: str | Path, *, changed_pool: bool = False) -> None:
        """Continue from the file that `save` wrote; `changed_pool` as in `load_state_dict`.

        Raises:
            ValueError: The file is missing or damaged, or it is of another method, other hyperparameters or another
                pool. Nothing changes then.
        """
        self.load_state_dict(read_state(local_path(path)), changed_pool=changed_pool)

    def _draw(self, missing: int) -> Int[np.ndarray, " d"]:
        """Choose the missing prompts, and further ones up to `draw_size` in total if they are not in flight."""
        in_flight = self.selector.in_flight
        free = self.selector.num_prompts - len(() if in_flight is None else in_flight)
        chosen = self.selector.select(max(missing, min(self._draw_size, free)))
        self._recorder.end_step()  # because `select` ends the selector's step too
        return chosen
