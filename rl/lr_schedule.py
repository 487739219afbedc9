"""The learning rate of a training step, which depends on the settings and the step alone, so that runs can resume."""

import math

from rl.train_config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    r"""Return the learning rate of a training step.

    It rises linearly over the warm-up of w = `warm_up_steps` steps, and reaches its peak at step w - 1. Each later step
    s of the S = `steps` steps has the peak times a factor: 1 (constant), 1 - x (linear) or $(1 + \cos \pi x) / 2$
    (cosine), with the share $x = (s - (w - 1)) / (S - (w - 1))$. A linear or cosine factor would reach 0 at step S, the
    step after the last.

    Args:
        config: The settings of the run.
        step: The number of the step, from 0.
    """
    warm_up = min(1.0, (step + 1) / config.warm_up_steps)
    after = step - (config.warm_up_steps - 1)
    if config.lr_schedule == "constant" or after <= 0:
        return config.learning_rate * warm_up
    done = min(1.0, after / max(config.steps - (config.warm_up_steps - 1), 1))
    return config.learning_rate * (1 - done if config.lr_schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)
