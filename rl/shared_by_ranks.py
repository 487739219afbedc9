"""A rollout engine and a prompt selector that all processes (ranks) of a run share.

All ranks call the same methods and get the same results.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from jaxsel import Prediction, PromptSelector
from rl.prompts.messages import Prompt
from rl.ranks import Ranks
from rl.rollout import Completions, RolloutEngine, Sampling, check_request, join_completions
from rl.seeds import derived_seed


class SharedEngine:
    """A `RolloutEngine` that splits the prompts among the ranks and returns all completions on every rank.

    Sending tokens takes little time compared with sampling them. Because every rank holds the whole batch, filters,
    verdicts and metrics need no further exchange.

    Args:
        engine: The engine of this rank.
        ranks: The ranks that share the work.
    """

    def __init__(self, engine: RolloutEngine, ranks: Ranks):
        self._engine = engine
        self._ranks = ranks

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, seed: int) -> Completions:
        """Complete the prompts, as `RolloutEngine.generate` does. The result depends on the number of ranks."""
        check_request(prompts, group_size)
        rank, count = self._ranks.rank, self._ranks.count
        if count == 1:
            return self._engine.generate(prompts, group_size, sampling, seed=seed)
        mine = prompts[len(prompts) * rank // count : len(prompts) * (rank + 1) // count]
        own_seed = derived_seed(seed, rank)

        def complete() -> Completions | None:
            return _at("cpu", self._engine.generate(mine, group_size, sampling, seed=own_seed)) if mine else None

        parts = [part for part in self._ranks.gather(complete) if part is not None]
        return _at(self._ranks.device, join_completions(parts))

    def update_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Hand the weights to the engine of this rank, and wait until all ranks have done so."""
        self._ranks.each(lambda: self._engine.update_weights(weights))


class SharedSelector:
    """A `PromptSelector` that rank 0 holds; the other ranks receive the results of its methods.

    Every method does what the method of `PromptSelector` with the same name does. Rank 0's arguments are used.

    Args:
        make: A function that makes the selector. Rank 0 alone calls it.
        ranks: The ranks that share the selector.

    Attributes:
        num_prompts: The size of the pool.
        spec: The selector's method and settings.
    """

    def __init__(self, make: Callable[[], PromptSelector], ranks: Ranks):
        self._ranks = ranks
        self._selector = ranks.each(lambda: make() if ranks.is_main else None)
        self.num_prompts: int = self._ask(lambda selector: selector.num_prompts)
        self.spec: dict[str, Any] = self._ask(lambda selector: selector.spec)

    @property
    def visits(self) -> np.ndarray:
        """The number of steps in which a rollout of each prompt was observed."""
        return self._ask(lambda selector: selector.visits)

    def prepare(self, batch_size: int) -> None:
        """Start to compute the next choice."""
        self._ask(lambda selector: selector.prepare(batch_size))

    def select(self, batch_size: int, candidates: Any = None, *, exclude: Any = None) -> np.ndarray:
        """Return the chosen rows of the pool."""
        return self._ask(lambda selector: selector.select(batch_size, candidates, exclude=exclude))

    def release(self, prompt_ids: Any) -> None:
        """Let prompts be chosen again that were chosen and will not be observed."""
        self._ask(lambda selector: selector.release(prompt_ids))

    def end_step(self) -> None:
        """End the current step."""
        self._ask(lambda selector: selector.end_step())

    def predict(self, prompt_ids: Any = None) -> Prediction:
        """Return the predictions for these prompts, or for the whole pool."""
        return self._ask(lambda selector: selector.predict(prompt_ids))

    def observe(self, prompt_ids: Any, successes: Any, group_size: Any, *, step: int | None = None) -> None:
        """Update the predictions with counts, which are the same on all ranks after `SharedEngine.generate`."""
        self._ask(lambda selector: selector.observe(prompt_ids, successes, group_size, step=step))

    def wait(self) -> None:
        """Wait until the last update is computed."""
        self._ask(lambda selector: selector.wait())

    def metrics(self) -> dict[str, float]:
        """Return the selector's metrics."""
        return self._ask(lambda selector: selector.metrics())

    def state_dict(self) -> dict[str, Any] | None:
        """Return the selector's state on rank 0, which writes the checkpoints, and None on the other ranks."""
        return self._ranks.each(lambda: self._selector.state_dict() if self._selector else None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the selector's state."""
        self._ask(lambda selector: selector.load_state_dict(state_dict))

    def _ask(self, question: Callable[[PromptSelector], Any]) -> Any:
        return self._ranks.on_main(lambda: question(self._selector))  # type: ignore[arg-type]


def _at(device: torch.device | str, completions: Completions) -> Completions:
    columns: list[Any] = [x.to(device) if isinstance(x, torch.Tensor) else x for x in completions]
    return Completions(*columns)
