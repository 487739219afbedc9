"""Histories, which record the visits of a run, and replays, in which any method predicts the recorded visits.

A visit is one prompt's group of rollouts in one training step. A replay needs no new rollouts.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import Visits, checked_visits
from jaxsel.base import Prediction, Selector
from jaxsel.runtime.prompt_selector import PromptSelector

_ALWAYS_ALLOWED = 100_000  # up to this number of steps, `check_steps` accepts any history
_PER_STEP_WITH_ROWS = 100  # the largest ratio of all steps to steps with rows; Unix times, for example, exceed it


class History(NamedTuple):
    """The recorded visits of a run, one row per visit in the order of the steps. `make_history` returns it.

    Attributes:
        step: Training steps, counted from 0. `replay` updates a method at every step, also at a step without rows.
        prompt_ids: Rows of the pool, distinct within a step.
        successes: s, the number of correct rollouts.
        group_size: n, the number of rollouts, at least 1.
    """

    step: Int[np.ndarray, " r"]
    prompt_ids: Int[np.ndarray, " r"]
    successes: Int[np.ndarray, " r"]
    group_size: Int[np.ndarray, " r"]

    @property
    def num_steps(self) -> int:
        """Number of steps from step 0 to the last step with a row."""
        return int(self.step[-1]) + 1 if len(self.step) else 0

    def before(self, step: int) -> "History":
        """Return the history of the steps before `step`."""
        return History(*(column[self.step < step] for column in self))

    def batches(self) -> Iterator[Visits]:
        """Yield the visits of every step, including steps without rows."""
        ends = np.searchsorted(self.step, np.arange(self.num_steps), side="right")
        for rows in np.split(np.arange(len(self.step)), ends[:-1]):
            yield Visits(self.prompt_ids[rows], self.successes[rows], self.group_size[rows])


class Replay(NamedTuple):
    """A method's predictions for a history, one row per visit, each made before the visit was observed.

    Attributes:
        prediction: Predictions for the visited prompts, with fields `[r]`.
        visits: Number of earlier visits to the same prompt.
        waiting: Steps since the prompt's last visit, or -1 without an earlier visit.
        probes: Predictions for the whole pool, with fields `[N]`, by step. Each is made before the step is observed.
    """

    prediction: Prediction
    visits: Int[np.ndarray, " r"]
    waiting: Int[np.ndarray, " r"]
    probes: dict[int, Prediction]


def make_history(
    step: ArrayLike, prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike, *, num_prompts: int
) -> History:
    """Return a history, sorted by step, from rows in any order.

    Repeated ids of a step become one visit with summed counts. Rows with n = 0 are dropped.

    Args:
        step: Training step of each row, counted from 0.
        prompt_ids: Prompt of each row: its position in the pool.
        successes: s, the number of correct rollouts, one per row.
        group_size: n, the number of judged rollouts, one per row or one for all rows.
        num_prompts: Number of prompts in the pool.

    Raises:
        ValueError: The lengths differ, an id is not a row of the pool, or a step is below 0. Counts must be integers
            with 0 <= successes <= group_size. Steps must be nearly consecutive: Unix times, for example, are refused.
    """
    _validate.integer_in(0, 2**31, num_prompts=num_prompts)
    steps = _validate.integers("step", step, low=0, high=2**31)
    check_steps(steps)
    ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=num_prompts)
    if len(steps) != len(ids):
        raise ValueError(f"step has {len(steps)} entries and prompt_ids {len(ids)}; give one entry per visit")
    # each pair of a step and an id gets its own number, so that only visits of the same step are merged
    pairs, row = np.unique(np.stack([steps, ids]), axis=1, return_inverse=True)
    visits = checked_visits(row.reshape(-1), successes, group_size, max(pairs.shape[1], 1))
    seen = pairs[:, visits.prompt_ids]
    return History(seen[0], seen[1], visits.successes, visits.group_size)


def check_steps(steps: Int[np.ndarray, " r"]) -> None:
    """Check that steps are nearly consecutive, because every step costs time and memory, even without rows.

    Raises:
        ValueError: The steps are far from consecutive.
    """
    num_steps, distinct = int(steps.max(initial=-1)) + 1, len(np.unique(steps))
    if num_steps > _ALWAYS_ALLOWED and num_steps > _PER_STEP_WITH_ROWS * distinct:
        raise ValueError(
            f"step goes up to {num_steps - 1}, but only {distinct} steps have rows; number the steps 0, 1, 2, ..., "
            "for example with np.unique(step, return_inverse=True)[1]"
        )


def replay(
    history: History,
    selector: Selector,
    *,
    num_prompts: int,
    seed: int = 0,
    probe_steps: Sequence[int] = (),
) -> Replay:
    """Predict and then observe every batch of a history with a method. Another method may have chosen the batches.

    The result shows how well the method predicts the recorded prompts. It does not show which prompts the method would
    have chosen. Predictions at `probe_steps` show how well the method predicts the whole pool.

    Args:
        history: Recorded visits, from `make_history`.
        selector: Method, for example `jaxsel.dps()`. `make_selector` turns a predictor alone into a selector.
        num_prompts: Number of prompts in the pool.
        seed: Seed of the `PromptSelector`.
        probe_steps: Steps at which the whole pool is predicted before the step is observed, from 0 to
            `history.num_steps`.

    Raises:
        ValueError: A probe step is not an integer from 0 to `history.num_steps`, or the selector does not fit the pool.
    """
    _validate.made(History, history=history)
    _validate.listed("steps", probe_steps=probe_steps)
    check_steps(history.step)
    probe_steps = _validate.integers("probe_steps", list(probe_steps), low=0, high=history.num_steps + 1).tolist()
    live = PromptSelector(selector, num_prompts=num_prompts, seed=seed)
    predictions, probes = [], {}
    for step, batch in enumerate(history.batches()):
        if step in probe_steps:
            probes[step] = live.predict()
        predictions.append(live.predict(batch.prompt_ids))
        live.observe(*batch)
    if history.num_steps in probe_steps:
        probes[history.num_steps] = live.predict()
    predictions = predictions or [live.predict([])]
    joined = jax.tree.map(lambda *fields: np.concatenate(fields), *predictions)
    visits, waiting = earlier_visits(history, history.prompt_ids, history.step)
    return Replay(joined, visits.astype(np.int32), waiting.astype(np.int32), probes)


def earlier_visits(
    history: History, prompt_ids: Int[np.ndarray, " m"], step: Int[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Return the number of each prompt's visits before a step, and the steps since the last of them, or -1."""
    length = max(history.num_steps, int(step.max(initial=0))) + 1  # (prompt, step) pairs get increasing numbers
    visited = np.sort(history.prompt_ids.astype(np.int64) * length + history.step)
    first = prompt_ids.astype(np.int64) * length
    end = np.searchsorted(visited, first + step)
    visits = end - np.searchsorted(visited, first)
    last = np.append(visited, 0)[end - 1] - first  # meaningless without a visit
    return visits, np.where(visits > 0, step - last, -1)
