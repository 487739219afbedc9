"""Prompt selection in slime, written from its published interface.

The adapter has an edge: a `TrainerEdge`, which hands out the prompts that its selector chooses, and observes rewards.
**It has never run inside slime.** The tests use stubs of its objects. slime is not imported.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxsel import _validate
from jaxsel.integrations._lost import release_lost
from jaxsel.integrations._pools import check_size
from jaxsel.integrations._rewards import on_the_host
from jaxsel.integrations._state_file import read_state, write_state
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.runtime.checkpoint.disk import local_path

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


class SlimeSource:
    """A data source with the interface of slime's `DataSource`, over the samples of slime's own data set.

    Args:
        samples: One sample per prompt, in the order of the pool: `RolloutDataSource(args).dataset.samples`.
        edge: The edge with the selector. Its `draw_size` may be the size of a training batch.
        group_size: Samples per prompt, slime's `n_samples_per_prompt`.
        folder: Folder for the selector's state, for example `args.save`. None: the state cannot be saved.
        load_from: Folder to load the state from, for example `args.load`. None: `folder`.

    Raises:
        ValueError: The pool has another size.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        edge: TrainerEdge,
        *,
        group_size: int,
        folder: str | Path | None,
        load_from: str | Path | None = None,
    ):
        _validate.positive_integer(group_size=group_size)
        folder = folder and local_path(folder, "folder")
        load_from = load_from and local_path(load_from, "load_from")
        check_size("samples", samples, edge.selector.num_prompts)
        self._samples, self.edge, self._group_size = samples, edge, group_size
        self._folder, self._load_from = folder, folder if load_from is None else load_from
        self._returned: list[list[Sample]] = []
        self._groups = 0

    def get_samples(self, num_samples: int) -> list[list[Sample]]:
        """Return groups of samples: first those that slime gave back, then freshly selected prompts.

        Without `--partial-rollout`, slime cancels groups and does not give them back. So if too few prompts are free,
        those that wait longest for rewards are free again, as if they had timed out.
        """
        groups, rows = self._returned[:num_samples], []
        missing = num_samples - len(groups)
        if missing:
            release_lost(self.edge, missing, keep=[_row_of(group) for group in groups])
            rows = self.edge.next_batch(missing).tolist()  # an error must not lose the returned groups
        self._returned = self._returned[num_samples:]
        return groups + [self._group(row) for row in rows]

    def add_samples(self, samples: list[list[Sample]]) -> None:
        """Take back groups whose generation slime cut short. `get_samples` hands them out again."""
        self._returned += samples

    def observe(self, groups: Sequence[Sequence[Any]], key: str | None = None) -> None:
        """Learn from all generated groups, also those that a filter dropped.

        Args:
            groups: The samples of each group. Where slime splits a rollout into a list of samples, the last one counts.
            key: Name of the reward, where rewards are dictionaries.

        Raises:
            ValueError: A group is empty, a reward is not a number, or it is a dictionary without this name. The state
                stays as it was.
        """
        for at, group in enumerate(groups):
            if not group:
                raise ValueError(f"groups[{at}] is empty; give the samples of one prompt each")
        samples = [[last[-1] if isinstance(last, list) else last for last in group] for group in groups]
        rows = [_row_of(group) for group in samples]
        self.edge.observe(rows, [[_named(sample.reward, key) for sample in group] for group in samples])

    def save(self, rollout_id: int) -> None:
        """Save the selector's state, and the number of groups so far.

        Raises:
            ValueError: There is no folder.
        """
        if self._folder is None:
            raise ValueError("folder is None, so the selector's state cannot be saved; start slime with --save")
        state = self.edge.state_dict() | {"groups": self._groups}
        write_state(Path(self._folder) / f"selector_{rollout_id}.npz", state)

    def load(self, rollout_id: int | None = None) -> None:
        """Load the selector's state, unless `rollout_id` is None or -1, which stand for a new run.

        Prompts that were handed out and not observed may be chosen again.

        Raises:
            ValueError: There is no such state or no folder, or the state is of another pool or method.
        """
        if rollout_id is not None and rollout_id >= 0:
            if self._load_from is None:
                raise ValueError(
                    f"rollout_id is {rollout_id}, but load_from and folder are None; start slime with --load or --save"
                )
            state = read_state(Path(self._load_from) / f"selector_{rollout_id}.npz")
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


def observe_samples(args: Any, all_samples: Sequence[Any], data_source: Any) -> None:
    """Let a `SlimeSource` observe all groups: slime's `--rollout-all-samples-process-path` may name this function.

    Args:
        args: slime's arguments; `reward_key` names the reward where rewards are dictionaries.
        all_samples: All generated groups, also those that a filter dropped.
        data_source: What slime passes on: the source's bound method `get_samples`, or the source itself.

    Raises:
        ValueError: The source is not a `SlimeSource`, or see `SlimeSource.observe`.
    """
    source = getattr(data_source, "__self__", data_source)
    if not isinstance(source, SlimeSource):
        raise ValueError(f"data_source is {source!r:.80}; name a SlimeSource by --data-source-path")
    source.observe(all_samples, args.reward_key)


def _row_of(group: Sequence[Any]) -> int:
    first = group[0][-1] if isinstance(group[0], list) else group[0]
    return first.metadata[ROW]


def _named(reward: Any, key: str | None) -> float:
    if isinstance(reward, dict) and key not in reward:
        listed = ", ".join(map(repr, reward))
        raise ValueError(f"key is {key!r}, but the rewards are named {listed}; give the name of the correctness reward")
    value = reward[key] if isinstance(reward, dict) else reward
    try:
        return math.nan if value is None else float(np.asarray(on_the_host(value)).reshape(()))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"groups has the reward {value!r:.80}, which is not one number; give a number or None"
        ) from error
