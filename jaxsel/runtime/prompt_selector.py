"""The stateful object for trainers: it takes and returns NumPy arrays, and keeps the state of the pool."""

import jax
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import checked_visits
from jaxsel.base import Prediction, call_optional
from jaxsel.runtime.choosing import Choice
from jaxsel.runtime.locking import locked
from jaxsel.runtime.pool import Keys, fingerprint_of
from jaxsel.runtime.resumable import ResumableSelector
from jaxsel.runtime.signals import SignalsWait
from jaxsel.runtime.table import pool_table


class PromptSelector(ResumableSelector):
    """Chooses the prompts of every training step and learns from their rollouts.

    >>> import jaxsel
    >>> selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=1000, seed=0)
    >>> prompt_ids = selector.select(4)
    >>> selector.observe(prompt_ids, successes=[0, 3, 8, 5], group_size=8)
    >>> print(selector.predict(prompt_ids).success_rate)
    [0.1 0.4 0.9 0.6]

    The same seed and the same observations give the same choices, also across `save` and `load`. `predict` and
    `metrics` never change a later choice. A mesh of devices changes no choice either, except with GPS, see
    `jaxsel.runtime.sharded`.

    Each call of `observe` is one step. Methods such as DPS age all beliefs once per step. Calls that name the same
    `step` are one step together. Their step ends when a later step begins, at a call without `step`, and at `select`,
    `prepare`, `wait`, `end_step` and every checkpoint.

    Threads may share a selector: one method runs at a time. A forked child process gets an error. A selector can be
    copied. It can be pickled if its method can be rebuilt from `spec`; the unpickled selector lies on one device.
    Copies are independent.

    Args:
        selector: Method, for example `jaxsel.mopps()`.
        keys: Unique names of the prompts, strings or integers, in the order of the pool. Checkpoints record them.
        num_prompts: Size of the pool, in place of `keys`.
        seed: Seed of every random choice, from 0 to 2**32 - 1.
        candidate_ratio: If given, each batch is chosen from a window: the next `candidate_ratio * batch_size` prompts
            in an order that is shuffled for every epoch, as in the papers. None: from the whole pool.
        mesh: Mesh of devices that the pool is spread over, see `prompts_mesh`; None: one device holds the pool. If
            several processes share the mesh, each calls the same methods with the same arguments and gets the same
            results.
        track_in_flight: Whether selected prompts are in flight, and not chosen again, until they are observed or
            released. Trainers that select a batch before they have observed the last one need it.
        in_flight_steps: Number of later selections after which a prompt is no longer in flight; None: no limit.

    Raises:
        ValueError: Not exactly one of `keys` and `num_prompts` is given, keys repeat, an argument is out of its range,
            or the selector cannot be sharded, see `shard`.
    """

    @property
    @locked
    def visits(self) -> Int[np.ndarray, " N"]:
        """The number of visits to each prompt: steps with at least one of its rollouts observed."""
        return self._belief.current_books().visits.copy()

    @property
    @locked
    def in_flight(self) -> Int[np.ndarray, " k"] | None:
        """Rows of the prompts in flight, see `track_in_flight`, in ascending order; None without tracking."""
        tracked = self._chooser.in_flight
        return None if tracked is None else np.flatnonzero(tracked.mask(self._chooser.selects)).astype(np.int32)

    @locked
    def longest_in_flight(self, among: ArrayLike | None = None) -> Int[np.ndarray, " k"] | None:
        """Return the rows in flight of the earliest selection that has any, in ascending order; None without tracking.

        Args:
            among: Rows of the pool; other rows are left out. None: the whole pool.

        Raises:
            ValueError: An entry of `among` is not a row of the pool.
        """
        rows = None if among is None else _validate.rows("among", among, self.num_prompts)
        tracked = self._chooser.in_flight
        return None if tracked is None else tracked.longest(self._chooser.selects, rows).astype(np.int32)

    @property
    @locked
    def step_is_open(self) -> bool:
        """Whether a step that `observe(..., step=...)` began has not ended, so that its observations wait."""
        return self._belief.step.visits is not None

    @locked
    def select(
        self, batch_size: int, candidates: ArrayLike | None = None, *, exclude: ArrayLike | None = None
    ) -> Int[np.ndarray, " b"]:
        """Choose prompts for the next step.

        Args:
            batch_size: Number of prompts.
            candidates: Distinct rows to choose from, or a boolean mask of the pool, in place of the window or the whole
                pool.
            exclude: Rows that must not be chosen, or a boolean mask of the pool. The window skips these rows and offers
                them later.

        Returns:
            Distinct rows of the pool.

        Raises:
            ValueError: `batch_size` exceeds the number of prompts to choose from, or candidates are not distinct rows.
        """
        choice = self._choice(batch_size, candidates, exclude)
        ids = self._chooser.take(choice)
        self._prepared = None
        self._belief.books.opened(ids.copy(), choice.selection.prediction)
        return ids

    @locked
    def release(self, prompt_ids: ArrayLike) -> None:
        """Allow prompts in flight to be chosen again without an observation, see `track_in_flight`.

        Raises:
            ValueError: An id is not a row of the pool, or the selector does not track prompts in flight.
        """
        if self._chooser.in_flight is None:
            raise ValueError("this selector does not track prompts in flight; make it with track_in_flight=True")
        self._chooser.in_flight.release(_validate.rows("prompt_ids", prompt_ids, self.num_prompts))
        self._prepared = None

    @locked
    def prepare(self, batch_size: int) -> None:
        """Start to compute the result of the next `select(batch_size)` and return at once.

        This changes no choice: `observe`, and `select` with other arguments, discard the prepared selection.

        Raises:
            ValueError: The same as for `select`.
        """
        self._prepared = self._choice(batch_size, None, None)

    @locked
    def predict(self, prompt_ids: ArrayLike | None = None, *, open_step: bool = True) -> Prediction:
        """Return predictions as NumPy arrays, one entry per id; no ids: one per prompt of the pool.

        Args:
            prompt_ids: Rows of the pool.
            open_step: Whether observations of a step that has not ended count, see `observe`.

        Raises:
            ValueError: An id is not a row of the pool.
        """
        if prompt_ids is None and self._mesh is not None:
            # in parts, so that no device holds the whole pool
            rows = np.array_split(np.arange(self.num_prompts), self._mesh.size)
            parts = [self.predict(ids, open_step=open_step) for ids in rows]
            return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)
        if prompt_ids is not None:
            prompt_ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=self.num_prompts)
        return self._belief.predict(prompt_ids, open_step=open_step)

    @locked
    def table(self, keys: Keys | None = None, *, level: float = 0.9) -> dict[str, np.ndarray]:
        """Return visits and predictions of the whole pool as columns, for `pandas.DataFrame` or `pyarrow.table`.

        The columns are `key` (if keys are given), `visits`, `last_visit` (the step of the last visit, counted from 0;
        -1 before the first visit), `success_rate`, `lower` and `upper` (its central interval), and `mixed` (the
        probability that a group of rollouts is mixed). The interval belongs to the Beta distribution with the
        predicted mean and variance.

        Args:
            keys: The keys that this selector was made with; it stores only their hashes.
            level: Probability of the interval, above 0 and below 1.

        Raises:
            ValueError: The keys are those of another pool, or the level is out of its range.
        """
        if not (_validate.is_number(level) and 0 < level < 1):
            raise ValueError(f"level is {level}; give a number above 0 and below 1")
        if keys is not None and fingerprint_of(keys) != self.pool:
            raise ValueError(
                f"keys are not those of this selector's pool ({self.pool}); give the same in the same order"
            )
        books = self._belief.current_books()
        return pool_table(self.predict(), books.visits, books.last_visit, keys, level)

    @locked
    def observe(
        self, prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike, *, step: int | None = None
    ) -> None:
        """Learn from the outcome of rollouts. Each call is one step, unless it names its `step`.

        Late observations are welcome, and so are prompts that were never selected. To observe a batch in parts, pass
        the same `step` with each part: together they count as one call. Repeated ids are one visit with summed counts.
        A prompt with group_size 0 (none of its rollouts got a reward) does not count as visited.

        Args:
            prompt_ids: Rows of the pool.
            successes: s, correct rollouts per row; booleans are 0 and 1.
            group_size: n, rollouts per row that got a reward, or one number for all rows.
            step: The trainer's number of the step. A larger number than before ends the previous step. Observations of
                a step that has already ended count in the open step, or in the next step if none is open. A loaded
                selector knows which steps have ended, so the numbers of a resumed run must go on.

        Raises:
            ValueError: The lengths differ, an id is not a row of the pool, or the counts are not integers with
                0 <= successes <= group_size. The state stays as it was.
        """
        visits = checked_visits(prompt_ids, successes, group_size, self.num_prompts)
        if step is not None:
            _validate.integer_in(0, 2**31, step=step)
        with SignalsWait():
            self._belief.observe(visits, None if step is None else int(step))
            self._observed(prompt_ids)

    @locked
    def observe_on_device(
        self, prompt_ids: ArrayLike, successes: Int[Array, " b"], group_size: Int[Array, " b"]
    ) -> None:
        """Do the same as `observe`, with counts that a device holds or still computes. Ids are on the host.

        Without a mesh, this call does not wait for the counts.

        Raises:
            ValueError: The lengths differ, or an id is not a row of the pool. The state stays as it was. Wrong counts
                raise the error later: in `visits`, `metrics`, a checkpoint or the next observation. The state has used
                the wrong counts by then, so discard this selector and load a checkpoint.
        """
        if self._mesh is not None:
            return self.observe(prompt_ids, successes, group_size)
        with SignalsWait():
            self._observed(self._belief.observe_on_device(prompt_ids, successes, group_size))

    @locked
    def end_step(self) -> None:
        """End the step that `observe(..., step=...)` began, and start to update the state with its observations."""
        self._belief.end_step()

    @locked
    def wait(self) -> None:
        """Wait until the state includes the last observation; `observe` itself returns while the device computes."""
        self._belief.end_step()
        jax.block_until_ready(self._belief.state)

    @locked
    def metrics(self) -> dict[str, float]:
        """Return updates so far, the visited share of the pool, and metrics of predictions and method, by name.

        The metrics of predictions compare the last observed batch with its prediction, if it was chosen by one of the
        newest 64 selections, or of more where these hold fewer than 256 prompts.
        """
        (state, updates), books = self._belief.current_state(), self._belief.current_books()
        return {
            "selector/observes": float(updates),
            "selector/coverage": books.coverage,
            **{f"selector/{name}": value for name, value in books.report().items()},
            **{f"selector/{name}": float(value) for name, value in call_optional(state, "metrics", {}).items()},
        }

    def _choice(self, batch_size: int, candidates: ArrayLike | None, exclude: ArrayLike | None) -> Choice:
        """Return the prepared choice if it fits, or else start a new one."""
        _validate.positive_integer(batch_size=batch_size)
        ready = self._prepared if candidates is None and exclude is None else None
        if ready is not None and ready.batch_size == batch_size:
            return ready
        return self._chooser.choose(self._belief, int(batch_size), candidates, exclude)

    def _observed(self, prompt_ids: ArrayLike) -> None:
        """Discard the prepared choice, and release the observed prompts, also those with group_size 0."""
        self._prepared = None
        if self._chooser.in_flight is not None:
            ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=self.num_prompts)
            self._chooser.in_flight.release(ids)
