"""Metrics of one training step: the seconds spent on each activity, and a summary of its rollouts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from rl import finish
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
        """Add the duration of the `with` block to the activity, without the seconds of the nested activities.

        All seconds of a nested activity are subtracted, so it must not run before the block.
        """
        with self(activity):
            yield
        for name in nested:
            self._add(activity, -self.seconds.get(f"seconds/{name}", 0.0))

    def _add(self, activity: str, seconds: float) -> None:
        name = f"seconds/{activity}"
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def summarise(collected: Collected) -> dict[str, float]:
    """Return the metrics `train/...` of the rollouts that one step collected.

    Three shares say how many completions ended at the length limit, at an end of sequence and at a stop text. They
    refer to the completions whose generation did not fail, and are 0 if `Groups.finish` is None.
    """
    groups = collected.groups
    finished = groups.finish[groups.finish != finish.FAILED] if groups.finish is not None else np.zeros(0)
    shares = {
        "train/truncated_share": finish.LENGTH,
        "train/end_of_sequence_share": finish.END_OF_SEQUENCE,
        "train/stop_share": finish.STOP,
    }
    return {name: float((finished == reason).sum() / max(len(finished), 1)) for name, reason in shares.items()} | {
        "train/mixed_share": collected.mixed_share,
        "train/batch_mixed_share": float(groups.mixed.sum() / max((groups.group_size > 0).sum(), 1)),
        "train/judged_share": float(groups.group_size.mean() / groups.completions.group_size),
        "train/reward": float(groups.rewards[groups.rewards.isfinite()].mean()),
        "train/completion_length": groups.completions.mean_length,
    }
