"""What a selector or predictor that transforms another one passes on: its state holds the other's state as `inner`."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Int, Key

from jaxsel._shared import shared
from jaxsel.base import Embedded, Prediction, State, call_optional, embedded_in


def inner_constants(state: State) -> tuple[str, ...]:
    """Return the names of the inner state's constant fields, each with the prefix `inner.`."""
    return tuple(f"inner.{name}" for name in call_optional(state.inner, "constants", ()))


def inner_embedded(state: State) -> Embedded | None:
    """Return the embeddings and latest batches of the inner state, or None if it has no embeddings."""
    return embedded_in(state.inner)


@shared
def predict_inner(inner_predict: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `predict` that predicts from the inner state."""

    def predict(
        key: Key[Array, ""], state: State, prompt_ids: Int[Array, " m"] | None, first_id: Int[Array, ""] | int = 0
    ) -> Prediction:
        return inner_predict(key, state.inner, prompt_ids, first_id)

    return predict
