"""The options `data.jaxsel` in verl's configuration, and the selector that they describe. Needs no verl."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from jaxsel import _validate, methods
from jaxsel.base import Selector
from jaxsel.integrations._pools import check_keys
from jaxsel.integrations._rewards import checked_threshold
from jaxsel.runtime.pool import fingerprint_of
from jaxsel.runtime.prompt_selector import PromptSelector

INDEX = "extra_info.index"
"""Where verl's own scripts put the number of a row."""
_METHODS = ("adaptive", "arcus", "dps", "mopps", "threshold", "uniform")


@dataclass(frozen=True)
class Options:
    """The entries of `data.jaxsel` in verl's configuration.

    Args:
        method: Name of a method of jaxsel, for example "mopps". Or "module:function" for a function that returns a
            method, or a `PromptSelector` with one prompt per row of the data and `track_in_flight=True`.
        arguments: Arguments of the method, for example `group_size`.
        seed: Seed of the choices.
        candidate_ratio: See `PromptSelector`.
        success: Name of the binary reward in verl's `reward_extra_info` that tells whether a completion is correct.
            verl itself uses "acc". The total reward is never used.
        threshold: The largest reward that is not a success.
        key: Column with a unique name for each prompt, or a path such as "extra_info.index". Checkpoints then refuse
            other data. The default joins `data_source` and `extra_info.index`. None: a prompt is identified by its
            position, and checkpoints check only the number of prompts.
        history: Folder in which to record what was observed, for `jaxsel.integrations.history.read_history`.

    Raises:
        ValueError: The threshold is not a finite number, or the method, the arguments or the key have another type.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    candidate_ratio: int | None = None
    success: str = "acc"
    threshold: float = 0.5
    key: str | None = INDEX
    history: str | None = None

    def __post_init__(self):
        checked_threshold(self.threshold)
        for name, kinds, cure in (
            ("method", (str,), "the name of a method, such as mopps"),
            ("arguments", (Mapping,), "names and values, such as {group_size: 16}"),
            ("key", (str, type(None)), "the name of a column, or null"),
        ):
            if not isinstance(getattr(self, name), kinds):
                raise ValueError(f"data.jaxsel.{name} is {getattr(self, name)!r:.60}; give {cure}")


def read_options(given: Any) -> Options:
    """Return the options in verl's configuration.

    Args:
        given: The value of `data.jaxsel`; None if there is none.

    Raises:
        ValueError: The method is missing, or an entry is unknown.
    """
    if not isinstance(given, Mapping) or "method" not in given:
        raise ValueError(f"data.jaxsel is {given!r}, which names no method; set for example +data.jaxsel.method=mopps")
    names = [entry.name for entry in fields(Options)]
    for name in given:
        if name not in names:
            raise ValueError(f"data.jaxsel has the entry {name!r}; give only {', '.join(names)}")
    return Options(**given)


def pool_keys(rows: Any, key: str | None) -> list[Any] | None:
    """Return the keys of all prompts, or None if prompts are identified by their position.

    Args:
        rows: verl's table of prompts, with `column_names`; `rows[name]` is a column.
        key: See `Options`.

    Raises:
        ValueError: A key is missing or repeats.
    """
    if key is None:
        return None
    cure = (
        "name a column of unique keys with +data.jaxsel.key=COLUMN, or identify prompts by their position with "
        "+data.jaxsel.key=null"
    )
    keys = _column(rows, key)
    for at, found in enumerate(keys):
        if found is None:
            also = "; verl would give all such rows the index 0" if key == INDEX else ""
            raise ValueError(f"row {at} of data.train_files has no {key}{also}; number the rows in the file, {cure}")
    if key == INDEX and "data_source" in rows.column_names:  # files of several sources each count from 0
        keys = [f"{source}/{index}" for source, index in zip(rows["data_source"], keys, strict=True)]
    check_keys(keys, f"{key} in data.train_files", cure=f"; {cure}")
    return keys


def prompt_selector(options: Options, num_prompts: int, keys: list[Any] | None) -> PromptSelector:
    """Return the selector for the data.

    Raises:
        ValueError: The method is unknown, or the selector is of another size or has other keys.
    """
    try:
        made = _factory(options.method)(**options.arguments)
    except TypeError as error:
        raise ValueError(f"data.jaxsel.arguments is {dict(options.arguments)!r}: {error}") from error
    pool: dict[str, Any] = {"num_prompts": num_prompts} if keys is None else {"keys": keys}
    if isinstance(made, Selector):
        return PromptSelector(
            made, seed=options.seed, candidate_ratio=options.candidate_ratio, track_in_flight=True, **pool
        )
    _validate.made(PromptSelector, **{"data.jaxsel.method": made})
    if made.num_prompts != num_prompts:
        raise ValueError(
            f"the selector of {options.method} has {made.num_prompts} prompts and data.train_files {num_prompts}, "
            "after verl's filter of long prompts; make it with one prompt per row, or return the method alone"
        )
    if keys is not None and made.pool != fingerprint_of(np.array(keys, object)):
        raise ValueError(
            f"the selector of {options.method} has other keys than data.train_files; give it {keys[:2]}..., or set "
            "+data.jaxsel.key=null"
        )
    return made


def prompt_texts(rows: Any, column: str) -> list[str]:
    """Return all prompts as texts. A conversation becomes JSON."""
    return [
        prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, sort_keys=True, default=str)
        for prompt in rows[column]
    ]


def _column(rows: Any, key: str) -> list[Any]:
    """Return the values at a path of names, with None where a row lacks the value."""
    column, *path = key.split(".")
    values = list(rows[column]) if column in rows.column_names else [None] * len(rows)
    for name in path:
        values = [value.get(name) if isinstance(value, Mapping) else None for value in values]
    return values


def _factory(method: str) -> Any:
    module, _, name = method.partition(":")
    if name:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"data.jaxsel.method is {method!r}: {error}; give a module on Python's path") from error
    _validate.one_of(_METHODS, **{"data.jaxsel.method": method})
    return getattr(methods, method)
