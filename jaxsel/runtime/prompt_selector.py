"""The stateful edge: NumPy in, NumPy out, compiled functions and the state of the pool inside."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import checked_ids, checked_visits
from jaxsel.base import Prediction, Selector
from jaxsel.runtime.checkpoint import folder
from jaxsel.runtime.checkpoint import metadata as _metadata
from jaxsel.runtime.checkpoint.arrays import encoded, said_by
from jaxsel.runtime.checkpoint.earlier_belief import arrays_as_here, arrays_as_saved
from jaxsel.runtime.checkpoint.rebuild import selector_from_spec
from jaxsel.runtime.compiled import lengthened
from jaxsel.runtime.core import SelectorCore
from jaxsel.runtime.guard import guarded
from jaxsel.runtime.in_flight import in_flight_as_here, in_flight_as_saved
from jaxsel.runtime.placement import to_devices, to_host
from jaxsel.runtime.pool import Keys, size_of


class PromptSelector(SelectorCore):
    """Chooses the prompts of every training step and learns from their rollouts.

    >>> import jaxsel
    >>> selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=1000, seed=0)
    >>> prompt_ids = selector.select(4)
    >>> selector.observe(prompt_ids, successes=[0, 3, 8, 5], group_size=8)
    >>> print(selector.predict(prompt_ids).success_rate)
    [0.1 0.4 0.9 0.6]

    The same seed and the same observations give the same choices, also across `save` and `load`. `predict` and
    `metrics` never change a later choice. Nor does the mesh, but for GPS, see `jaxsel.sharding`.

    Each call of `observe` is one step of the method's clock, unless it names its step: calls with the same `step` are
    one. Such a step ends when another one begins, and at `select`, `prepare`, `wait`, `end_step` and every checkpoint.

    Threads may share a selector: one method runs at a time. A forked child may not, and is told so. A selector can be
    copied, and pickled where its method can be rebuilt from `spec`; the copy is independent, and a pickled selector
    comes back on one device.

    Args:
        selector: the method, for example `jaxsel.mopps()`.
        keys: unique names of the prompts, strings or integers, in the order of the pool; a checkpoint remembers them.
        num_prompts: the size of the pool, in place of `keys`.
        seed: of every random choice, from 0 to 2**32 - 1.
        candidate_ratio: choose among an epoch-shuffled window of `candidate_ratio * batch_size` prompts, as the papers
            do; None: among the whole pool.
        mesh: of devices that the pool is spread over, see `prompts_mesh`; None: one device has it all. Where several
            processes share the mesh, each calls the same methods with the same arguments, and gets the same answers.
        track_in_flight: do not choose prompts again that were selected and neither observed nor released since, for
            trainers that select before they have observed.
        in_flight_steps: how many later selections a prompt is in flight at most; None: there is no limit.

    Raises:
        ValueError: not exactly one of `keys` and `num_prompts`, keys that repeat, an argument out of its range, or a
            selector that cannot be sharded, see `shard`.
    """

    def __init__(
        self,
        selector: Selector,
        *,
        keys: Keys | None = None,
        num_prompts: int | None = None,
        seed: int = 0,
        candidate_ratio: int | None = None,
        mesh: Mesh | None = None,
        track_in_flight: bool = False,
        in_flight_steps: int | None = None,
    ):
        super().__init__(selector, keys, num_prompts, seed, candidate_ratio, mesh, track_in_flight, in_flight_steps)

    @property
    def spec(self) -> dict[str, Any]:
        """The method and its hyperparameters."""
        return self._selector.spec | {"candidate_ratio": self._candidate_ratio}

    @property
    @guarded
    def visits(self) -> Int[np.ndarray, " N"]:
        """How often each prompt was observed with at least one rollout that counts."""
        return self._current_books().visits.copy()

    @guarded
    def select(
        self, batch_size: int, candidates: ArrayLike | None = None, *, exclude: ArrayLike | None = None
    ) -> Int[np.ndarray, " b"]:
        """Chooses prompts for the next step.

        Args:
            batch_size: how many.
            candidates: distinct rows to choose among, or a boolean mask of the pool, in place of the window or the
                whole pool.
            exclude: rows that must not be chosen, or a boolean mask of the pool. The window skips them: they
                come later.

        Returns:
            Distinct rows of the pool.

        Raises:
            ValueError: more prompts asked for than there are to choose from, or candidates that are no distinct rows.
        """
        choice = self._choice(batch_size, candidates, exclude)
        ids = np.array(choice.selection.prompt_ids)[: choice.batch_size]
        if self._in_flight is not None:
            self._in_flight.hand_out(ids, self._counters["selects"])
        self._prepared = None
        self._counters["selects"] += 1
        self._window = choice.window
        self._books.opened(ids.copy(), choice.selection.prediction)
        return ids

    @guarded
    def release(self, prompt_ids: ArrayLike) -> None:
        """These prompts will not be observed: they may be chosen again, see `track_in_flight`.

        Raises:
            ValueError: ids that are no rows of the pool, or a selector that does not track them.
        """
        if self._in_flight is None:
            raise ValueError("this selector does not track prompts in flight; make it with track_in_flight=True")
        self._in_flight.release(_validate.rows("prompt_ids", prompt_ids, self.num_prompts))
        self._prepared = None

    @guarded
    def prepare(self, batch_size: int) -> None:
        """Starts to compute what the next `select(batch_size)` returns, while other things are done.

        It changes no choice: `select` with other arguments and `observe` drop what was prepared.

        Raises:
            ValueError: see `select`.
        """
        self._prepared = self._choice(batch_size, None)

    @guarded
    def predict(self, prompt_ids: ArrayLike | None = None) -> Prediction:
        """Predicts prompts before they are rolled out, as NumPy arrays; no ids: the whole pool.

        Raises:
            ValueError: ids that are no rows of the pool.
        """
        if prompt_ids is None and self._mesh is not None:
            # without ever having all of it on one device
            parts = [self.predict(ids) for ids in np.array_split(np.arange(self.num_prompts), self._mesh.size)]
            return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)
        state, clock = self._current_state()
        if prompt_ids is None:
            return jax.tree.map(np.array, self._predict(state, self._seed, clock, None))
        ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=self.num_prompts)
        prediction = self._predict(state, self._seed, clock, lengthened(ids))
        return jax.tree.map(lambda field: np.array(np.asarray(field)[: len(ids)]), prediction)

    @guarded
    def observe(
        self, prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike, *, step: int | None = None
    ) -> None:
        """Takes in the outcome of rollouts. Each call is one step of the method's clock, but for calls with one `step`.

        Late observations are welcome, and prompts that were never selected. To observe a batch in parts, give all of
        them the same `step`: as if they were one call. Repeated ids are one visit with summed counts. A prompt with
        group_size 0 (all its rollouts failed) is not counted as visited.

        Args:
            prompt_ids: rows of the pool.
            successes: s, correct rollouts per row; booleans are 0 and 1.
            group_size: n, rollouts, one a row or one for all.
            step: the trainer's number of the step. A larger number than before ends the step before; observations of
                a step that has ended count in the one that is open, or comes next.

        Raises:
            ValueError: lengths that differ, ids that are no rows of the pool, counts that are not integers with
                0 <= successes <= group_size. The state stays as it was.
        """
        visits = checked_visits(prompt_ids, successes, group_size, self.num_prompts)
        if step is not None:
            _validate.integer_in(0, 2**31, step=step)
        if step is None or self._step.is_over(int(step)):
            self._end_step()
        if step is None:
            self._take_in(visits)
        else:
            self._books.settle()
            self._step.add(int(step), visits)
            self._prepared = None
        self._landed(prompt_ids)

    @guarded
    def end_step(self) -> None:
        """Ends the step that `observe(..., step=...)` began: a device starts to work its observations in."""
        self._end_step()

    @guarded
    def observe_on_device(
        self, prompt_ids: ArrayLike, successes: Int[Array, " b"], group_size: Int[Array, " b"]
    ) -> None:
        """`observe` for counts that a device holds or still computes; ids are on the host. On a mesh it is `observe`.

        Raises:
            ValueError: lengths that differ or ids that are no rows of the pool; the state stays as it was. Wrong
                counts, but late: they are looked at when `visits`, `metrics` or a checkpoint asks, or with the next
                observation. By then the state has taken them in, and this selector is of no further use.
        """
        if self._mesh is not None:
            return self.observe(prompt_ids, successes, group_size)
        ids = checked_ids(prompt_ids, successes, group_size, self.num_prompts)
        self._end_step()
        here = jax.tree.leaves(self._state)[0].sharding
        self._learn(ids, *(jax.device_put(column.astype(np.int32), here) for column in (successes, group_size)))
        self._books.note_later(ids, successes, group_size)
        self._landed(ids)

    @guarded
    def wait(self) -> None:
        """Returns when the last observation is worked in: `observe` itself returns while the device still computes."""
        self._end_step()
        jax.block_until_ready(self._state)

    @guarded
    def metrics(self) -> dict[str, float]:
        """What the last observation said of the last prediction, and how much of the pool has been seen."""
        (state, clock), books = self._current_state(), self._current_books()
        return {
            "selector/observes": float(clock),
            "selector/coverage": books.coverage,
            **{f"selector/{name}": value for name, value in books.report().items()},
            **{f"selector/{name}": float(value) for name, value in said_by(state, "metrics", {}).items()},
        }

    @guarded
    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs, as numbers, strings and bytes: for torch-style checkpoints.

        `torch.load` and other loaders that do not unpickle read it back.
        """
        self._end_step()
        arrays = {name: encoded(to_host(leaf, self.num_prompts)) for name, leaf in self._arrays().items()}
        return {"arrays": arrays, "metadata": self._metadata()}

    @guarded
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the other selector was; its seed comes along.

        Raises:
            ValueError: another method, other hyperparameters or another pool. The state stays as it was.
        """
        mine = self._arrays()
        state_dict = in_flight_as_here(state_dict, mine)
        arrays = _metadata.checked_arrays(state_dict, self._metadata())
        placed = {name: to_devices(arrays[name], leaf) for name, leaf in mine.items() if isinstance(leaf, jax.Array)}
        self._adopt(arrays | placed, state_dict["metadata"])

    @guarded
    def save(self, path: str | Path) -> None:
        """Writes everything to the folder `path`, in place of what it wrote there before.

        The version before it goes when the new one is complete. Nothing that `save` did not write is deleted.

        Raises:
            ValueError: a path that is no folder on a disk of this machine, a folder that holds something else, or a
                full disk.
        """
        self._end_step()
        folder.save(path, self._arrays(), self._metadata())

    @classmethod
    def load(
        cls,
        path: str | Path,
        selector: Selector | None = None,
        *,
        keys: Keys | None = None,
        num_prompts: int | None = None,
        candidate_ratio: int | None = None,
        mesh: Mesh | None = None,
        track_in_flight: bool = False,
        in_flight_steps: int | None = None,
    ) -> "PromptSelector":
        """The selector that `save` wrote, ready to go on. No code of its author is run.

        Args:
            path: the folder.
            selector: the same method; None: it is rebuilt, with its `candidate_ratio`, where all of it was saved.
            keys: the same keys, checked; without `keys` and `num_prompts` the pool is the saved one.
            num_prompts: in place of keys.
            candidate_ratio: the same.
            mesh: any.
            track_in_flight: as for the constructor; prompts in flight come along where they were saved.
            in_flight_steps: as for the constructor.

        Raises:
            ValueError: there is no complete checkpoint, it is damaged, or it is of another method, other
                hyperparameters or another pool; a method that cannot be rebuilt.
        """
        with folder.opened(path) as saved:
            metadata = _metadata.readable(saved.metadata)
            if selector is None:
                selector = selector_from_spec(metadata["spec"])
                candidate_ratio = candidate_ratio or metadata["spec"].get("candidate_ratio")
            is_given = keys is not None or num_prompts is not None
            loaded = cls(
                selector,
                keys=keys,
                num_prompts=num_prompts if is_given else size_of(metadata["pool"]),
                seed=metadata["seed"],
                candidate_ratio=candidate_ratio,
                mesh=mesh,
                track_in_flight=track_in_flight,
                in_flight_steps=in_flight_steps,
            )
            if not is_given:
                loaded._pool_fingerprint = metadata["pool"]
            here = loaded._arrays()
            _metadata.check(in_flight_as_here({"metadata": metadata}, here)["metadata"], loaded._metadata())
            like, shapes = in_flight_as_saved(here, metadata, loaded.num_prompts), loaded._metadata()["shapes"]
            arrays = saved.restore(arrays_as_saved(like, metadata["shapes"], shapes), padded=True)
            loaded._adopt(arrays_as_here(arrays, shapes), metadata)
        return loaded
