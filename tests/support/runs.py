"""A tiny task for the training loop (copy single digits), a policy of a few thousand weights, and its runs."""

import random
from dataclasses import replace

import torch

import jaxsel
from rl.curriculum import Selected
from rl.engines.hf import HFEngine
from rl.policy import build_policy
from rl.probe import Probe
from rl.prompts import Demonstration, PromptPool, Task
from rl.train import train
from rl.train_config import TrainConfig
from tests.support.verifiers import begins_with

CONFIG = TrainConfig(steps=8, group_size=4, learning_rate=1e-3, probe_every=4, checkpoint_every=3)
LONG = replace(CONFIG, steps=80, checkpoint_every=5)
SCRIPT = """
import sys
from pathlib import Path

import torch

from rl.preemption import PreemptedError
from tests.support import runs

torch.set_num_threads(1)
while True:
    try:
        runs.start(runs.TASK, Path({run_dir!r}), runs.LONG, resume=True)
        break
    except PreemptedError as error:
        print(f"PreemptedError: {{error}}", file=sys.stderr, flush=True)
"""
"""A script that trains, and that resumes at once whenever a signal stops the run."""


def _pool(num_prompts: int, seed: int) -> PromptPool:
    rng = random.Random(seed)
    texts = [f"{i % 10}{rng.randrange(10)}{i // 10}=" for i in range(num_prompts)]
    return PromptPool(texts, [text[0] for text in texts], [f"{i}" for i in range(num_prompts)])


def _demonstrations(seed: int):
    rng = random.Random(seed)
    while True:
        prompt = f"{rng.randrange(10)}{rng.randrange(10)}{rng.randrange(4)}="
        yield Demonstration(prompt, prompt[0])


TASK = Task("copy", "0123456789=", 3, _pool, lambda n: _pool(n, -1), _demonstrations, begins_with)
"""A task: copy the first digit of the prompt. The rest of the completion is ignored."""


# All tests share these methods, because a method keeps its compiled functions.
MOPPS, DPS, UNIFORM = jaxsel.mopps(group_size=4), jaxsel.dps(), jaxsel.uniform()


def selector(method=MOPPS, ratio: int | None = 2):
    return jaxsel.PromptSelector(method, num_prompts=30, candidate_ratio=ratio)


def start(task, run_dir, config=CONFIG, curriculum=None, policy=None, **options):
    policy = policy or build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)
    pool = task.pool(30, 0)
    records = train(
        config,
        task=task,
        pool=pool,
        policy=policy,
        engine=options.pop("engine", None) or HFEngine(policy),
        curriculum=curriculum or Selected(selector(), 4),
        probe=Probe(task, pool, task.held_out(5), num_pool_prompts=10, group_size=2),
        run_dir=run_dir,
        **options,
    )
    return records, policy


def without_times(records):
    return [{k: v for k, v in record.items() if not k.startswith("seconds/")} for record in records]


def assert_same_run(one, other):
    assert without_times(one[0]) == without_times(other[0])
    for name, weight in one[1].model.state_dict().items():
        assert torch.equal(weight, other[1].model.state_dict()[name]), name


def until_killed(at):
    def steps_until(steps):
        for step in steps:
            if step == at:
                raise KeyboardInterrupt
            yield step

    return steps_until
