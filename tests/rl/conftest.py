"""Fixtures of the tiny task in `tests.support.runs`."""

import itertools

import pytest
import torch

from rl.policy import Policy, build_policy
from rl.prompts import Demonstration, Task
from tests.support.runs import TASK


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def task() -> Task:
    return TASK


@pytest.fixture
def policy(task: Task) -> Policy:
    return build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)


@pytest.fixture
def demonstrations(task: Task) -> list[Demonstration]:
    return list(itertools.islice(task.demonstrations(0), 8))
