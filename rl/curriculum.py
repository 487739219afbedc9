"""Which prompts a step rolls out, and which of their groups it trains on.

A curriculum collects the groups of one step: it chooses prompts, has them rolled out, tells its selector what came out
(before any filter), and returns the groups to train on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from rl import _checks
from rl.groups import Groups, join
from rl.rollout import Completions
from rl.shared_by_ranks import AnySelector

_STREAM = 0x68697374  # others that draw from the same seed start with another number

RollOut = Callable[[np.ndarray], Groups]


class Collected(NamedTuple):
    """What one step has to train on, and what it cost.

    Attributes:
        groups: to train on.
        num_rollouts: generated for it, those that were filtered out included.
        mixed_share: share of mixed groups among all that were generated, before any filter.
    """

    groups: Groups
    num_rollouts: int
    mixed_share: float


class Curriculum(Protocol):
    """Chooses what a step trains on."""

    selector: AnySelector

    @property
    def spec(self) -> dict[str, Any]:
        """What its choices depend on, the selector's method included; a resumed run has to have the same."""
        ...

    def collect(self, roll_out: RollOut) -> Collected:
        """Chooses prompts, rolls them out, tells the selector, and returns what to train on."""
        ...

    def prepare(self) -> None:
        """Starts to compute the first choice of the next `collect`, which stays the same, and does not wait for it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on with the same choices."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the other curriculum was."""
        ...


class Selected:
    """The prompts that the selector chooses, all of them (uniform, MoPPS, DPS, GPS, threshold)."""

    def __init__(self, selector: AnySelector, batch_size: int):
        _checks.integers(1, batch_size=batch_size)
        self.selector = selector
        self._batch_size = batch_size

    @property
    def spec(self) -> dict[str, Any]:
        """See `Curriculum.spec`."""
        return self.selector.spec | {"curriculum": "selected", "batch_size": self._batch_size}

    def collect(self, roll_out: RollOut) -> Collected:
        """See `Curriculum.collect`."""
        groups = _roll_out_and_observe(self.selector, self.selector.select(self._batch_size), roll_out)
        return Collected(groups, groups.num_rollouts, _mixed_share([groups]))

    def prepare(self) -> None:
        """See `Curriculum.prepare`."""
        self.selector.prepare(self._batch_size)

    def state_dict(self) -> dict[str, Any]:
        """See `Curriculum.state_dict`."""
        return {"selector": self.selector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Curriculum.load_state_dict`."""
        self.selector.load_state_dict(state["selector"])


class DynamicSampling:
    """Generates batch after batch and keeps the mixed groups until there are enough (DAPO, arXiv 2503.14476).

    Every rollout counts. When `max_batches` did not give enough mixed groups, the step trains on those there are.

    Args:
        selector: uniform, in the papers.
        batch_size: mixed groups wanted.
        max_batches: generation batches a step at most.
        keep_surplus: keep mixed groups beyond `batch_size` for the next step; otherwise they are dropped. They are of
            an older policy, which the clipped loss accounts for; with an importance cap their weights do instead, and
            with rollouts of top-p below 1 and no cap nothing does.
    """

    def __init__(self, selector: AnySelector, batch_size: int, *, max_batches: int = 10, keep_surplus: bool = False):
        _checks.integers(1, max_batches=max_batches)
        _checks.booleans(keep_surplus=keep_surplus)
        _checks.integers(1, batch_size=batch_size)
        self.selector = selector
        self._batch_size = batch_size
        self._max_batches = max_batches
        self._keep_surplus = keep_surplus
        self._surplus: Groups | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """See `Curriculum.spec`."""
        own = {"batch_size": self._batch_size, "max_batches": self._max_batches, "keep_surplus": self._keep_surplus}
        return self.selector.spec | {"curriculum": "dynamic_sampling", **own}

    def collect(self, roll_out: RollOut) -> Collected:
        """See `Curriculum.collect`."""
        kept = [] if self._surplus is None else [self._surplus]
        generated: list[Groups] = []
        while len(generated) < self._max_batches and sum(len(g.prompt_ids) for g in kept) < self._batch_size:
            groups = _roll_out_and_observe(self.selector, self.selector.select(self._batch_size), roll_out)
            generated.append(groups)
            if groups.mixed.any():
                kept.append(groups.take(np.flatnonzero(groups.mixed)))
        everything = join(kept) if kept else generated[-1]
        rows = np.arange(len(everything.prompt_ids))
        rest = rows[self._batch_size :]
        self._surplus = everything.take(rest) if self._keep_surplus and len(rest) else None
        return Collected(
            everything.take(rows[: self._batch_size]),
            sum(groups.num_rollouts for groups in generated),
            _mixed_share(generated),
        )

    def prepare(self) -> None:
        """See `Curriculum.prepare`."""
        self.selector.prepare(self._batch_size)

    def state_dict(self) -> dict[str, Any]:
        """See `Curriculum.state_dict`."""
        return {"selector": self.selector.state_dict(), "surplus": self._surplus}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Curriculum.load_state_dict`."""
        self.selector.load_state_dict(state["selector"])
        surplus = state["surplus"]  # of a checkpoint, plain tuples
        self._surplus = surplus and Groups(*surplus)._replace(completions=Completions(*surplus[1]))


class HistoryResampling:
    """Epochs over the prompts that were not solved n out of n in the epoch before (SRPO, arXiv 2504.14286).

    What was solved stays out; when fewer than a batch are left, the next epoch is the whole pool again.

    Args:
        selector: told what came out, so that its predictions can be judged; it chooses nothing.
        batch_size: prompts a step.
        seed: of the order within an epoch.
    """

    def __init__(self, selector: AnySelector, batch_size: int, *, seed: int):
        _checks.integers(0, seed=seed)
        _checks.integers(1, batch_size=batch_size)
        self.selector = selector
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._kept = np.zeros(0, np.int32)
        self._order = np.zeros(0, np.int32)

    @property
    def spec(self) -> dict[str, Any]:
        """See `Curriculum.spec`."""
        own = {"batch_size": self._batch_size, "seed": self._seed}
        return self.selector.spec | {"curriculum": "history_resampling", **own}

    def collect(self, roll_out: RollOut) -> Collected:
        """See `Curriculum.collect`."""
        groups = _roll_out_and_observe(self.selector, self._next_batch(), roll_out)
        unsolved = (groups.group_size == 0) | (groups.successes < groups.group_size)
        self._kept = np.concatenate([self._kept, groups.prompt_ids[unsolved]])
        return Collected(groups, groups.num_rollouts, _mixed_share([groups]))

    def prepare(self) -> None:
        """Does nothing: the order of an epoch takes no time."""

    def _next_batch(self) -> np.ndarray:
        if len(self._order) < min(self._batch_size, self.selector.num_prompts):
            left = np.union1d(self._order, self._kept)
            if len(left) < self._batch_size:
                left = np.arange(self.selector.num_prompts)
            rng = np.random.default_rng([_STREAM, self._seed, self._epoch])
            self._order = rng.permutation(left).astype(np.int32)
            self._kept = np.zeros(0, np.int32)
            self._epoch += 1
        batch, self._order = np.split(self._order, [self._batch_size])
        return batch

    def state_dict(self) -> dict[str, Any]:
        """See `Curriculum.state_dict`."""
        return {
            "selector": self.selector.state_dict(),
            "epoch": self._epoch,
            "kept": self._kept,
            "order": self._order,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Curriculum.load_state_dict`."""
        self.selector.load_state_dict(state["selector"])
        self._epoch, self._kept, self._order = state["epoch"], state["kept"], state["order"]


def _roll_out_and_observe(selector: AnySelector, prompt_ids: np.ndarray, roll_out: RollOut) -> Groups:
    groups = roll_out(prompt_ids)
    selector.observe(groups.prompt_ids, groups.successes, groups.group_size)
    return groups


def _mixed_share(generated: list[Groups]) -> float:
    """The share of mixed groups among those of which anything is known; NaN if there are none."""
    known = sum(int((groups.group_size > 0).sum()) for groups in generated)
    return sum(int(groups.mixed.sum()) for groups in generated) / known if known else float("nan")
