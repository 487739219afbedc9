"""The stateful edge: NumPy in, NumPy out, compiled functions and the state of the pool inside."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Shaped
from numpy.typing import ArrayLike

from jaxsel import _metadata, _validate, checkpoint, metrics
from jaxsel._compiled import compiled_predict, compiled_select, compiled_update, initial_key
from jaxsel._placement import shape_of_pool, to_devices, to_host
from jaxsel._pool import Keys, identify_pool
from jaxsel._visits import Visits, checked_visits
from jaxsel._window import EpochWindow
from jaxsel.base import Prediction, Selection, Selector
from jaxsel.sharding import shard

_mixed_share, _solve_state_accuracy = jax.jit(metrics.mixed_share), jax.jit(metrics.solve_state_accuracy)


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
        self._visits = np.zeros(self.num_prompts, np.int32)
        self._last_selection: Selection | None = None
        self._last_visits: Visits | None = None
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
        return self._visits.copy()

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
        _validate.positive_integer(batch_size=batch_size)
        among = self._candidates(batch_size, candidates)
        selection = self._select(self._state, self._seed, self._counters["selects"], int(batch_size), among)
        self._counters["selects"] += 1
        self._last_selection = selection
        return np.asarray(selection.prompt_ids)

    def predict(self, prompt_ids: ArrayLike | None = None) -> Prediction:
        """Predicts prompts before they are rolled out, as NumPy arrays; no ids: the whole pool.

        Raises:
            ValueError: ids that are no rows of the pool.
        """
        if prompt_ids is None and self._mesh is not None:
            return self._predict_in_parts(self._mesh.size)
        if prompt_ids is None:
            prediction = self._predict(self._state, self._seed, self._counters["observes"], None)
            return jax.tree.map(np.asarray, prediction)
        ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=self.num_prompts)
        prediction = self._predict(self._state, self._seed, self._counters["observes"], _padded(ids))
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
        self._state = self._update(
            self._state,
            self._seed,
            self._counters["observes"],
            Visits(_padded(visits.prompt_ids, self.num_prompts), _padded(visits.successes), _padded(visits.group_size)),
        )
        self._counters["observes"] += 1
        self._visits[visits.prompt_ids] += 1
        self._last_visits = visits

    def wait(self) -> None:
        """Returns when the last observation is worked in: `observe` itself returns while the device still computes."""
        jax.block_until_ready(self._state)

    def metrics(self) -> dict[str, float]:
        """What the last observation said of the last prediction, and how much of the pool has been seen."""
        return {
            "selector/observes": float(self._counters["observes"]),
            "selector/coverage": float((self._visits > 0).mean()),
            **{f"selector/{name}": value for name, value in self._report().items()},
            **{f"selector/{name}": float(value) for name, value in _method_of(self._state, "metrics", {}).items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs, as numbers, strings and NumPy arrays: for torch-style checkpoints."""
        arrays = {name: to_host(leaf, self.num_prompts) for name, leaf in self._arrays().items()}
        return {"arrays": arrays, "metadata": self._metadata()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the other selector was; its seed comes along.

        Raises:
            ValueError: another method, other hyperparameters or another pool. The state stays as it was.
        """
        if state_dict.keys() != {"arrays", "metadata"}:
            raise ValueError(f"state_dict has the keys {list(state_dict)}; give what state_dict() returned")
        metadata, mine = state_dict["metadata"], self._arrays()
        _metadata.check(metadata, self._metadata())
        arrays = {name: np.asarray(array) for name, array in state_dict["arrays"].items()}
        expected = {name: shape_of_pool(leaf, self.num_prompts) for name, leaf in mine.items()}
        given = {name: array.shape for name, array in arrays.items()}
        if given != expected:
            raise ValueError(f"state_dict holds arrays of shapes {given}; this selector has {expected}")
        placed = {name: to_devices(arrays[name], leaf) for name, leaf in mine.items() if isinstance(leaf, jax.Array)}
        self._adopt(arrays | placed, metadata)

    def save(self, path: str | Path) -> None:
        """Writes everything to the folder `path`; what it held before is replaced when the new version is complete."""
        checkpoint.save(path, self._arrays(), self._metadata())

    @classmethod
    def load(
        cls,
        path: str | Path,
        selector: Selector,
        *,
        keys: Keys | None = None,
        num_prompts: int | None = None,
        candidate_ratio: int | None = None,
        mesh: Mesh | None = None,
    ) -> "PromptSelector":
        """The selector that `save` wrote, ready to go on.

        Raises:
            ValueError: there is no complete checkpoint, or it is of another method, other hyperparameters or another
                pool.
        """
        metadata = checkpoint.read_metadata(path)
        loaded = cls(
            selector,
            keys=keys,
            num_prompts=num_prompts,
            seed=metadata["seed"],
            candidate_ratio=candidate_ratio,
            mesh=mesh,
        )
        _metadata.check(metadata, loaded._metadata())
        loaded._adopt(checkpoint.restore(path, loaded._arrays(), padded=True), metadata)
        return loaded

    def _candidates(self, batch_size: int, candidates: ArrayLike | None) -> Int[np.ndarray, " c"] | None:
        among = None
        if candidates is not None:
            among = _validate.integers("candidates", candidates, low=0, high=self.num_prompts)
            _validate.distinct("candidates", among)
        size = self.num_prompts if among is None else len(among)
        if batch_size > size:
            raise ValueError(f"batch_size is {batch_size} of {size} prompts to choose from; give at most {size}")
        if among is None and self._window is not None and self._candidate_ratio is not None:
            among = self._window.take(min(self._candidate_ratio * batch_size, self.num_prompts))
        return among

    def _predict_in_parts(self, parts: int) -> Prediction:
        """The whole pool, without ever having all of it on one device."""
        predictions = [self.predict(ids) for ids in np.array_split(np.arange(self.num_prompts), parts)]
        return jax.tree.map(lambda *fields: np.concatenate(fields), *predictions)

    def _report(self) -> dict[str, float]:
        """Of the prompts that were selected last and observed since: what was predicted against what came."""
        report = {}
        if self._last_visits is None or len(self._last_visits.prompt_ids) == 0:
            return report
        ids, successes, sizes = self._last_visits
        report["mixed_share"] = float(_mixed_share(_padded(successes), _padded(sizes)))
        if self._last_selection is None:
            return report
        _, chosen, observed = np.intersect1d(self._last_selection.prompt_ids, ids, return_indices=True)
        if len(chosen):
            prediction = jax.tree.map(lambda field: np.asarray(field)[chosen], self._last_selection.prediction)
            s, n = successes[observed], sizes[observed]
            report["predicted_mixed_share"] = float(prediction.mixed.mean())
            report["success_rate_mae"] = float(np.abs(prediction.success_rate - s / n).mean())
            report["solve_state_accuracy"] = float(
                _solve_state_accuracy(jax.tree.map(_padded, prediction), _padded(s), _padded(n))
            )
        return report

    def _arrays(self) -> dict[str, Any]:
        """Everything that is an array, by name, but for what was given to the method's constructor."""
        arrays: dict[str, Any] = {"state": self._state, "visits": self._visits}
        if self._window is not None:
            arrays["window"] = self._window.state_dict()
        constants = {f"state.{name}" for name in _method_of(self._state, "constants", ())}
        named = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(arrays)}
        return {name: leaf for name, leaf in named.items() if name not in constants}

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
        state = {"state": self._state}
        self._state = jax.tree.map_with_path(lambda path, leaf: arrays.get(_name(path), leaf), state)["state"]
        self._visits = np.array(arrays["visits"], np.int32)
        if self._window is not None:
            self._window = EpochWindow(self.num_prompts, metadata["seed"])
            self._window.load_state_dict({name: arrays[f"window.{name}"] for name in ("epoch", "waiting")})
        self._seed = np.uint32(metadata["seed"])
        self._counters = {name: int(value) for name, value in metadata["counters"].items()}
        self._last_selection = self._last_visits = None


def _method_of(state: Any, name: str, default: Any) -> Any:
    """What the state's method of that name returns, where it has one."""
    return getattr(state, name)() if hasattr(state, name) else default


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _padded(column: Shaped[np.ndarray, " m"], fill: int = 0) -> Shaped[np.ndarray, " p"]:
    """The column, lengthened to a power of two, so that batches of many sizes share few compilations."""
    length = max(8, 1 << max(len(column) - 1, 0).bit_length())
    return np.pad(column, (0, length - len(column)), constant_values=fill)
