"""What `PromptSelector` is made of: the state, its updates, choices, and copies of all of it."""

import copy
import inspect
import pickle
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import Visits
from jaxsel.base import Selection, Selector, State
from jaxsel.runtime.bookkeeping import Bookkeeping
from jaxsel.runtime.checkpoint import metadata as _metadata
from jaxsel.runtime.checkpoint.arrays import by_name, replaced, said_by
from jaxsel.runtime.compiled import (
    bucket,
    compiled_predict,
    compiled_preview,
    compiled_select,
    compiled_update,
    initial_key,
    lengthened,
)
from jaxsel.runtime.guard import Guard, guarded
from jaxsel.runtime.in_flight import InFlight
from jaxsel.runtime.placement import shape_of_pool
from jaxsel.runtime.pool import Keys, identify_pool
from jaxsel.runtime.sharding import shard
from jaxsel.runtime.steps import OpenStep
from jaxsel.runtime.window import EpochWindow
from jaxsel.selection.rules import takes_count


class _Choice(NamedTuple):
    """A selection that may still be computed, and the window as it is once its candidates are taken.

    The selection may be longer than `batch_size`; what follows means nothing.
    """

    batch_size: int
    selection: Selection
    window: EpochWindow | None


class SelectorCore:
    """The private part of `PromptSelector`. Its methods run under the guard of the public methods that call them."""

    def __init__(
        self,
        selector: Selector,
        keys: Keys | None,
        num_prompts: int | None,
        seed: int,
        candidate_ratio: int | None,
        mesh: Mesh | None,
        track_in_flight: bool,
        in_flight_steps: int | None,
    ):
        _validate.made(Selector, selector=selector)
        self._guard = Guard()
        self.num_prompts, self._pool_fingerprint = identify_pool(keys, num_prompts)
        _validate.integer_in(0, 2**32, seed=seed)
        if candidate_ratio is not None:
            _validate.positive_integer(candidate_ratio=candidate_ratio)
            candidate_ratio = int(candidate_ratio)
        if in_flight_steps is not None:
            _validate.positive_integer(in_flight_steps=in_flight_steps)
            if not track_in_flight:
                raise ValueError(f"in_flight_steps is {in_flight_steps} without track_in_flight; give both")
        self._mesh = mesh
        self._method = selector
        self._in_flight_steps = in_flight_steps
        self._in_flight = InFlight(self.num_prompts, in_flight_steps) if track_in_flight else None
        self._step = OpenStep()
        self._takes_count = takes_count(selector)
        self._selector = selector = shard(selector, mesh, self.num_prompts) if mesh else selector
        self._candidate_ratio = candidate_ratio
        self._seed = np.uint32(seed)
        self._counters = {"selects": 0, "observes": 0}
        self._window = EpochWindow(self.num_prompts, int(self._seed)) if candidate_ratio else None
        self._state = selector.init(initial_key(self._seed), self.num_prompts)
        self._books = Bookkeeping(np.zeros(self.num_prompts, np.int32))
        self._prepared: _Choice | None = None
        self._select = compiled_select(selector.select)
        self._predict = compiled_predict(selector.predict)
        self._update = compiled_update(selector.update)
        self._preview = compiled_preview(selector.update)
        self._skips = "excluded" in inspect.signature(selector.select).parameters

    @property
    def spec(self) -> dict[str, Any]:
        """See `PromptSelector.spec`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """See `PromptSelector.state_dict`."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `PromptSelector.load_state_dict`."""
        raise NotImplementedError

    @guarded
    def __getstate__(self) -> dict[str, Any]:
        """The arguments of the constructor, and the state: a selector holds functions, which are made anew."""
        return {"method": _picklable(self._method), "arguments": self._arguments(), "state": self.state_dict()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """See `__getstate__`."""
        self._begin_as(_unpickled(saved["method"]), saved["arguments"], None, saved["state"])

    @guarded
    def __copy__(self) -> Any:
        """An independent selector: an update donates the state, which two selectors must not share."""
        copied = object.__new__(type(self))
        copied._begin_as(self._method, self._arguments(), self._mesh, self.state_dict())
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """See `__copy__`; the functions of the method are shared."""
        return self.__copy__()

    def _arguments(self) -> dict[str, Any]:
        return {
            "keys": None,
            "num_prompts": self.num_prompts,
            "seed": int(self._seed),
            "candidate_ratio": self._candidate_ratio,
            "track_in_flight": self._in_flight is not None,
            "in_flight_steps": self._in_flight_steps,
        }

    def _begin_as(self, method: Selector, arguments: dict[str, Any], mesh: Mesh | None, state: dict[str, Any]) -> None:
        SelectorCore.__init__(self, method, mesh=mesh, **arguments)
        self._pool_fingerprint = state["metadata"]["pool"]
        self.load_state_dict(state)

    def _choice(self, batch_size: int, candidates: ArrayLike | None, exclude: ArrayLike | None = None) -> _Choice:
        """What `select` returns, prepared or dispatched now; but for the open step, which ends, nothing changes."""
        _validate.positive_integer(batch_size=batch_size)
        ready = self._prepared if candidates is None and exclude is None else None
        if ready is not None and ready.batch_size == batch_size:
            return ready
        among, banned, window = None, self._banned(exclude), copy.copy(self._window)
        if candidates is not None:
            among = _validate.rows("candidates", candidates, self.num_prompts)
            _validate.distinct("candidates", among)
            among = among if banned is None else among[~banned[among]]
        size = len(among) if among is not None else self.num_prompts - (0 if banned is None else int(banned.sum()))
        if batch_size > size:
            without = "" if banned is None else f", where {banned.sum()} of the pool are excluded or in flight"
            raise ValueError(
                f"batch_size is {batch_size} of {size} prompts to choose from{without}; give at most {size}"
            )
        self._end_step()
        if among is None and window is not None and self._candidate_ratio is not None:
            among = window.take(min(self._candidate_ratio * batch_size, size), banned)
        return _Choice(int(batch_size), self._dispatched(int(batch_size), among, banned), window)

    def _banned(self, exclude: ArrayLike | None) -> Bool[np.ndarray, " N"] | None:
        """The prompts that must not be chosen; None: there are none."""
        banned = np.zeros(self.num_prompts, bool) if self._in_flight is None else self._in_flight.mask(self._selects)
        if exclude is not None:
            banned[_validate.rows("exclude", exclude, self.num_prompts)] = True
        return banned if banned.any() else None

    def _dispatched(
        self, batch_size: int, among: Int[np.ndarray, " c"] | None, banned: Bool[np.ndarray, " N"] | None
    ) -> Selection:
        """Starts to choose. Sizes are rounded up to powers of two, so that few programs are compiled."""
        options: dict[str, Any] = {}
        if among is None and banned is not None:
            if self._skips:
                options["excluded"] = banned
            else:
                among = np.flatnonzero(~banned).astype(np.int32)
        if among is not None and self._skips:
            among = np.asarray(lengthened(among, -1))
        size = batch_size
        if self._takes_count:
            size = min(bucket(batch_size), self.num_prompts if among is None else len(among))
            options["count"] = np.int32(batch_size)
        return self._select(self._state, self._seed, self._selects, size, among, options)

    @property
    def _selects(self) -> int:
        return self._counters["selects"]

    def _landed(self, prompt_ids: ArrayLike) -> None:
        """These prompts were observed, with or without rollouts that count."""
        if self._in_flight is not None:
            self._in_flight.release(_validate.integers("prompt_ids", prompt_ids, low=0, high=self.num_prompts))

    def _end_step(self) -> None:
        """Takes in what the open step observed, where there is one."""
        visits = self._step.visits
        if visits is not None:
            self._books.settle()
            self._step.end()
            self._take_in(visits)
            self._counters["ended_step"] = self._step.ended

    def _take_in(self, visits: Visits) -> None:
        self._learn(*visits)
        self._books.note(visits)

    def _current_state(self) -> tuple[State, int]:
        """The state and its clock as they are when the open step has ended; it goes on."""
        clock, visits = self._counters["observes"], self._step.visits
        if visits is None:
            return self._state, clock
        return self._preview(self._state, self._seed, clock, self._batch(visits)), clock + 1

    def _current_books(self) -> Bookkeeping:
        """The books as they are when the open step has ended."""
        return self._books if self._step.visits is None else self._books.with_visits(self._step.visits)

    def _batch(self, rollouts: Any) -> tuple[Any, ...]:
        return lengthened(rollouts[0], self.num_prompts), *map(lengthened, rollouts[1:])

    def _learn(self, *rollouts: Int[Array | np.ndarray, " b"]) -> None:
        """Updates the state by ids, successes and group sizes; what was prepared is no longer what it would choose."""
        self._books.settle()
        self._state = self._update(self._state, self._seed, self._counters["observes"], self._batch(rollouts))
        self._counters["observes"] += 1
        self._prepared = None

    def _arrays(self) -> dict[str, Any]:
        """Everything that is an array, by name, but for what was given to the method's constructor."""
        arrays: dict[str, Any] = {"state": self._state, "visits": self._books.visits}
        if self._window is not None:
            arrays["window"] = self._window.state_dict()
        if self._in_flight is not None:
            arrays["in_flight"] = self._in_flight.array
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
        if self._in_flight is not None:
            self._in_flight.put_back(arrays.get("in_flight"))
        self._step = OpenStep(self._counters.get("ended_step", -1))
        self._prepared = None


def _picklable(method: Selector) -> dict[str, Any] | Selector:
    """The spec of the method; the method itself, where its functions can be pickled.

    Raises:
        ValueError: neither is possible.
    """
    from jaxsel.runtime.checkpoint.rebuild import selector_from_spec

    try:
        selector_from_spec(method.spec)
        return method.spec
    except ValueError as error:
        try:
            pickle.dumps(method)
        except (pickle.PicklingError, AttributeError, TypeError):
            raise ValueError(
                f"this selector cannot be pickled: {error}; pickle its state_dict(), make the selector again in the "
                "other process, and give it the state by load_state_dict"
            ) from error
        return method


def _unpickled(method: dict[str, Any] | Selector) -> Selector:
    from jaxsel.runtime.checkpoint.rebuild import selector_from_spec

    return method if isinstance(method, Selector) else selector_from_spec(method)
