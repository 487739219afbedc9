"""The settings of supervised learning before a run. Importing them does not load torch."""

from dataclasses import dataclass

from rl import _checks


@dataclass(frozen=True)
class WarmStartConfig:
    """The settings that the weights after the warm start depend on, besides the task.

    Attributes:
        hidden_size: The width of the decoder.
        num_layers: The number of decoder layers.
        feed_forward_size: The width of the decoder's feed-forward layers.
        steps: The number of optimiser steps.
        batch_size: The number of demonstrations per step.
        learning_rate: The peak of the learning rate, after a linear warm-up and before a cosine decay to a tenth.
        seed: The seed of the weights and of the demonstrations.

    Raises:
        ValueError: A setting is out of its range.
    """

    hidden_size: int = 96
    num_layers: int = 3
    feed_forward_size: int = 256
    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self):
        sizes = {"hidden_size": self.hidden_size, "num_layers": self.num_layers}
        _checks.integers(1, **sizes, feed_forward_size=self.feed_forward_size, batch_size=self.batch_size)
        _checks.integers(0, steps=self.steps, seed=self.seed)
        _checks.above_zero(learning_rate=self.learning_rate)


@dataclass(frozen=True)
class FineTuningConfig:
    """The settings of supervised learning before a run, for a pretrained policy.

    Attributes:
        steps: The number of optimiser steps on demonstrations of the task; 0: none.
        batch_size: The number of demonstrations per step.
        learning_rate: The learning rate before a factor. The factor is the smaller of a linear rise to 1 over 20 steps
            and a linear decay from 1, which would reach 0 after the last step.
        seed: The seed of the demonstrations. The seed of the run does not change it, so that all seeds start from the
            same weights.

    Raises:
        ValueError: A setting is out of its range.
    """

    steps: int = 0
    batch_size: int = 8
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self):
        _checks.integers(1, batch_size=self.batch_size)
        _checks.integers(0, steps=self.steps, seed=self.seed)
        _checks.above_zero(learning_rate=self.learning_rate)
