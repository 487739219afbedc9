"""Prompt selection in Trinity-RFT: `register` makes a data selector of the type "jaxsel".

A file in the folder of `--plugin-dir` holds two lines:

    from jaxsel.integrations.trinity import register
    register()

The configuration of a taskset names the selector:

    data_selector:
      selector_type: jaxsel
      seed: 0
      kwargs: {method: adaptive, group_size: 8}

Trinity reports the mean reward of each prompt to a selector if the pipeline has the operator `pass_rate_calculator`.
The selector reads the successes from the mean, so every reward has to be 0 or 1. Other means are refused. It also needs
one experience per rollout: a workflow that returns an experience per turn gives means that count turns.
"""

import base64
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import jaxsel.methods
from jaxsel import _validate
from jaxsel.integrations._lost import release_lost
from jaxsel.integrations._pools import check_keys, selector_of_rows
from jaxsel.integrations.edge import TrainerEdge

METHODS: dict[str, Callable[..., Any]] = {
    name: getattr(jaxsel.methods, name) for name in ("adaptive", "arcus", "dps", "mopps", "threshold", "uniform")
}
"""The methods that a configuration can name; their arguments are numbers and strings."""
_IN_FLIGHT_STEPS = 8
_NEAR = 1e-4  # largest rounding error of a count of successes, because Trinity's means are float32
_STATE = "jaxsel"


class TrinitySelector:
    """A selector with the interface of Trinity's `BaseSelector`. `register` makes it one of Trinity's classes.

    Args:
        data_source: Trinity's reader of the taskset, with the attributes `dataset` and `dataset_size`.
        config: Trinity's configuration, with the attributes `seed`, `feature_keys` and `kwargs`. The kwargs are
            `method`, the arguments of this method, `group_size` (the rollouts per prompt: `repeat_times` in Trinity),
            `key_column`, a column with a unique name for each prompt, and `in_flight_steps`. A prompt without feedback
            may be chosen again after this number of later batches, 8 by default, because Trinity reports no failures.

    Attributes:
        edge: The `TrainerEdge` with the selector.

    Raises:
        ValueError: The method is unknown, `group_size` is missing, or an argument or the key column is wrong.
    """

    def __init__(self, data_source: Any, config: Any):
        self.data_source, self.config = data_source, config
        options = dict(config.kwargs or {})
        name, key_column = options.pop("method", None), options.pop("key_column", None)
        _validate.one_of(METHODS, method=name)
        if "group_size" not in options:
            raise ValueError("kwargs has no group_size; give the number of rollouts per prompt, Trinity's repeat_times")
        self._group_size = options["group_size"]
        _validate.positive_integer(group_size=self._group_size)
        steps = options.pop("in_flight_steps", _IN_FLIGHT_STEPS)
        keys = None if key_column is None else _keys(data_source.dataset, key_column)
        method, size = _method(name, options), data_source.dataset_size
        if keys is not None:
            check_keys(keys, "the key column of the taskset")
        own = selector_of_rows(method, size, keys=keys, seed=config.seed, data="the taskset", in_flight_steps=steps)
        self.edge = TrainerEdge(own)

    def get_indices(self, batch_size: int, return_extra_info: bool = False) -> Any:
        """Return distinct rows of the taskset that do not wait for feedback.

        If too few are left, the rows that wait longest are free again, as if their feedback had timed out.

        Args:
            batch_size: Number of prompts.
            return_extra_info: Whether to return a dictionary too: the predicted success rates.

        Raises:
            ValueError: The taskset has fewer than `batch_size` prompts.
        """
        _validate.positive_integer(batch_size=batch_size)
        release_lost(self.edge, int(batch_size))
        chosen = self.edge.next_batch(int(batch_size))
        if not return_extra_info:
            return chosen.tolist()
        rates = self.edge.selector.predict(chosen).success_rate
        return chosen.tolist(), {"indices": chosen.tolist(), "success_rate": np.asarray(rates).tolist()}

    def feedback(self, indices: Sequence[int], values: Sequence[float | None]) -> None:
        """Learn from the mean rewards of prompts. A mean of None or NaN means that nothing was judged.

        Raises:
            ValueError: A mean is not a number of successes divided by the rollouts per prompt, or a length differs. The
                state stays as it was.
        """
        ids = _validate.integers("indices", indices, low=0, high=self.edge.selector.num_prompts)
        means = np.array([math.nan if value is None else value for value in values], np.float64)
        if means.shape != ids.shape:
            raise ValueError(f"there are {len(ids)} indices and {len(means)} values; give one value per index")
        self.edge.observe(ids, [self._rewards(mean) for mean in means])

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, the posterior included, in a form that Trinity can write to its JSON file."""
        return {"current_index": 0, _STATE: _as_json(self.edge.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state. Prompts that were in flight are free again, as Trinity does not generate them again.

        At the start of a run, Trinity gives `{"current_index": 0}`, which changes nothing.

        Raises:
            ValueError: The state is of another selector, method, or pool.
        """
        if isinstance(state_dict, dict) and _STATE in state_dict:
            self.edge.load_state_dict(_from_json(state_dict[_STATE]))
            self.edge.release()
        elif state_dict != {"current_index": 0}:
            raise ValueError(
                f"state_dict is {state_dict!r:.80}, which another selector wrote; keep the selector_type of that run, "
                "or start a new one"
            )

    def _rewards(self, mean: float) -> list[float]:
        """Return as many rewards of 0 and 1 with this mean as possible; Trinity does not tell how many were judged."""
        if not math.isfinite(mean):
            return []
        for size in range(self._group_size, 0, -1):  # a rollout may have failed
            successes = round(mean * size)
            if abs(mean * size - successes) <= _NEAR and 0 <= successes <= size:
                return [1.0] * successes + [0.0] * (size - successes)
        raise ValueError(
            f"values holds {mean}, which is no share of at most {self._group_size} rollouts; give group_size Trinity's "
            "repeat_times, and let the reward be 0 or 1 (feedback gets the mean of the total reward) and a rollout one "
            "experience (of workflows that return an experience per turn, feedback gets means that count turns)"
        )


def register(name: str = "jaxsel") -> type:
    """Add the selector to Trinity's registry and return its class. To register a name again changes nothing.

    Raises:
        ImportError: Trinity-RFT is not installed.
    """
    try:
        from trinity.buffer.selector import SELECTORS, BaseSelector  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed; pip install trinity-rft", name=error.name) from error
    if name not in SELECTORS.modules:
        SELECTORS.register_module(name, type("JaxselSelector", (TrinitySelector, BaseSelector), {}))
    return SELECTORS.get(name)


def _method(name: str, options: dict[str, Any]) -> Any:
    known = list(inspect.signature(METHODS[name]).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"kwargs has {unknown[0]!r}, which {name} does not take; give some of {known}")
    return METHODS[name](**options)


def _keys(dataset: Any, key_column: str) -> list[Any]:
    columns = list(dataset.column_names)
    if key_column not in columns:
        raise ValueError(f"key_column is {key_column!r}, which the taskset lacks; give one of {columns}")
    return list(dataset[key_column])


def _as_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return the edge's state with the bytes of its arrays as text."""
    arrays = {
        name: array | {"data": base64.b64encode(array["data"]).decode("ascii")}
        for name, array in state["selector"]["arrays"].items()
    }
    return state | {"selector": state["selector"] | {"arrays": arrays}}


def _from_json(state: dict[str, Any]) -> dict[str, Any]:
    try:
        arrays = {
            name: array | {"data": base64.b64decode(array["data"], validate=True)}
            for name, array in state["selector"]["arrays"].items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the selector's state is damaged ({error}); resume from an earlier checkpoint") from error
    return state | {"selector": state["selector"] | {"arrays": arrays}}
