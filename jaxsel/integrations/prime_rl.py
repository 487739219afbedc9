"""Prompt selection in prime-rl, written from its published interface.

The adapter has an edge: a `TrainerEdge`, which hands out the prompts that its selector chooses, and observes rewards.
**It has never run inside prime-rl.** The tests use stubs of its objects. prime-rl is not imported.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxsel.integrations._lost import release_lost
from jaxsel.integrations._pools import check_size
from jaxsel.integrations._rewards import one_reward
from jaxsel.integrations.edge import TrainerEdge


class PrimeSampler(Iterator[Any]):
    """A sampler with the interface of prime-rl's `TaskSampler`.

    Args:
        tasks: One task per prompt, in the order of the pool, with distinct keys.
        edge: The edge with the selector. Tasks are asked for one by one, so give it a `draw_size`.
        success: Name of the reward, among a trace's `rewards`, that tells whether a rollout is correct. Its score
            counts, without its weight. None: the total reward of the trace.

    Raises:
        ValueError: The pool has another size, or two tasks have one key.
    """

    def __init__(self, tasks: Sequence[Any], edge: TrainerEdge, *, success: str | None = None):
        check_size("tasks", tasks, edge.selector.num_prompts)
        self._tasks, self.edge, self._success = tasks, edge, success
        self._rows = {task.key: row for row, task in enumerate(tasks)}
        if len(self._rows) < len(tasks):
            raise ValueError(
                f"tasks has {len(tasks)} entries and {len(self._rows)} keys; give tasks with distinct keys"
            )

    def __next__(self) -> Any:
        """Return the task of a selected prompt.

        If no prompt is free, those that wait longest for rewards are free again, as if they had timed out.
        """
        release_lost(self.edge, 1)
        return self._tasks[self.edge.next_prompt()]

    def observe(self, group: list[Any]) -> None:
        """Learn from the trainable traces of a finalized group, a list of `Episode`.

        A trace was not judged if it has an error or no turns, or if its episode failed, for example in scoring.

        Raises:
            ValueError: The group is empty, its task is not in the pool, or a trace has no reward with this name. The
                state stays as it was.
        """
        if not group:
            raise ValueError("group is empty; give the episodes of one task")
        key = group[0].task.key
        if key not in self._rows:
            raise ValueError(f"group is about the task {key!r}, which is not in the pool; give the groups of its tasks")
        pairs = [(episode, trace) for episode in group for trace in episode.traces if trace.agent.trainable]
        self.edge.observe([self._rows[key]], [[self._reward(*pair) for pair in pairs]])

    def _reward(self, episode: Any, trace: Any) -> float | None:
        if trace.has_error or not getattr(episode, "ok", True) or getattr(trace, "num_turns", 1) == 0:
            return None
        if self._success is None:
            return trace.reward
        reward = trace.rewards[one_reward(list(trace.rewards), self._success)]
        return None if reward is None else reward.score

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
