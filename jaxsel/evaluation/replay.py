"""What a run observed, and what any method would have predicted of it: evaluation without a rollout."""

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

_ALWAYS_ALLOWED = 100_000  # steps of the clock
_PER_STEP_WITH_ROWS = 100  # more of them than this are no clock of a method


class History(NamedTuple):
    """One row a visit, in the order of the steps, as `make_history` leaves them.

    Attributes:
        step: of the method's clock, from 0: how often it had observed before. A step without rows still passes.
        prompt_ids: rows of the pool, distinct within a step.
        successes: s, rollouts that were correct.
        group_size: n, at least 1.
    """

    step: Int[np.ndarray, " r"]
    prompt_ids: Int[np.ndarray, " r"]
    successes: Int[np.ndarray, " r"]
    group_size: Int[np.ndarray, " r"]

    @property
    def num_steps(self) -> int:
        """From step 0 to the last one with a row."""
        return int(self.step[-1]) + 1 if len(self.step) else 0

    def before(self, step: int) -> "History":
        """The rows of earlier steps."""
        return History(*(column[self.step < step] for column in self))

    def batches(self) -> Iterator[Visits]:
        """What every step observed, those without rows included."""
        ends = np.searchsorted(self.step, np.arange(self.num_steps), side="right")
        for rows in np.split(np.arange(len(self.step)), ends[:-1]):
            yield Visits(self.prompt_ids[rows], self.successes[rows], self.group_size[rows])


class Replay(NamedTuple):
    """What a method predicted of a history, one row a visit, each before it was observed.

    Attributes:
        prediction: fields `[r]`.
        visits: to that prompt before.
        waiting: steps since the last of them; -1: there was none.
        probes: the whole pool `[N]` at the steps that were asked for, before their observation.
    """

    prediction: Prediction
    visits: Int[np.ndarray, " r"]
    waiting: Int[np.ndarray, " r"]
    probes: dict[int, Prediction]


def make_history(
    step: ArrayLike, prompt_ids: ArrayLike, successes: ArrayLike, group_size: ArrayLike, *, num_prompts: int
) -> History:
    """A history of rows in any order: sorted by step; repeated ids of a step are one visit; n = 0 is left out.

    Args:
        step: see `History`, one a row.
        prompt_ids: likewise.
        successes: likewise.
        group_size: one a row, or one for all.
        num_prompts: the size of the pool.

    Raises:
        ValueError: lengths that differ, ids that are no rows of the pool, counts that are not integers with
            0 <= successes <= group_size, a step below 0, or steps that are far from consecutive, such as Unix times.
    """
    steps = _validate.integers("step", step, low=0, high=2**31)
    check_steps(steps)
    ids = _validate.integers("prompt_ids", prompt_ids, low=0, high=num_prompts)
    if len(steps) != len(ids):
        raise ValueError(f"there are {len(steps)} step and {len(ids)} prompt_ids; give one entry a visit")
    # Pairs of step and id, numbered: visits to one prompt in different steps stay apart.
    pairs, row = np.unique(np.stack([steps, ids]), axis=1, return_inverse=True)
    visits = checked_visits(row.reshape(-1), successes, group_size, max(pairs.shape[1], 1))
    seen = pairs[:, visits.prompt_ids]
    return History(seen[0], seen[1], visits.successes, visits.group_size)


def check_steps(steps: Int[np.ndarray, " r"]) -> None:
    """Every step of the clock costs time and memory, with rows or without.

    Raises:
        ValueError: the steps are far from consecutive.
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
    """Goes through a history with another method, predicting every batch before it observes it.

    It says how well the method predicts the prompts that were chosen then, by another method perhaps; what it would
    have chosen itself, it cannot say. Probes judge it on the whole pool.

    Args:
        history: from `make_history`.
        selector: for example `jaxsel.dps()`; a predictor alone goes through `make_selector`.
        num_prompts: the size of the pool.
        seed: see `PromptSelector`.
        probe_steps: steps before which the whole pool is predicted; the one after the last may be among them.

    Raises:
        ValueError: a probe step outside of the history, or a selector that does not fit the pool.
    """
    check_steps(history.step)
    wrong = [step for step in probe_steps if not 0 <= step <= history.num_steps]
    if wrong:
        raise ValueError(f"probe_steps holds {wrong[0]}; give steps from 0 to {history.num_steps}")
    live = PromptSelector(selector, num_prompts=num_prompts, seed=seed)
    last_visit = np.full(num_prompts, -1)
    visited = np.zeros(num_prompts, np.int32)
    predictions, visits, waiting, probes = [], [], [], {}
    for step, batch in enumerate(history.batches()):
        if step in probe_steps:
            probes[step] = live.predict()
        ids = batch.prompt_ids
        predictions.append(live.predict(ids))
        visits.append(visited[ids])
        waiting.append(np.where(last_visit[ids] < 0, -1, step - last_visit[ids]))
        visited[ids] += 1
        last_visit[ids] = step
        live.observe(*batch)
    if history.num_steps in probe_steps:
        probes[history.num_steps] = live.predict()
    predictions = predictions or [live.predict([])]
    return Replay(
        jax.tree.map(lambda *fields: np.concatenate(fields), *predictions),
        np.concatenate([np.zeros(0, np.int32), *visits]),
        np.concatenate([np.zeros(0, np.int32), *waiting]),
        probes,
    )
