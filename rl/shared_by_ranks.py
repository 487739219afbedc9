"""An engine and a selector that all ranks share: each calls the same methods and gets the same answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from jaxsel import Prediction, PromptSelector
from rl.ranks import Ranks
from rl.rollout import Completions, RolloutEngine, Sampling, check_request, join_completions


class SharedEngine:
    """A `RolloutEngine` of which every rank has one: each completes its part of the prompts, and all get everything.

    Tokens are small beside what it takes to sample them, and with the whole batch on every rank filters, verdicts and
    metrics need no exchange of their own.

    Args:
        engine: this rank's own.
        ranks: that share the work.
    """

    def __init__(self, engine: RolloutEngine, ranks: Ranks):
        self._engine = engine
        self._ranks = ranks

    def generate(self, prompts: Sequence[str], group_size: int, sampling: Sampling, *, seed: int) -> Completions:
        """See `RolloutEngine.generate`; the number of ranks changes the completions, as it does the seeds."""
        check_request(prompts, group_size)
        rank, count = self._ranks.rank, self._ranks.count
        if count == 1:
            return self._engine.generate(prompts, group_size, sampling, seed=seed)
        mine = prompts[len(prompts) * rank // count : len(prompts) * (rank + 1) // count]
        own_seed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])

        def complete() -> Completions | None:
            return _at("cpu", self._engine.generate(mine, group_size, sampling, seed=own_seed)) if mine else None

        parts = [part for part in self._ranks.gather(complete) if part is not None]
        return _at(self._ranks.device, join_completions(parts))

    def update_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """See `RolloutEngine.update_weights`."""
        self._ranks.each(lambda: self._engine.update_weights(weights))


class SharedSelector:
    """A `PromptSelector` that only rank 0 holds: it chooses, predicts and observes, and the others hear of it.

    Args:
        make: makes the selector; called on rank 0 alone.
        ranks: that share it.
    """

    def __init__(self, make: Callable[[], PromptSelector], ranks: Ranks):
        self._ranks = ranks
        self._selector = ranks.each(lambda: make() if ranks.is_main else None)
        self.num_prompts: int = self._ask(lambda selector: selector.num_prompts)
        self.spec: dict[str, Any] = self._ask(lambda selector: selector.spec)

    @property
    def visits(self) -> np.ndarray:
        """See `PromptSelector.visits`."""
        return self._ask(lambda selector: selector.visits)

    def prepare(self, batch_size: int) -> None:
        """See `PromptSelector.prepare`."""
        self._ask(lambda selector: selector.prepare(batch_size))

    def select(self, batch_size: int, candidates: Any = None, *, exclude: Any = None) -> np.ndarray:
        """See `PromptSelector.select`."""
        return self._ask(lambda selector: selector.select(batch_size, candidates, exclude=exclude))

    def release(self, prompt_ids: Any) -> None:
        """See `PromptSelector.release`."""
        self._ask(lambda selector: selector.release(prompt_ids))

    def end_step(self) -> None:
        """See `PromptSelector.end_step`."""
        self._ask(lambda selector: selector.end_step())

    def predict(self, prompt_ids: Any = None) -> Prediction:
        """See `PromptSelector.predict`."""
        return self._ask(lambda selector: selector.predict(prompt_ids))

    def observe(self, prompt_ids: Any, successes: Any, group_size: Any, *, step: int | None = None) -> None:
        """See `PromptSelector.observe`; what rank 0 is told counts, which is what all of them have gathered."""
        self._ask(lambda selector: selector.observe(prompt_ids, successes, group_size, step=step))

    def wait(self) -> None:
        """See `PromptSelector.wait`."""
        self._ask(lambda selector: selector.wait())

    def metrics(self) -> dict[str, float]:
        """See `PromptSelector.metrics`."""
        return self._ask(lambda selector: selector.metrics())

    def state_dict(self) -> dict[str, Any] | None:
        """See `PromptSelector.state_dict`; None but on rank 0, which writes the checkpoints."""
        return self._ranks.each(lambda: self._selector.state_dict() if self._selector else None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `PromptSelector.load_state_dict`."""
        self._ask(lambda selector: selector.load_state_dict(state_dict))

    def _ask(self, question: Callable[[PromptSelector], Any]) -> Any:
        return self._ranks.on_main(lambda: question(self._selector))  # type: ignore[arg-type]


AnySelector = PromptSelector | SharedSelector


def _at(device: torch.device | str, completions: Completions) -> Completions:
    columns: list[Any] = [x.to(device) if isinstance(x, torch.Tensor) else x for x in completions]
    return Completions(*columns)
