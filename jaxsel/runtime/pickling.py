"""Conversion of a method for a pickle. Closures cannot be pickled, so the pickle holds the method's spec if possible.

The spec is the JSON description of the method, from which the method can be made again.
"""

import pickle
from typing import Any

from jaxsel.base import Selector
from jaxsel.runtime.checkpoint.rebuild import selector_from_spec


def picklable(method: Selector) -> dict[str, Any] | Selector:
    """Return the spec of the method if the method can be made from it again, and otherwise the method itself.

    Raises:
        ValueError: The method cannot be made from its spec, and its functions cannot be pickled.
    """
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


def unpickled(method: dict[str, Any] | Selector) -> Selector:
    """Return the method that `picklable` was given."""
    return method if isinstance(method, Selector) else selector_from_spec(method)
