"""The base class of `PromptSelector`: its parts, and how they are saved, loaded, copied and pickled."""

import copy
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from jaxsel import _validate
from jaxsel.base import Selector
from jaxsel.runtime.belief import Belief
from jaxsel.runtime.changed_pool import carried, warn_of_change
from jaxsel.runtime.checkpoint import disk, folder
from jaxsel.runtime.checkpoint import metadata as _metadata
from jaxsel.runtime.checkpoint.arrays import encoded, replaced
from jaxsel.runtime.checkpoint.content import (
    from_folder,
    from_state_dict,
    metadata_of,
    named_arrays,
    of_another_pool,
)
from jaxsel.runtime.checkpoint.rebuild import selector_from_spec
from jaxsel.runtime.choosing import Choice, Chooser
from jaxsel.runtime.in_flight import InFlight
from jaxsel.runtime.locking import ProcessBoundLock, locked
from jaxsel.runtime.pickling import picklable, unpickled
from jaxsel.runtime.placement import to_devices, to_host
from jaxsel.runtime.pool import Keys, Pool, identify_pool, rows_in, size_of
from jaxsel.runtime.sharding import shard
from jaxsel.selection.composition import takes_count

_Own = TypeVar("_Own", bound="ResumableSelector")


class ResumableSelector:
    """Holds a belief about a pool and a chooser of batches, and saves and restores both."""

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
        _validate.made(Selector, selector=selector)
        self._lock = ProcessBoundLock()
        self._pool = identify_pool(keys, num_prompts)
        self.num_prompts = self._pool.size
        _validate.integer_in(0, 2**32, seed=seed)
        if candidate_ratio is not None:
            _validate.positive_integer(candidate_ratio=candidate_ratio)
            candidate_ratio = int(candidate_ratio)
        if in_flight_steps is not None:
            _validate.positive_integer(in_flight_steps=in_flight_steps)
            if not track_in_flight:
                raise ValueError(f"in_flight_steps is {in_flight_steps} without track_in_flight; make it True as well")
        self._method, self._mesh = selector, mesh
        self._candidate_ratio, self._in_flight_steps = candidate_ratio, in_flight_steps
        in_flight = InFlight(self.num_prompts, in_flight_steps) if track_in_flight else None
        here = shard(selector, mesh, self.num_prompts) if mesh else selector
        self._belief = Belief(here, self.num_prompts, np.uint32(seed))
        self._chooser = Chooser(
            here, takes_count(selector), self.num_prompts, np.uint32(seed), candidate_ratio, in_flight
        )
        self._prepared: Choice | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The method and its hyperparameters."""
        return copy.deepcopy(self._method.spec) | {"candidate_ratio": self._candidate_ratio}

    @property
    def pool(self) -> str:
        """The fingerprint of the pool: its size and a digest of its keys. Checkpoints record it."""
        return self._pool.fingerprint

    @locked
    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs, as numbers, strings and bytes, for torch-style checkpoints.

        `torch.load` with `weights_only=True` can read it, and so can other loaders that run no code.
        """
        self._belief.end_step()
        return self._before_open_step()

    @locked
    def load_state_dict(self, state_dict: dict[str, Any], *, changed_pool: bool = False) -> None:
        """Continue from the state of another selector, with the seed of that selector.

        Args:
            state_dict: What `state_dict` returned.
            changed_pool: Whether the pool may differ. Prompts are then matched by their keys as in `with_pool`, and a
                warning says how many were added and dropped.

        Raises:
            ValueError: The state belongs to another method, other hyperparameters or another pool. The selector stays
                as it was.
        """
        if changed_pool and not _metadata.same_pool(_metadata.metadata_in(state_dict), self.pool):
            return warn_of_change(size_of(state_dict["metadata"]["pool"]), self._take_over_state(state_dict))
        arrays = from_state_dict(state_dict, self._arrays(), self._metadata())
        self._put_back(arrays, state_dict["metadata"])

    @locked
    def save(self, path: str | Path) -> None:
        """Write a checkpoint to the folder `path`, in place of the checkpoint that is there.

        The previous version is removed once the new version is complete. Files that `save` did not write stay.

        Raises:
            ValueError: The path is not a folder on a disk of this machine, the folder holds something else, or the disk
                is full.
        """
        path = disk.local_folder(path)  # refuses a wrong path before the step ends
        self._belief.end_step()
        folder.save(path, self._arrays(), self._metadata())

    @classmethod
    def load(
        cls: type[_Own],
        path: str | Path,
        selector: Selector | None = None,
        *,
        keys: Keys | None = None,
        num_prompts: int | None = None,
        candidate_ratio: int | None = None,
        mesh: Mesh | None = None,
        track_in_flight: bool = False,
        in_flight_steps: int | None = None,
    ) -> _Own:
        """Return the selector that `save` wrote, ready to continue. No code from the checkpoint is run.

        Args:
            path: Folder of the checkpoint.
            selector: The saved method, or for a changed pool the same method made for the new pool. None: the method
                and its `candidate_ratio` are rebuilt from the checkpoint. A checkpoint does not hold embeddings, strata
                and priors with one entry per prompt, so a method that has them must be given.
            keys: Keys of the pool. If both `keys` and `num_prompts` are None, the pool is the saved one. Prompts that
                were added, removed or reordered are matched by their keys as in `with_pool`, and a warning says how
                many were added and dropped.
            num_prompts: Size of the pool, in place of keys.
            candidate_ratio: The saved ratio. It can be left out if `selector` is None.
            mesh: Mesh of devices to spread the pool over, which may differ from the saved one; None: one device.
            track_in_flight: See the constructor. Prompts in flight are restored if they were saved.
            in_flight_steps: See the constructor.

        Raises:
            ValueError: There is no complete checkpoint, it is damaged, its method cannot be rebuilt, it belongs to
                another method or other hyperparameters, or its pool has no key in common with this one.
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
                loaded._expect_pool(metadata)
            both_have_keys = loaded._pool.key_hashes is not None and "keys" in metadata["shapes"]
            if _metadata.same_pool(metadata, loaded.pool) or not both_have_keys:
                loaded._put_back(from_folder(saved, loaded._arrays(), loaded._metadata()), metadata)
            else:
                arrays = of_another_pool(saved, loaded._arrays())
                warn_of_change(len(arrays["visits"]), loaded._take_over(arrays, metadata))
        return loaded

    @locked
    def with_pool(self: _Own, keys: Keys, selector: Selector | None = None) -> _Own:
        """Return a selector for a changed pool. This selector stays as it was.

        Prompts are matched by their keys. Each keeps its belief, its visits and its place in the shuffled order of the
        candidates. New prompts start with the belief of a prompt without visits. What the method learnt across prompts,
        such as shared weights, is kept. Rows change their meaning: before this call, observe the prompts that are
        selected and not yet observed, or translate their rows by the keys.

        Args:
            keys: Keys of the new pool. This selector needs keys too.
            selector: The same method, made for the new pool. It is needed if an argument has one entry per prompt:
                embeddings, priors, strata. None: the current method.

        Raises:
            ValueError: A pool has no keys, no key is in both pools, the new method has other settings or is needed and
                None, or the state of the method has no `with_rows`.
        """
        arguments = self._arguments() | {"keys": keys, "num_prompts": None}
        changed = type(self)(self._method if selector is None else selector, mesh=self._mesh, **arguments)
        # the rows of an open step lose their meaning, so it ends in the new selector, but not in this one
        state = (copy.copy(self) if self._belief.step.visits is not None else self).state_dict()
        changed._take_over_state(state, given=selector is not None)
        return changed

    @locked
    def __getstate__(self) -> dict[str, Any]:
        """Return the method, the arguments of the constructor and the state, from which `__setstate__` starts."""
        return {
            "method": picklable(self._method),
            "arguments": self._arguments(),
            "state": self._before_open_step(),
            "step": self._belief.step,
        }

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self._begin_as(unpickled(pickled["method"]), pickled["arguments"], None, pickled["state"])
        self._belief.step = pickled.get("step", self._belief.step)  # pickles of earlier versions lack it

    @locked
    def __copy__(self: _Own) -> _Own:
        """Return an independent selector: an update donates the state, which two selectors must not share."""
        copied = object.__new__(type(self))
        copied._begin_as(self._method, self._arguments(), self._mesh, self._before_open_step())
        copied._belief.step = copy.copy(self._belief.step)
        return copied

    def __deepcopy__(self: _Own, memo: dict[int, Any]) -> _Own:
        return self.__copy__()  # the functions of the method can be shared

    def _arguments(self) -> dict[str, Any]:
        return {
            "keys": None,
            "num_prompts": self.num_prompts,
            "seed": int(self._belief.seed),
            "candidate_ratio": self._candidate_ratio,
            "track_in_flight": self._chooser.in_flight is not None,
            "in_flight_steps": self._in_flight_steps,
        }

    def _before_open_step(self) -> dict[str, Any]:
        """Return the `state_dict` without the observations of the open step, which stays open."""
        arrays = {name: encoded(to_host(leaf, self.num_prompts)) for name, leaf in self._arrays().items()}
        return {"arrays": arrays, "metadata": self._metadata()}

    def _begin_as(self, method: Selector, arguments: dict[str, Any], mesh: Mesh | None, state: dict[str, Any]) -> None:
        ResumableSelector.__init__(self, method, mesh=mesh, **arguments)
        self._expect_pool(state["metadata"])
        self.load_state_dict(state)

    def _expect_pool(self, metadata: dict[str, Any]) -> None:
        """Adopt the fingerprint of a checkpoint's pool, and allocate its keys, before the arrays are loaded."""
        shape = metadata["shapes"].get("keys")
        hashes = None if shape is None else np.zeros((self.num_prompts, 2), np.uint32)
        self._pool = Pool(self.num_prompts, metadata["pool"], hashes)

    def _take_over_state(self, state_dict: dict[str, Any], *, given: bool = True) -> Int[np.ndarray, " N"]:
        return self._take_over(_metadata.own_arrays(state_dict), state_dict["metadata"], given=given)

    def _take_over(
        self, saved: dict[str, np.ndarray], metadata: dict[str, Any], *, given: bool = True
    ) -> Int[np.ndarray, " N"]:
        """Continue from a checkpoint of another pool, and return each prompt's row there, -1 if the prompt is new."""
        _metadata.check_method(metadata, self._metadata(), other_pool=True)
        rows = rows_in(Pool(len(saved["visits"]), metadata["pool"], saved.get("keys")), self._pool)
        if not np.array_equal(rows, np.arange(len(saved["visits"]))):
            _metadata.check_in_new_order(metadata["spec"], self.spec, given=given)
        here = self._arrays()
        fresh = {name: to_host(leaf, self.num_prompts) for name, leaf in here.items()}
        state = replaced({"state": self._belief.state}, fresh)["state"]
        arrays = carried(saved, fresh, state, rows, metadata["seed"])
        for name, leaf in here.items():
            if isinstance(leaf, jax.Array):
                arrays[name] = to_devices(np.asarray(arrays[name]), leaf)
        self._put_back(arrays, metadata)
        return rows

    def _arrays(self) -> dict[str, Any]:
        keys = {} if self._pool.key_hashes is None else {"keys": self._pool.key_hashes}
        return named_arrays(self._belief.state, {**self._belief.arrays(), **self._chooser.arrays(), **keys})

    def _metadata(self) -> dict[str, Any]:
        counters = {"selects": self._chooser.selects, **self._belief.counters}
        seed = int(self._belief.seed)
        return metadata_of(self.spec, self.pool, self._arrays(), self.num_prompts, seed, counters)

    def _put_back(self, arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Continue from the arrays and metadata of a checkpoint. The next update donates the arrays."""
        seed, counters = metadata["seed"], metadata["counters"]
        state = replaced({"state": self._belief.state}, arrays)["state"]
        self._belief.put_back(state, arrays, counters, np.uint32(seed))
        self._chooser.put_back(arrays, int(counters["selects"]), seed)
        if "keys" in arrays:
            self._pool = self._pool._replace(key_hashes=arrays["keys"])
        self._prepared = None
