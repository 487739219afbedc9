"""A tiny world for the loop: single digits to copy, a policy of a few thousand weights."""

import itertools
import random

import pytest
import torch

from rl.policy import Policy, build_policy
from rl.prompts import Demonstration, PromptPool, Task, Verdict


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def _pool(num_prompts: int, seed: int) -> PromptPool:
    rng = random.Random(seed)
    texts = [f"{i % 10}{rng.randrange(10)}{i // 10}=" for i in range(num_prompts)]
    return PromptPool(texts, [text[0] for text in texts], [f"{i}" for i in range(num_prompts)])


def _demonstrations(seed: int):
    rng = random.Random(seed)
    while True:
        prompt = f"{rng.randrange(10)}{rng.randrange(10)}{rng.randrange(4)}="
        yield Demonstration(prompt, prompt[0])


def _verify(completion: str, answer: str) -> Verdict:
    success = completion[:1] == answer
    return Verdict(success, float(success))


@pytest.fixture(scope="session")
def task() -> Task:
    """Copy the first digit of the prompt; whatever follows it does not matter."""
    return Task("copy", "0123456789=", 3, _pool, lambda n: _pool(n, -1), _demonstrations, _verify)


@pytest.fixture
def policy(task: Task) -> Policy:
    return build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)


@pytest.fixture
def demonstrations(task: Task) -> list[Demonstration]:
    return list(itertools.islice(task.demonstrations(0), 8))
