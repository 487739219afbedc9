"""Checks of the keys of a trainer's data, and the selector for the data. A key is a unique name of a prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsel import _validate
from jaxsel.base import Selector
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.runtime.pool import fingerprint_of
from jaxsel.runtime.prompt_selector import PromptSelector


def check_keys(keys: list[Any], name: str, *, cure: str = "") -> None:
    """Check that a column of keys has a key of its own for every prompt.

    Args:
        keys: One key per row.
        name: Name of the column, for the error message.
        cure: What else the user can do, for the end of the error message.

    Raises:
        ValueError: The keys are missing, of mixed types, or repeat.
    """
    try:
        fingerprint_of(np.array(keys, object))
    except ValueError as error:
        raise ValueError(f"{name} does not identify the prompts: {error}{cure}") from error


def selector_of_rows(
    selector: Selector | PromptSelector | None,
    num_rows: int,
    *,
    keys: list[Any] | None,
    seed: int,
    data: str,
    in_flight_steps: int | None = None,
) -> PromptSelector:
    """Return a `PromptSelector` with one prompt per row of the data: the user's, or one that is made from a method.

    Args:
        selector: A method, or a selector that the user made.
        num_rows: Number of rows of the data.
        keys: One key per row. None: the selector knows only the number of prompts.
        seed: Seed of the selector that is made from a method.
        data: Name of the argument that holds the data, for error messages.
        in_flight_steps: See `PromptSelector`, for the selector that is made from a method.

    Raises:
        ValueError: The selector is of another size or has other keys.
    """
    if isinstance(selector, Selector):
        pool: dict[str, Any] = {"num_prompts": num_rows} if keys is None else {"keys": keys}
        return PromptSelector(selector, seed=seed, track_in_flight=True, in_flight_steps=in_flight_steps, **pool)
    _validate.made(PromptSelector, selector=selector)
    assert isinstance(selector, PromptSelector)
    if selector.num_prompts != num_rows:
        raise ValueError(
            f"selector has {selector.num_prompts} prompts and {data} {num_rows} rows; make the selector with one "
            "prompt per row, or give the method alone, for example selector=jaxsel.adaptive()"
        )
    if keys is not None and selector.pool != fingerprint_of(np.array(keys, object)):
        raise ValueError(f"selector has other keys than the key column of {data}; give it the column as keys=")
    return selector


def check_size(name: str, items: Sequence[Any], edge: TrainerEdge) -> None:
    """Check that there is one item per prompt of the edge's selector.

    Raises:
        ValueError: The lengths differ.
    """
    if len(items) != edge.selector.num_prompts:
        raise ValueError(
            f"{name} has {len(items)} entries and the selector {edge.selector.num_prompts} prompts; give one per prompt"
        )
