"""The selector of a trainer's training data, for adapters whose data has rows."""

from typing import Any

import numpy as np

from jaxsel import _validate
from jaxsel.base import Selector
from jaxsel.runtime.pool import identify_pool
from jaxsel.runtime.prompt_selector import PromptSelector


def selector_of_rows(
    selector: Selector | PromptSelector,
    num_rows: int,
    *,
    keys: list[Any] | None,
    seed: int,
    data: str,
    in_flight_steps: int | None = None,
) -> PromptSelector:
    """Return the selector with one prompt per row; a method becomes one.

    Args:
        selector: A method, or a selector that the user made.
        num_rows: Number of rows of the data.
        keys: Names of the prompts; None: the selector knows only their number.
        seed: Seed of the selector that is made from a method.
        data: Name of the argument that holds the data, for errors.
        in_flight_steps: See `PromptSelector`, for the selector that is made from a method.

    Raises:
        ValueError: The selector is of another size or has other keys, or the keys repeat.
    """
    fingerprint = None
    if keys is not None:
        try:
            fingerprint = identify_pool(np.array(keys, object), None).fingerprint
        except ValueError as error:
            raise ValueError(f"the key column of {data} names no prompts: {error}") from error
    if isinstance(selector, Selector):
        pool: dict[str, Any] = {"num_prompts": num_rows} if keys is None else {"keys": keys}
        return PromptSelector(selector, seed=seed, track_in_flight=True, in_flight_steps=in_flight_steps, **pool)
    _validate.made(PromptSelector, selector=selector)
    if selector.num_prompts != num_rows:
        raise ValueError(
            f"selector has {selector.num_prompts} prompts and {data} {num_rows} rows; make the selector with one "
            "prompt per row, or give the method alone, for example selector=jaxsel.adaptive()"
        )
    if fingerprint not in (None, selector.pool):
        raise ValueError(f"selector has other keys than the key column of {data}; give it the column as keys=")
    return selector
