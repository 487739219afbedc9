"""Prompt selection in the Tinker cookbook, written from its published interface.

The adapter has an edge: a `TrainerEdge`, which hands out the prompts that its selector chooses, and observes rewards.
**It has never run inside the Tinker cookbook.** The tests use stubs of its objects. The cookbook is not imported.
"""

from collections import ChainMap
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxsel import _validate
from jaxsel.integrations._lost import release_lost
from jaxsel.integrations._pools import check_size
from jaxsel.integrations.edge import TrainerEdge

_CUT_SHORT = {"max_tokens_reached", "parse_error", "context_overflow"}
"""Metrics of answers that the cookbook ends without grading them."""


@runtime_checkable
class Builder(Protocol):
    """What is called of the Tinker cookbook's `EnvGroupBuilder`."""

    async def make_envs(self) -> Sequence[Any]:
        """Return the environments of one group."""
        ...

    async def compute_group_rewards(
        self, trajectory_group: list[Any], env_group: Sequence[Any]
    ) -> list[tuple[float, dict[str, Any]]]:
        """Return each trajectory's final reward and metrics."""
        ...


class TinkerDataset:
    """A data set with the interface of the Tinker cookbook's `RLDataset`.

    Args:
        builders: One `EnvGroupBuilder` per prompt, in the order of the pool.
        edge: The edge with the selector.
        batch_size: Number of groups per batch.
        num_batches: Number of batches of the run.
        success: Name of the metric that tells whether a trajectory is correct, for example "correct" of the cookbook's
            `ProblemEnv`: of the final metrics, or else of the last step that has it. A trajectory without it is wrong,
            because the cookbook does not grade answers that are cut short. None: the total reward.

    Raises:
        ValueError: The pool has another size, or an argument is out of range.
    """

    def __init__(
        self,
        builders: Sequence[Builder],
        edge: TrainerEdge,
        *,
        batch_size: int,
        num_batches: int,
        success: str | None = None,
    ):
        _validate.positive_integer(batch_size=batch_size, num_batches=num_batches)
        check_size("builders", builders, edge.selector.num_prompts)
        self._builders, self.edge, self._batch_size, self._num_batches = builders, edge, batch_size, num_batches
        self._success, self._measured = success, set[str]()

    def get_batch(self, index: int) -> list["WatchedBuilder"]:
        """Return the builders of freshly selected prompts. The index only numbers the step of their observations.

        If too few prompts are free, those that wait longest for rewards are free again, as if they had timed out.
        """
        release_lost(self.edge, self._batch_size)
        chosen = self.edge.next_batch(self._batch_size).tolist()
        about = (self.edge, index, self._success, self._measured)
        return [WatchedBuilder(self._builders[row], row, *about) for row in chosen]

    def __len__(self) -> int:
        """Return the number of batches."""
        return self._num_batches


class WatchedBuilder:
    """An `EnvGroupBuilder` whose group of trajectories the selector observes; all else is the original builder's.

    Args:
        builder: The original builder.
        row: Row of its prompt.
        edge: The edge with the selector.
        step: Number of the batch.
        success: Name of the metric that tells whether a trajectory is correct. None: the total reward.
        measured: Names of all metrics that trajectories have had so far. The builders of a data set share this set.
    """

    def __init__(
        self, builder: Builder, row: int, edge: TrainerEdge, step: int, success: str | None, measured: set[str]
    ):
        self._builder, self._row, self._edge, self._step = builder, row, edge, step
        self._success, self._measured = success, measured

    async def make_envs(self) -> Sequence[Any]:
        """Return the builder's environments."""
        return await self._builder.make_envs()

    async def compute_group_rewards(
        self, trajectory_group: list[Any], env_group: Sequence[Any]
    ) -> list[tuple[float, dict[str, Any]]]:
        """Return the builder's final rewards, and let the selector observe which trajectories are correct.

        Raises:
            ValueError: No trajectory has had the metric so far, and one of the group lacks it and was not cut short.
                The selector's state stays as it was.
        """
        final = await self._builder.compute_group_rewards(trajectory_group, env_group)
        self._edge.observe([self._row], [self._rewards(trajectory_group, final)], step=self._step)
        return final

    def _rewards(self, trajectories: list[Any], final: list[tuple[float, dict[str, Any]]]) -> list[float]:
        pairs = list(zip(trajectories, final, strict=True))
        if self._success is None:
            return [sum(move.reward for move in one.transitions) + reward for one, (reward, _) in pairs]
        found = [
            ChainMap(metrics, *(move.metrics for move in reversed(one.transitions))) for one, (_, metrics) in pairs
        ]
        self._measured.update(*found)
        if self._success not in self._measured and any(_CUT_SHORT.isdisjoint(metrics) for metrics in found):
            raise ValueError(
                f"success is {self._success!r}, which is no metric of the trajectory; give one of "
                f"{sorted(self._measured)}, or None for the total reward"
            )
        return [metrics.get(self._success, 0.0) for metrics in found]

    def __reduce__(self) -> Any:
        """Refuse a copy for another process.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a WatchedBuilder cannot be pickled: its selector learns in this process; set no rollout executor"
        )

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the builder, for example `logging_tags`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._builder, name)
