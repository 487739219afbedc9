"""The stateful edge: NumPy in, NumPy out, compiled functions and the state of the pool inside."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from jaxsel import _metadata, _validate, checkpoint
from jaxsel._bookkeeping import Bookkeeping
from jaxsel._compiled import compiled_predict, compiled_select, compiled_update, initial_key, lengthened
from jaxsel._placement import shape_of_pool, to_devices, to_host
from jaxsel._pool import Keys, identify_pool, size_of
from jaxsel._rebuild import selector_from_spec
from jaxsel._state import by_name, encoded, replaced, said_by
from jaxsel._visits import checked_ids, checked_visits
from jaxsel._window import EpochWindow
from jaxsel.base import Prediction, Selection, Selector
from jaxsel.sharding import shard


class _Choice(NamedTuple):
    """A selection that may still be computed, and the window as it is once its candidates are taken."""

    batch_size: int
    selection: Selection
    window: EpochWindow | None


class PromptSelector:
    """Chooses the prompts of every training step and learns from their rollouts.

    >>> import jaxsel
    >>> selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=1000, seed=0)
    >>> prompt_ids = selector.select(4)
    >>> selector.observe(prompt_ids, successes=[0, 3, 8, 5], group_size=8)
    >>> print(selector.predict(prompt_ids).success_rate)
    [0.1 0.4 0.9 0.6]

    The same seed and the same observations give the same choices, also across `save` and `load`. `predict` and
    `metrics` never change a later choice. Nor does the mesh, but for GPS, see `jaxsel.sharding`.

    Args:
        selector: the method, for example `jaxsel.mopps()`.
        keys: unique names of the prompts, strings or integers, in the order of the pool; a checkpoint remembers them.
        num_prompts: the size of the pool, in place of `keys`.
        seed: of every random choice, from 0 to 2**32 - 1.
        candidate_ratio: choose among an epoch-shuffled window of `candidate_ratio * batch_size` prompts, as the papers
            do; None: among the whole pool.
        mesh: of devices that the pool is spread over, see `prompts_mesh`; None: one device has it all. Where several
            processes share the mesh, each calls the same methods with the same arguments, and gets the same answers.

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
    ):
        self.num_prompts, self._pool_fingerprint = identify_pool(keys, num_prompts)
        _validate.integer_in(0, 2**32, seed=seed)
        if candidate_ratio is not None:
            _validate.positive_integer(candidate_ratio=candidate_ratio)
            candidate_ratio = int(candidate_ratio)
        self._mesh = mesh
        self._selector = selector = shard(selector, mesh, self.num_prompts) if mesh else selector
        self._candidate_ratio = candidate_ratio
        self._seed = np.uint32(seed)
        self._counters = {"selects": 0, "observes": 0}
        self._window = EpochWindow(self.num_prompts, int(self._seed)) if candidate_ratio else None
        self._state = selector.init(initial_key(self._seed), self.num_prompts)
        self._books = Bookkeeping(np.zeros(self.num_prompts, np.int32))
        self._last_selection: Selection | None = None
        self._prepared: _Choice | None = None
        self._select = compiled_select(selector.select)
        self._predict = compiled_predict(selector.predict)
        self._update = compiled_update(selector.update)

    @property
    def spec(self) -> dict[str, Any]:
        """The method and its hyperparameters."""
        return self._selector.spec | {"candidate_ratio": self._candidate_ratio}

    @property
    def visits(self) -> Int[np.ndarray, " N"]:
        """How often each prompt was observed with at least one rollout that counts."""
        return self._books.visits.copy()

    def select(self, batch_size: int, candidates: ArrayLike | None = None) -> Int[np.ndarray, " b"]:
        """Chooses prompts for the next step.

        Args:
            batch_size: how many.
            candidates: distinct rows to choose among, in place of the window or the whole pool.

        Returns:
            Distinct rows of the pool.

        Raises:
            ValueError: more prompts asked for than there are to choose from, or candidates that are no distinct rows.
        """
        choice = self._choice(batch_size, candidates)
        self._prepared = None
        self._counters["selects"] += 1
        self._last_selection, self._window = choice.selection, choice.window
        return np.asarray(choice.selection.prompt_ids)

    def prepare(self, batch_size: int) -> None:
        """Starts to compute what the next `select(batch_size)` returns, while other things are done.

        It changes no choice: `select` with other arguments and `observe` drop what was prepared.

        Raises:
            ValueError: see `select`.
        """
        self._prepared = self._choice(batch_size, None)

    def predict(self, prompt_ids: ArrayLike | None = None) -> Prediction:
        """Predicts prompts before they are rolled out, as NumPy arrays; no ids: the whole pool.

        Raises:
            ValueError: ids that are no rows of the pool.
        """
        if prompt_ids is None and self._mesh is not None:
            # without ever having all of it on one device
            parts = [self.predict(ids) for ids in np.array_split(np.arange(self.num_prompts), self._mesh.size)]
            return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)
        if prompt_ids is None:
            prediction = self._predict(self._state, self._seed, self._counters["observes"], None)
            return jax.tree.map(np.asarray, prediction)
        ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=self.num_prompts)
        prediction = self._predict(self._state, self._seed, self._counters["observes"], lengthened(ids))
        return jax.tree.map(lambda field: np.asarray(field)[: len(ids)], prediction)

    def observe(self, prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike) -> None:
        """Takes in the outcome of rollouts. Each call is one step of the method's clock.

        Late and partial observations are welcome, and prompts that were never selected. Repeated ids are one visit
        with summed counts. A prompt with group_size 0 (all its rollouts failed) is not counted as visited.

        Args:
            prompt_ids: rows of the pool.
            successes: s, correct rollouts, one a row.
            group_size: n, rollouts, one a row or one for all.

        Raises:
            ValueError: lengths that differ, ids that are no rows of the pool, counts that are not integers with
                0 <= successes <= group_size. The state stays as it was.
        """
        visits = checked_visits(prompt_ids, successes, group_size, self.num_prompts)
        self._learn(*visits)
        self._books.note(visits)

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
        here = jax.tree.leaves(self._state)[0].sharding
        self._learn(ids, *(jax.device_put(column.astype(np.int32), here) for column in (successes, group_size)))
        self._books.note_later(ids, successes, group_size)

    def wait(self) -> None:
        """Returns when the last observation is worked in: `observe` itself returns while the device still computes."""
        jax.block_until_ready(self._state)

    def metrics(self) -> dict[str, float]:
        """What the last observation said of the last prediction, and how much of the pool has been seen."""
        return {
            "selector/observes": float(self._counters["observes"]),
            "selector/coverage": self._books.coverage,
            **{f"selector/{name}": value for name, value in self._books.report(self._last_selection).items()},
            **{f"selector/{name}": float(value) for name, value in said_by(self._state, "metrics", {}).items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs, as numbers, strings and bytes: for torch-style checkpoints.

        `torch.load` and other loaders that do not unpickle read it back.
        """
        arrays = {name: encoded(to_host(leaf, self.num_prompts)) for name, leaf in self._arrays().items()}
        return {"arrays": arrays, "metadata": self._metadata()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the other selector was; its seed comes along.

        Raises:
            ValueError: another method, other hyperparameters or another pool. The state stays as it was.
        """
        mine = self._arrays()
        arrays = _metadata.checked_arrays(state_dict, self._metadata())
        placed = {name: to_devices(arrays[name], leaf) for name, leaf in mine.items() if isinstance(leaf, jax.Array)}
        self._adopt(arrays | placed, state_dict["metadata"])

    def save(self, path: str | Path) -> None:
        """Writes everything to the folder `path`, in place of what it wrote there before.

        The version before it goes when the new one is complete. Nothing that `save` did not write is deleted.

        Raises:
            ValueError: a path that is no folder on a disk of this machine, a folder that holds something else, or a
                full disk.
        """
        checkpoint.save(path, self._arrays(), self._metadata())

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
    ) -> "PromptSelector":
        """The selector that `save` wrote, ready to go on. No code of its author is run.

        Args:
            path: the folder.
            selector: the same method; None: it is rebuilt, with its `candidate_ratio`, where all of it was saved.
            keys: the same keys, checked; without `keys` and `num_prompts` the pool is the saved one.
            num_prompts: in place of keys.
            candidate_ratio: the same.
            mesh: any.

        Raises:
            ValueError: there is no complete checkpoint, it is damaged, or it is of another method, other
                hyperparameters or another pool; a method that cannot be rebuilt.
        """
        with checkpoint.opened(path) as saved:
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
            )
            if not is_given:
                loaded._pool_fingerprint = metadata["pool"]
            _metadata.check(metadata, loaded._metadata())
            loaded._adopt(saved.restore(loaded._arrays(), padded=True), metadata)
        return loaded

    def _choice(self, batch_size: int, candidates: ArrayLike | None) -> _Choice:
        """What `select` returns, prepared or dispatched now; nothing of this selector changes."""
        _validate.positive_integer(batch_size=batch_size)
        if candidates is None and self._prepared is not None and self._prepared.batch_size == batch_size:
            return self._prepared
        among, window = None, copy.copy(self._window)
        if candidates is not None:
            among = _validate.integers("candidates", candidates, low=0, high=self.num_prompts)
            _validate.distinct("candidates", among)
        size = self.num_prompts if among is None else len(among)
        if batch_size > size:
            raise ValueError(f"batch_size is {batch_size} of {size} prompts to choose from; give at most {size}")
        if among is None and window is not None and self._candidate_ratio is not None:
            among = window.take(min(self._candidate_ratio * batch_size, self.num_prompts))
        selection = self._select(self._state, self._seed, self._counters["selects"], int(batch_size), among)
        return _Choice(batch_size, selection, window)

    def _learn(self, *rollouts: Int[Array | np.ndarray, " b"]) -> None:
        """Updates the state by ids, successes and group sizes; what was prepared is no longer what it would choose."""
        self._books.settle()
        batch = lengthened(rollouts[0], self.num_prompts), *map(lengthened, rollouts[1:])
        self._state = self._update(self._state, self._seed, self._counters["observes"], batch)
        self._counters["observes"] += 1
        self._prepared = None

    def _arrays(self) -> dict[str, Any]:
        """Everything that is an array, by name, but for what was given to the method's constructor."""
        arrays: dict[str, Any] = {"state": self._state, "visits": self._books.visits}
        if self._window is not None:
            arrays["window"] = self._window.state_dict()
        constants = {f"state.{name}" for name in said_by(self._state, "constants", ())}
        return {name: leaf for name, leaf in by_name(arrays).items() if name not in constants}

    def _metadata(self) -> dict[str, Any]:
        return {
            "format": _metadata.FORMAT,
            "spec": self.spec,
            "pool": self._pool_fingerprint,
            "shapes": {name: list(shape_of_pool(leaf, self.num_prompts)) for name, leaf in self._arrays().items()},
            "seed": int(self._seed),
            "counters": dict(self._counters),
        }

    def _adopt(self, arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Takes over arrays that lie where they belong, and that nobody else has: the next update donates them."""
        self._state = replaced({"state": self._state}, arrays)["state"]
        self._books = Bookkeeping(np.array(arrays["visits"], np.int32))
        if self._window is not None:
            self._window = EpochWindow(self.num_prompts, metadata["seed"])
            self._window.load_state_dict({name: arrays[f"window.{name}"] for name in ("epoch", "waiting")})
        self._seed = np.uint32(metadata["seed"])
        self._counters = {name: int(value) for name, value in metadata["counters"].items()}
        self._last_selection = self._prepared = None
