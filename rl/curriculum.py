"""Curricula choose the prompts that a training step rolls out, and the groups that it trains on.

A group is the rollouts of one prompt in one batch. It is mixed if some of its judged rollouts are successes and some
are not.

In each step, a curriculum chooses rows of the pool of training prompts and has them rolled out. It uses a prompt
selector (`jaxsel.PromptSelector`), which predicts how often the policy solves each prompt. The selector observes the
counts of successes and of judged rollouts in all groups. Then the curriculum may drop groups, and it returns the rest.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from rl import _checks
from rl.batch_selector import BatchSelector
from rl.groups import Groups, join
from rl.rollout import Completions

_STREAM = 0x68697374  # separates these random numbers from other uses of the same seed

RollOut = Callable[[np.ndarray], Groups]
"""A function that generates and judges the rollouts of the given rows of the pool."""


class Collected(NamedTuple):
    """The groups that one step trains on, and their cost.

    Attributes:
        groups: The groups to train on.
        num_rollouts: The number of generated rollouts, including those of dropped groups.
        mixed_share: The share of mixed groups among the groups with a judged rollout, dropped groups included.
    """

    groups: Groups
    num_rollouts: int
    mixed_share: float


class Curriculum(Protocol):
    """A rule for what a step trains on.

    Attributes:
        selector: The selector that predicts and observes the prompts.
    """

    selector: BatchSelector

    @property
    def spec(self) -> dict[str, Any]:
        """The settings that the choices depend on, including the selector's. A resumed run needs the same ones."""
        ...

    def collect(self, roll_out: RollOut) -> Collected:
        """Choose prompts, roll them out, let the selector observe the counts, and return the groups to train on."""
        ...

    def prepare(self) -> None:
        """Start to compute the first choice of the next `collect`, without waiting for it or changing it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` needs to continue with the same choices."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state, so that the next choices are the same as without the interruption."""
        ...


class Selected:
    """Train on the group of every prompt that the selector chooses, whatever its method.

    Args:
        selector: The selector that chooses the prompts.
        batch_size: The number of prompts per step.
    """

    def __init__(self, selector: BatchSelector, batch_size: int):
        _checks.integers(1, batch_size=batch_size)
        self.selector = selector
        self._batch_size = batch_size

    @property
    def spec(self) -> dict[str, Any]:
        """The settings that the choices depend on."""
        return self.selector.spec | {"curriculum": "selected", "batch_size": self._batch_size}

    def collect(self, roll_out: RollOut) -> Collected:
        """Return the groups to train on."""
        groups = _roll_out_and_observe(self.selector, self.selector.select(self._batch_size), roll_out)
        return Collected(groups, groups.num_rollouts, _mixed_share([groups]))

    def prepare(self) -> None:
        """Start to compute the next choice."""
        self.selector.prepare(self._batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"selector": self.selector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.selector.load_state_dict(state["selector"])


class DynamicSampling:
    """Generate batches and keep their mixed groups until there are enough (DAPO, arXiv 2503.14476).

    A selector that predicts mixed groups raises the share of groups that are kept. It observes all groups, each batch
    as one step. Every rollout counts towards `Collected.num_rollouts`. If `max_batches` batches give too few groups to
    keep, the step trains on the groups that were kept. If there are none, it trains on the last batch. A step rolls out
    a prompt again only after fewer than `batch_size` prompts are left that it has not rolled out.

    Args:
        selector: The selector that chooses the prompts. DAPO chooses them uniformly.
        batch_size: The number of kept groups per step, and the number of prompts per generated batch.
        max_batches: The largest number of generated batches per step.
        margin: The smallest share of successes, and of failures, in a group that is kept, from 0 to 1/2. 0: every mixed
            group is kept.
        keep_surplus: Whether kept groups beyond `batch_size` wait for the next step. Otherwise they are dropped. Groups
            that waited were sampled by an older policy. By default the ratios of the clipped loss correct for this.
            With `TrainConfig.importance_cap` the importance weights do. With `TrainConfig.top_p` below 1 and no
            importance cap, nothing does.
    """

    def __init__(
        self,
        selector: BatchSelector,
        batch_size: int,
        *,
        max_batches: int = 10,
        margin: float = 0.0,
        keep_surplus: bool = False,
    ):
        _checks.integers(1, max_batches=max_batches)
        _checks.from_zero_to_half(margin=margin)
        _checks.booleans(keep_surplus=keep_surplus)
        _checks.integers(1, batch_size=batch_size)
        self.selector = selector
        self._batch_size = batch_size
        self._max_batches = max_batches
        self._margin = float(margin)
        self._keep_surplus = keep_surplus
        self._surplus: Groups | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The settings that the choices depend on."""
        own = {"batch_size": self._batch_size, "max_batches": self._max_batches, "keep_surplus": self._keep_surplus}
        return self.selector.spec | {"curriculum": "dynamic_sampling", "margin": self._margin, **own}

    def collect(self, roll_out: RollOut) -> Collected:
        """Return the groups to train on."""
        kept = [] if self._surplus is None else [self._surplus]
        generated: list[Groups] = []
        rolled_out = np.zeros(0, np.int32)
        while len(generated) < self._max_batches and sum(len(g.prompt_ids) for g in kept) < self._batch_size:
            if self.selector.num_prompts - len(rolled_out) < self._batch_size:
                rolled_out = rolled_out[:0]
            # without exclusions, the selector uses the choice that it has prepared
            chosen = self.selector.select(self._batch_size, exclude=rolled_out if len(rolled_out) else None)
            rolled_out = np.concatenate([rolled_out, chosen])
            groups = _roll_out_and_observe(self.selector, chosen, roll_out)
            generated.append(groups)
            is_kept = groups.within(self._margin)
            if is_kept.any():
                kept.append(groups.take(np.flatnonzero(is_kept)))
        everything = join(kept) if kept else generated[-1]
        rows = np.arange(len(everything.prompt_ids))
        rest = rows[self._batch_size :]
        self._surplus = everything.take(rest) if self._keep_surplus and len(rest) else None
        num_rollouts = sum(groups.num_rollouts for groups in generated)
        return Collected(everything.take(rows[: self._batch_size]), num_rollouts, _mixed_share(generated))

    def prepare(self) -> None:
        """Start to compute the next choice."""
        self.selector.prepare(self._batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"selector": self.selector.state_dict(), "surplus": self._surplus}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.selector.load_state_dict(state["selector"])
        surplus = state["surplus"]  # plain tuples in a checkpoint
        self._surplus = surplus and Groups(*surplus)._replace(completions=Completions(*surplus[1]))


class HistoryResampling:
    """Go through the pool in epochs that leave out solved prompts (SRPO, arXiv 2504.14286).

    A prompt is solved if all of its judged rollouts in the last epoch were successes. A solved prompt stays out of the
    next epochs. If fewer prompts than one batch are left, the next epoch is the whole pool again.

    Args:
        selector: A selector that observes the counts, so that its predictions can be evaluated. It chooses nothing.
        batch_size: The number of prompts per step.
        seed: The seed of the order within an epoch.
    """

    def __init__(self, selector: BatchSelector, batch_size: int, *, seed: int):
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
        """The settings that the choices depend on."""
        own = {"batch_size": self._batch_size, "seed": self._seed}
        return self.selector.spec | {"curriculum": "history_resampling", **own}

    def collect(self, roll_out: RollOut) -> Collected:
        """Return the groups to train on."""
        groups = _roll_out_and_observe(self.selector, self._next_batch(), roll_out)
        unsolved = (groups.group_size == 0) | (groups.successes < groups.group_size)
        self._kept = np.concatenate([self._kept, groups.prompt_ids[unsolved]])
        return Collected(groups, groups.num_rollouts, _mixed_share([groups]))

    def prepare(self) -> None:
        """Do nothing: the order of an epoch takes no time."""

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
        """Return the state for a checkpoint."""
        own = {"epoch": self._epoch, "kept": self._kept, "order": self._order}
        return {"selector": self.selector.state_dict()} | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.selector.load_state_dict(state["selector"])
        self._epoch, self._kept, self._order = state["epoch"], state["kept"], state["order"]


def _roll_out_and_observe(selector: BatchSelector, prompt_ids: np.ndarray, roll_out: RollOut) -> Groups:
    groups = roll_out(prompt_ids)
    selector.observe(groups.prompt_ids, groups.successes, groups.group_size)
    return groups


def _mixed_share(generated: list[Groups]) -> float:
    """Return the share of mixed groups among the groups with a judged rollout; NaN if there are none."""
    known = sum(int((groups.group_size > 0).sum()) for groups in generated)
    return sum(int(groups.mixed.sum()) for groups in generated) / known if known else float("nan")
