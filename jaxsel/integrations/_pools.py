"""Checks of the keys of a trainer's data, and the selector for the data. A key is a unique name of a prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsel import _validate
from jaxsel.base import Selector
from jaxsel.runtime.pool import Keys, fingerprint_of
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


def check_size(name: str, items: Sequence[Any], num_prompts: int) -> None:
    """Check that there is one item per prompt of the selector.

    Raises:
        ValueError: The lengths differ.
    """
    if len(items) != num_prompts:
        raise ValueError(f"{name} has {len(items)} entries and the selector {num_prompts} prompts; give one per prompt")


def checked_texts(texts: Sequence[str] | None, num_prompts: int) -> list[str] | None:
    """Return the texts of the prompts as a list.

    Raises:
        ValueError: There is not one text per prompt, or a text is none that UTF-8 can hold.
    """
    if texts is None:
        return None
    given = [texts] if isinstance(texts, str) else list(texts)
    if len(given) != num_prompts:
        raise ValueError(f"texts has {len(given)} entries for {num_prompts} prompts; give one text per prompt")
    for row, text in enumerate(given):
        try:
            str.encode(text)
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"texts[{row}] is {text!r:.80}; give text that UTF-8 can hold ({error})") from error
    return given


def row_of(keys: Keys, pool: str) -> dict[Any, int]:
    """Return the row of every key of the pool with this fingerprint.

    Raises:
        ValueError: The keys are those of another pool.
    """
    if fingerprint_of(keys) != pool:
        raise ValueError("keys are not the keys of the selector; give the same keys in the same order")
    return {key: row for row, key in enumerate(keys.tolist() if isinstance(keys, np.ndarray) else keys)}
