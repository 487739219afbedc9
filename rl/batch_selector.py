"""The interface of a prompt selector, as the training loop calls it."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from jaxsel import Prediction


class BatchSelector(Protocol):
    """The methods of a selector that training calls. `jaxsel.PromptSelector` is one."""

    @property
    def num_prompts(self) -> int:
        """The size of the pool."""
        ...

    @property
    def spec(self) -> dict[str, Any]:
        """The method and its settings."""
        ...

    def prepare(self, batch_size: int) -> None:
        """Start to compute the next choice, without waiting for it."""
        ...

    def select(self, batch_size: int, *, exclude: ArrayLike | None = None) -> np.ndarray:
        """Return distinct rows of the pool, without the excluded rows."""
        ...

    def predict(self, prompt_ids: Any = None) -> Prediction:
        """Return the predictions for these prompts, or for the whole pool."""
        ...

    def observe(self, prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike) -> None:
        """Update the predictions with the counts of successes and of judged rollouts per prompt."""
        ...

    def wait(self) -> None:
        """Wait until the last update is computed."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return the selector's metrics."""
        ...

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for a checkpoint; None if another process of the run holds it."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        ...
