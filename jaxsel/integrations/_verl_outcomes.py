"""The rewards of the prompts that were handed out to verl, until the selector observes them. Needs no verl."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxsel.integrations.edge import TrainerEdge

ROW = "jaxsel_row"
"""Column that verl carries from a prompt to each of its trajectories: the row of the prompt in the pool."""


class Outcomes:
    """Collects the rewards of finished groups, and lets the selector observe them once per step.

    verl polls: it looks again and again at all groups that are finished and not yet used. A group that it looks at
    several times is collected once, also across a checkpoint.

    Args:
        edge: The `TrainerEdge` that hands out the prompts and observes the rewards.
    """

    def __init__(self, edge: TrainerEdge):
        self.edge = edge
        self._seen: set[str] = set()
        self._groups: dict[str, tuple[int, list[Any]]] = {}

    def unseen(self, finished: Iterable[str]) -> set[str]:
        """Return the groups that were not finished at the last look.

        Args:
            finished: Names of all groups that are finished and not yet used.
        """
        now = set(finished)
        fresh, self._seen = now - self._seen, now
        return fresh

    def add(self, group: str, row: int, rewards: list[Any]) -> None:
        """Collect the rewards of a group; it has none if all its generations failed."""
        self._groups[group] = (row, rewards)

    def tell(self, step: int, *, drained: bool) -> None:
        """Let the selector observe what was collected.

        Args:
            step: verl's number of the step.
            drained: Whether nothing is being generated. All prompts without a finished group have failed then.
        """
        collected = sorted(self._groups.values(), key=lambda group: group[0])  # verl's order of groups is random
        self._groups = {}
        rows, rewards = [row for row, _ in collected], [scores for _, scores in collected]
        if rows:
            self.edge.observe(rows, rewards, step=step)
        if drained:
            self._give_up(step)

    def make_room(self, count: int, step: int) -> None:
        """Observe early if fewer than `count` prompts of the pool are free, that is, do not wait for rewards."""
        if self.edge.selector.num_prompts - len(self.edge.handed_out) < count:
            self.tell(step, drained=False)

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs, in dictionaries and lists of numbers, strings and bytes."""
        groups = [[group, row, rewards] for group, (row, rewards) in self._groups.items()]
        return {"edge": self.edge.state_dict(), "seen": sorted(self._seen), "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of another run.

        Raises:
            ValueError: The state is of another method, other hyperparameters or another pool.
        """
        self.edge.load_state_dict(state["edge"])
        self._seen = set(state["seen"])
        self._groups = {group: (row, list(rewards)) for group, row, rewards in state["groups"]}

    def _give_up(self, step: int) -> None:
        lost = self.edge.handed_out
        if len(lost):
            self.edge.observe(lost, [[] for _ in lost], step=step)


def reward_of(extra_fields: Any, success: str) -> Any:
    """Return the named reward of a trajectory; None if verl's reward function did not judge it.

    verl's rate-limited manager gives `acc` 0 to a completion whose reward timed out or raised an error, and marks it.

    Args:
        extra_fields: The field `extra_fields` of the trajectory, as TransferQueue returns it.
        success: Name of the reward.

    Raises:
        ValueError: The reward function returned other rewards only.
    """
    stored = getattr(extra_fields, "data", extra_fields)
    info = (stored.get("reward_extra_info") if isinstance(stored, Mapping) else None) or {}
    if info and success not in info:
        raise ValueError(
            f"data.jaxsel.success is {success!r}, and verl's reward function returned {', '.join(map(repr, info))}; "
            "set +data.jaxsel.success to the name of the binary reward"
        )
    is_marked = info.get("timeout") is True or isinstance(info.get("error"), str)
    return None if is_marked else info.get(success)


def one_per_session(keys: Iterable[str], groups: set[str]) -> dict[tuple[str, str], str]:
    """Return one trajectory for each completion of the groups: all trajectories of a session have the same reward.

    Args:
        keys: Keys of trajectories, `{group}_{session}_{number}`.
        groups: Names of groups.

    Returns:
        `{(group, session): key}`.
    """
    chosen: dict[tuple[str, str], str] = {}
    for key in keys:
        group, session = key.split("_")[:2]
        if group in groups:
            chosen.setdefault((group, session), key)
    return chosen
