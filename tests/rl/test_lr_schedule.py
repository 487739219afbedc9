from dataclasses import replace

import numpy as np
import pytest
import torch

from rl.lr_schedule import learning_rate
from rl.train_config import TrainConfig

CONFIG = TrainConfig(steps=12, learning_rate=0.1, warm_up_steps=4)


def rates(config):
    return [learning_rate(config, step) for step in range(config.steps)]


def test_the_warm_up_and_the_constant_rate_are_those_of_earlier_versions():
    assert rates(CONFIG) == [0.1 * min(1.0, (step + 1) / 4) for step in range(12)]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_decay_is_torchs(schedule):
    """torch's schedulers start from the peak, at step 3, and reach 0 at step 12, after the last step of the run."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    kinds = {
        "linear": lambda: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=9),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9),
    }
    scheduler, wanted = kinds[schedule](), []
    for _ in range(9):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    found = rates(replace(CONFIG, lr_schedule=schedule))
    assert found[:3] == rates(CONFIG)[:3]
    np.testing.assert_allclose(found[3:], wanted, rtol=1e-6)
    assert min(found) > 0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_that_ends_in_its_warm_up_has_no_decay(schedule):
    short = replace(CONFIG, steps=3)
    assert rates(replace(short, lr_schedule=schedule)) == rates(short)
