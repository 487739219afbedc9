"""Prompt selection in the Tinker cookbook, written from its published interface.

The adapter has an edge: a `TrainerEdge`, which hands out the prompts that its selector chooses, and observes rewards.
**It has never run inside the Tinker cookbook.** The tests use stubs of its objects. The cookbook is not imported.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxsel import _validate
from jaxsel.integrations._lost import release_lost
from jaxsel.integrations._pools import check_size
from jaxsel.integrations.edge import TrainerEdge


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
            `ProblemEnv`: of the final metrics, or else of the last step that has it. None: the total reward.

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
        self._success = success

    def get_batch(self, index: int) -> list["WatchedBuilder"]:
        """Return the builders of freshly selected prompts. The index only numbers the step of their observations.

        If too few prompts are free, those that wait longest for rewards are free again, as if they had timed out.
        """
        release_lost(self.edge, self._batch_size)
        chosen = self.edge.next_batch(self._batch_size).tolist()
        return [WatchedBuilder(self._builders[row], row, self.edge, index, self._success) for row in chosen]

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
    """

    def __init__(self, builder: Builder, row: int, edge: TrainerEdge, step: int, success: str | None = None):
        self._builder, self._row, self._edge, self._step, self._success = builder, row, edge, step, success

    async def make_envs(self) -> Sequence[Any]:
        """Return the builder's environments."""
        return await self._builder.make_envs()

    async def compute_group_rewards(
        self, trajectory_group: list[Any], env_group: Sequence[Any]
    ) -> list[tuple[float, dict[str, Any]]]:
        """Return the builder's final rewards, and let the selector observe which trajectories are correct.

        Raises:
            ValueError: No step of a trajectory has the metric. The state stays as it was.
        """
        final = await self._builder.compute_group_rewards(trajectory_group, env_group)
        rewards = [self._reward(*pair) for pair in zip(trajectory_group, final, strict=True)]
        self._edge.observe([self._row], [rewards], step=self._step)
        return final

    def _reward(self, trajectory: Any, final: tuple[float, dict[str, Any]]) -> float:
        if self._success is None:
            return sum(move.reward for move in trajectory.transitions) + final[0]
        for metrics in (final[1], *(move.metrics for move in reversed(trajectory.transitions))):
            if self._success in metrics:
                return metrics[self._success]
        raise ValueError(
            f"success is {self._success!r}, which is no metric of the trajectory; give the name of a metric"
        )

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
