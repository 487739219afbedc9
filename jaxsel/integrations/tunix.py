"""Prompt selection in google-tunix: `SelectedPrompts` is the training data of a GRPOLearner.

This module needs `pip install "jaxsel[tunix]"`. It does not import Tunix: the learner that you made is used through its
public attributes. Tunix's public hooks are enough: the training data, the reward functions and the metric functions.

    prompts = SelectedPrompts(rows, batch_size=16, selector=jaxsel.adaptive())
    learner = GRPOLearner(..., reward_fns=prompts.watched(correct), metric_fns=[prompts.metrics])
    learner.train(prompts.batches(learner))
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxsel import _validate
from jaxsel.base import Selector
from jaxsel.integrations._pools import check_keys, selector_of_rows
from jaxsel.integrations._rewards import one_reward
from jaxsel.integrations._state_file import is_state
from jaxsel.integrations._tunix_plan import Plan, claim, state_file, state_folder_of
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.runtime.checkpoint.disk import local_path
from jaxsel.runtime.prompt_selector import PromptSelector

ROW = "selected_row"
"""Name of the column that the batches have besides those of the data: the row of each prompt."""
_TAKEN = {ROW, "mode", "completions", "rewards", "advantages", "trajectory_ids"}  # Tunix passes these by name
_Judge = Callable[..., Any]


class SelectedPrompts:
    """Training data for Tunix's learners, in which every batch has freshly selected prompts.

    A batch is selected whenever Tunix asks for one, after the rewards of the previous batch were observed. Evaluation
    neither selects nor observes. If Tunix writes checkpoints, each batch leaves a file with the selector's state, and a
    resumed run makes the same choices as the uninterrupted run.

    Args:
        rows: The training data: `rows[i]` is a mapping from names of columns to values, with the name "prompts". A
            list, a `datasets.Dataset` and a grain `MapDataset` are such data.
        batch_size: Number of prompts per batch.
        selector: Method, for example `jaxsel.adaptive()`. Or a `PromptSelector` with one prompt per row and
            `track_in_flight=True`.
        seed: Seed of the selector that is made from a method.
        success: Name of the reward function that tells whether a completion is correct. None: there is only one.
        threshold: The largest reward that is not a success. A completion with the reward None or NaN was not judged,
            and never counts as a failure.
        key_column: Column with a unique name for each prompt. Resuming then fails on data with other prompts or another
            order. None: resuming checks only the number of rows.
        state_folder: Local folder for the files with the selector's state. None: the folder `selector` beside Tunix's
            own `actor` in its checkpoint directory.
        save_every: Number of batches between two such files. A checkpoint without its file cannot be resumed, so give
            the interval of Tunix's checkpoints or leave 1. Files that no checkpoint needs are deleted.
        history: Folder in which to record what was observed, for `jaxsel.integrations.history.read_history`.

    Attributes:
        edge: The `TrainerEdge` with the selector.

    Raises:
        ValueError: The data cannot be read by row, lacks the prompts, is smaller than a batch or of another size than
            the selector; the key column is missing or repeats a key; or an argument is out of range.
    """

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        selector: Selector | PromptSelector,
        *,
        seed: int = 0,
        success: str | None = None,
        threshold: float = 0.5,
        key_column: str | None = None,
        state_folder: str | Path | None = None,
        save_every: int = 1,
        history: str | Path | None = None,
    ):
        _validate.positive_integer(batch_size=batch_size, save_every=save_every)
        columns = _checked_columns(rows, batch_size, key_column)
        self._rows, self._columns, self._batch_size, self._success = rows, columns, batch_size, success
        keys = None if key_column is None else [rows[row].get(key_column) for row in range(len(rows))]
        if keys is not None:
            check_keys(keys, f"the column {key_column!r} of rows")
        own = selector_of_rows(selector, len(rows), keys=keys, seed=seed, data="rows")
        texts = None if history is None else [str(rows[row].get("prompts", "")) for row in range(len(rows))]
        self.edge = TrainerEdge(own, threshold=threshold, history=history, texts=texts)
        self._given_folder = None if state_folder is None else local_path(state_folder, "state_folder")
        self._folder = self._given_folder
        self._save_every = save_every
        self._watched: list[_Judge] = []
        self._handed_out, self._unobserved = 0, 0  # batches handed out; prompts of them that wait for rewards
        self._kept: Callable[[], set[int]] = set  # the batches whose state a checkpoint needs

    def watched(self, reward_fns: _Judge | Sequence[_Judge]) -> list[_Judge]:
        """Return the reward functions for the learner; the named one lets the selector observe its rewards.

        The functions' results go to Tunix unchanged.

        Raises:
            ValueError: `success` names no reward function, or is needed and None.
        """
        judges = [reward_fns] if callable(reward_fns) else list(reward_fns)
        for at, judge in enumerate(judges):
            if not hasattr(judge, "__name__"):
                raise ValueError(f"reward_fns[{at}] is {judge!r:.60}, which has no __name__; give functions")
        names = [judge.__name__ for judge in judges]
        chosen = names.index(one_reward(names, self._success))
        self._watched.append(self._observing(judges[chosen]))
        return [*judges[:chosen], self._watched[-1], *judges[chosen + 1 :]]

    def metrics(self, **batch: Any) -> dict[str, Any]:
        """Return the selector's metrics as one of Tunix's `metric_fns`; nothing for an evaluation."""
        return {name: (value, np.mean) for name, value in self.edge.metrics().items()} if ROW in batch else {}

    def batches(self, learner: Any) -> Iterator[dict[str, np.ndarray]]:
        """Return the endless batches for `learner.train`. If the learner has resumed, the selector resumes too.

        Args:
            learner: Tunix's learner, made with the functions of `watched`.

        Raises:
            ValueError: The learner lacks the watched reward functions, its micro-batches or mini-batches do not divide
                a batch, or it packs sequences and writes checkpoints. Or: for the checkpoint that it has resumed from,
                the selector's state is missing, or is of another method or another pool. Or: the history or
                the state_folder is of another run.
        """
        if not any(judge in self._watched for judge in learner.reward_manager.reward_fns):
            raise ValueError("the learner's reward_fns are not watched; give it reward_fns=prompts.watched(reward_fns)")
        plan = Plan(learner, self._batch_size)
        self._handed_out = plan.resumed()
        if plan.root is not None:
            if self._given_folder is not None:  # several runs may be given one folder
                claim(self._given_folder, plan.root, resumed=self._handed_out > 0)
            self._folder, self._kept = state_folder_of(self._given_folder, plan.root), plan.checkpoints
        self._unobserved = 0
        if self._handed_out and self._folder is not None:  # without a folder, the selector goes on as it is
            self._load(plan, self._folder)
        self.edge.open_history()  # a folder of another run is refused before training
        self.edge.release()  # an interrupted call of `train` may have left prompts without rewards
        # an earlier run may have written states of batches after its last checkpoint
        self._delete_states(lambda batch: batch <= self._handed_out)
        return self._stream(plan.replayed())

    def _stream(self, replayed: int) -> Iterator[dict[str, np.ndarray]]:
        for _ in range(replayed):  # a resumed Tunix skips these batches without looking at them
            yield self._batch(np.arange(self._batch_size, dtype=np.int32))
        while True:
            chosen = self.edge.next_batch(self._batch_size)
            self._handed_out += 1
            self._unobserved += len(chosen)
            yield self._batch(chosen)

    def _batch(self, chosen: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        found = [self._rows[int(row)] for row in chosen]
        for row, values in zip(chosen, found, strict=True):
            if set(values) != set(self._columns):
                raise ValueError(f"row {row} has the columns {sorted(values)}, and row 0 has {sorted(self._columns)}")
        return {name: _column([values[name] for values in found]) for name in self._columns} | {ROW: chosen}

    def _observing(self, judge: _Judge) -> _Judge:
        @functools.wraps(judge)
        def judged(prompts: Any, completions: Any, **columns: Any) -> Any:
            rewards = judge(prompts=prompts, completions=completions, **columns)
            if columns.get("mode") == "train" and ROW in columns:
                self._observe(columns[ROW], rewards)
            return rewards

        return judged

    def _observe(self, rows: Any, rewards: Any) -> None:
        given = np.asarray(_validate.nan_where_masked(rewards))
        if given.shape != np.shape(rows):
            raise ValueError(f"the reward function returned rewards of shape {given.shape} for {len(rows)} completions")
        groups: dict[int, list[Any]] = {}
        for row, reward in zip(np.asarray(rows).tolist(), given.tolist(), strict=True):
            groups.setdefault(row, []).append(reward)
        self.edge.observe(list(groups), list(groups.values()), step=self._handed_out)
        self._unobserved -= len(groups)
        if self._unobserved == 0:  # micro-batches observe a batch in parts
            self.edge.end_step()
            self._save()

    def _save(self) -> None:
        if self._folder is None:
            self.edge.flush()
        elif self._handed_out % self._save_every == 0:
            self.edge.save(state_file(self._folder, self._handed_out))
            kept = self._kept()
            newest = max(kept, default=0)
            self._delete_states(lambda batch: batch in kept or batch > newest)

    def _load(self, plan: Plan, folder: Path) -> None:
        path = state_file(folder, self._handed_out)
        if not path.is_file():
            raise ValueError(
                f"Tunix resumed from step {plan.steps()}, and {path} does not exist; delete Tunix's checkpoints that "
                f"have no such file, or give the state_folder and save_every of the earlier run"
            )
        self.edge.load(path)

    def _delete_states(self, keep: Callable[[int], bool]) -> None:
        if self._folder is None:
            return
        for path in self._folder.glob("batch-*.npz"):
            number = path.stem.removeprefix("batch-")
            is_ours = number.isdecimal() and path == state_file(self._folder, int(number)) and is_state(path)
            if is_ours and not keep(int(number)):
                path.unlink(missing_ok=True)


def _checked_columns(rows: Any, batch_size: int, key_column: str | None) -> list[str]:
    """Return the names of the columns."""
    if isinstance(rows, Mapping) or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        raise ValueError(
            f"rows is a {type(rows).__name__}, whose rows cannot be read by number; give a list of dictionaries, a "
            "datasets.Dataset or a grain MapDataset without batches"
        )
    if len(rows) < batch_size or len(rows) >= 2**31:
        raise ValueError(
            f"rows has {len(rows)} rows, and a batch takes {batch_size} different prompts; give more rows or a smaller "
            "batch_size, and leave out repeat()"
        )
    first = rows[0]
    listed = rows if isinstance(rows, list | tuple) else ()  # a row of other data may be costly to read
    if not isinstance(first, Mapping) or not isinstance(first.get("prompts"), str):
        raise ValueError(f"rows[0] is {first!r:.80}; give a mapping from names to values, where 'prompts' is one text")
    taken = sorted(_TAKEN & set(first))
    if taken:
        raise ValueError(f"rows has the column {taken[0]!r}, a name that Tunix passes itself; rename the column")
    if key_column is not None and key_column not in first:
        raise ValueError(f"key_column is {key_column!r}, which rows lacks; give one of {sorted(first)}")
    for row, values in enumerate(listed):
        if not isinstance(values, Mapping) or set(values) != set(first):
            raise ValueError(f"rows[{row}] is {values!r:.80}; give every row the columns of row 0, {sorted(first)}")
    return list(first)


def _column(values: list[Any]) -> np.ndarray:
    """Return a vector with one entry per value. NumPy would cut texts and turn integers beside floats into floats.

    An array is one entry: where Tunix makes micro-batches, it flattens every column.
    """
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and isinstance(values[0], bool | int | float | np.number):
        return np.array(values)
    column = np.empty(len(values), object)
    for at, value in enumerate(values):
        column[at] = value
    return column
