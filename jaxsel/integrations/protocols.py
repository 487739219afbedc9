"""Prompt selection in slime, prime-rl and the Tinker cookbook, written from their published interfaces.

Each adapter has an edge: a `TrainerEdge`, which hands out the prompts that its selector chooses, and observes rewards.
**No class here has run inside its trainer.** The tests use stubs with the attributes that the protocols list. None
of the three trainers is imported: a protocol names what an adapter reads from the trainer's objects.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxsel import _validate
from jaxsel.integrations._state_file import read_state, write_state
from jaxsel.integrations.edge import TrainerEdge

ROW = "selected_row"
"""Key in the metadata of slime's samples: the row of the prompt."""


@runtime_checkable
class Sample(Protocol):
    """What is read and written of slime's `Sample`.

    Attributes:
        group_index: Number of the group.
        index: Number of the sample.
        metadata: The sample's own dictionary.
        reward: The reward; None if nothing was judged; a dictionary if there are several.
    """

    group_index: int | None
    index: int | None
    metadata: dict[str, Any]
    reward: Any


@runtime_checkable
class Builder(Protocol):
    """What is called of the Tinker cookbook's `EnvGroupBuilder`."""

    async def make_envs(self) -> Sequence[Any]:
        """Return the environments of one group."""
        ...

    async def compute_group_rewards(self, trajectory_group: list[Any]) -> list[tuple[float, dict[str, Any]]]:
        """Return each trajectory's final reward and metrics."""
        ...


class SlimeSource:
    """A data source with the interface of slime's `DataSource`, over the samples of slime's own data set.

    Args:
        samples: One sample per prompt, in the order of the pool: `RolloutDataSource(args).dataset.samples`.
        edge: The edge with the selector. Its `draw_size` may be the size of a training batch.
        group_size: Samples per prompt, slime's `n_samples_per_prompt`.
        folder: Folder for the selector's state, for example `args.save`.

    Raises:
        ValueError: The pool has another size.
    """

    def __init__(self, samples: Sequence[Sample], edge: TrainerEdge, *, group_size: int, folder: str | Path):
        _validate.positive_integer(group_size=group_size)
        _check_size("samples", samples, edge)
        self._samples, self.edge, self._group_size, self._folder = samples, edge, group_size, Path(folder)
        self._returned: list[list[Sample]] = []
        self._groups = 0

    def get_samples(self, num_samples: int) -> list[list[Sample]]:
        """Return groups of samples: first those that slime gave back, then freshly selected prompts."""
        groups = self._returned[:num_samples]
        missing = num_samples - len(groups)
        rows = self.edge.next_batch(missing).tolist() if missing else []  # an error must not lose the returned groups
        self._returned = self._returned[num_samples:]
        return groups + [self._group(row) for row in rows]

    def add_samples(self, samples: list[list[Sample]]) -> None:
        """Take back groups whose generation slime cut short. `get_samples` hands them out again."""
        self._returned += samples

    def observe(self, groups: Sequence[Sequence[Sample]], key: str | None = None) -> None:
        """Learn from all generated groups, also those that a filter dropped.

        Args:
            groups: The second argument of the function that `--rollout-all-samples-process-path` names.
            key: Name of the reward, where rewards are dictionaries.

        Raises:
            ValueError: A reward is a dictionary without this name. The state stays as it was.
        """
        rows = [group[0].metadata[ROW] for group in groups]
        self.edge.observe(rows, [[_named(sample.reward, key) for sample in group] for group in groups])

    def save(self, rollout_id: int) -> None:
        """Save the selector's state, and the number of groups so far."""
        write_state(self._folder / f"selector_{rollout_id}.npz", self.edge.state_dict() | {"groups": self._groups})

    def load(self, rollout_id: int | None = None) -> None:
        """Load the selector's state, unless `rollout_id` is None or -1, which stand for a new run.

        Prompts that were handed out and not observed may be chosen again.

        Raises:
            ValueError: There is no such state, or it is of another pool or method.
        """
        if rollout_id is not None and rollout_id >= 0:
            state = read_state(self._folder / f"selector_{rollout_id}.npz")
            self.edge.load_state_dict(state)
            self.edge.release()
            self._groups = int(state.get("groups", 0))  # older files do not hold it
            self._returned = []  # their prompts are free again

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._samples)

    def _group(self, row: int) -> list[Sample]:
        group: list[Sample] = []
        for at in range(self._group_size):
            sample = copy.deepcopy(self._samples[row])
            sample.group_index, sample.index = self._groups, self._groups * self._group_size + at
            sample.metadata = {**(sample.metadata or {}), ROW: row}
            group.append(sample)
        self._groups += 1
        return group


class PrimeSampler(Iterator[Any]):
    """A sampler with the interface of prime-rl's `TaskSampler`.

    Args:
        tasks: One task per prompt, in the order of the pool.
        edge: The edge with the selector. Tasks are asked for one by one, so give it a `draw_size`.
        read: Function of a finalized group. It returns the row of the group's task, and one reward per rollout: None
            for a rollout that failed.

    Raises:
        ValueError: The pool has another size.
    """

    def __init__(
        self, tasks: Sequence[Any], edge: TrainerEdge, read: Callable[[list[Any]], tuple[int, Sequence[float | None]]]
    ):
        _check_size("tasks", tasks, edge)
        self._tasks, self.edge, self._read = tasks, edge, read

    def __next__(self) -> Any:
        """Return the task of a selected prompt."""
        return self._tasks[self.edge.next_prompt()]

    def observe(self, group: list[Any]) -> None:
        """Learn from a finalized group."""
        row, rewards = self._read(group)
        self.edge.observe([row], [list(rewards)])

    def state_dict(self) -> dict[str, Any]:
        """Return the selector's state, in dictionaries and lists of numbers, strings and bytes."""
        return self.edge.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state. Prompts without rewards may be chosen again, because their rollouts were lost.

        Raises:
            ValueError: The state is of another pool or method.
        """
        self.edge.load_state_dict(state_dict)
        self.edge.release()

    def metrics(self) -> dict[str, float]:
        """Return the selector's metrics, without "selector/" in their names: prime-rl adds a prefix of its own."""
        return {name.removeprefix("selector/"): value for name, value in self.edge.metrics().items()}


class TinkerDataset:
    """A data set with the interface of the Tinker cookbook's `RLDataset`.

    Args:
        builders: One `EnvGroupBuilder` per prompt, in the order of the pool.
        edge: The edge with the selector.
        batch_size: Number of groups per batch.
        num_batches: Number of batches of the run.

    Raises:
        ValueError: The pool has another size, or an argument is out of range.
    """

    def __init__(self, builders: Sequence[Builder], edge: TrainerEdge, *, batch_size: int, num_batches: int):
        _validate.positive_integer(batch_size=batch_size, num_batches=num_batches)
        _check_size("builders", builders, edge)
        self._builders, self.edge, self._batch_size, self._num_batches = builders, edge, batch_size, num_batches

    def get_batch(self, index: int) -> list["WatchedBuilder"]:
        """Return the builders of freshly selected prompts. The index only numbers the step of their observations."""
        chosen = self.edge.next_batch(self._batch_size).tolist()
        return [WatchedBuilder(self._builders[row], row, self.edge, index) for row in chosen]

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
    """

    def __init__(self, builder: Builder, row: int, edge: TrainerEdge, step: int):
        self._builder, self._row, self._edge, self._step = builder, row, edge, step

    async def make_envs(self) -> Sequence[Any]:
        """Return the builder's environments."""
        return await self._builder.make_envs()

    async def compute_group_rewards(self, trajectory_group: list[Any]) -> list[tuple[float, dict[str, Any]]]:
        """Return the builder's final rewards, and let the selector observe the total rewards."""
        final = await self._builder.compute_group_rewards(trajectory_group)
        steps = [sum(move.reward for move in trajectory.transitions) for trajectory in trajectory_group]
        totals = [own + last for own, (last, _) in zip(steps, final, strict=True)]
        self._edge.observe([self._row], [totals], step=self._step)
        return final

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the builder, for example `logging_tags`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._builder, name)


def _check_size(name: str, items: Sequence[Any], edge: TrainerEdge) -> None:
    if len(items) != edge.selector.num_prompts:
        raise ValueError(
            f"{name} has {len(items)} entries and the selector {edge.selector.num_prompts} prompts; give one per prompt"
        )


def _named(reward: Any, key: str | None) -> float:
    if isinstance(reward, dict) and key not in reward:
        listed = ", ".join(map(repr, reward))
        raise ValueError(f"key is {key!r}, but the rewards are named {listed}; give the name of the correctness reward")
    value = reward[key] if isinstance(reward, dict) else reward
    return math.nan if value is None else float(np.asarray(value))
