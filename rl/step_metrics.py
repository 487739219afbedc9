"""Metrics of one training step: the seconds spent on each activity, and a summary of its rollouts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rl.curriculum import Collected


class Clock:
    """A stopwatch that adds up the seconds spent on each activity of one step.

    Attributes:
        seconds: Seconds by metric name, `seconds/<activity>`.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        """Add the duration of the `with` block to the activity."""
        start = time.perf_counter()
        yield
        self._add(activity, time.perf_counter() - start)

    @contextmanager
    def excluding(self, activity: str, *nested: str) -> Iterator[None]:
        """Add the duration of the `with` block to the activity, without the seconds of the nested activities."""
        with self(activity):
            yield
        for name in nested:
            self._add(activity, -self.seconds.get(f"seconds/{name}", 0.0))

    def _add(self, activity: str, seconds: float) -> None:
        name = f"seconds/{activity}"
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def summarise(collected: Collected) -> dict[str, float]:
    """Return the metrics `train/...` of the rollouts that one step collected."""
    groups = collected.groups
    return {
        "train/mixed_share": collected.mixed_share,
        "train/batch_mixed_share": float(groups.mixed.sum() / max((groups.group_size > 0).sum(), 1)),
        "train/judged_share": float(groups.group_size.mean() / groups.completions.group_size),
        "train/reward": float(groups.rewards[groups.rewards.isfinite()].mean()),
        "train/completion_length": float(groups.completions.mask.sum(1).float().mean()),
    }
