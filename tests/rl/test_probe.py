import numpy as np
import pytest

import jaxsel
from rl.engines.hf import HFEngine
from rl.probe import Probe
from rl.prompts import Verdict

POOL_SIZE = 30
MOPPS, UNIFORM = jaxsel.mopps(), jaxsel.uniform()  # shared, because a method keeps its compiled functions


class PartlyFailing(HFEngine):
    """An engine of which every second completion is missing."""

    def generate(self, prompts, group_size, sampling, *, seed):
        out = super().generate(prompts, group_size, sampling, seed=seed)
        return out._replace(texts=[text if i % 2 else None for i, text in enumerate(out.texts)])


def make(task, **options):
    return Probe(task, task.pool(POOL_SIZE, 0), task.held_out(5), num_pool_prompts=12, **options)


@pytest.fixture
def selector():
    return jaxsel.PromptSelector(MOPPS, num_prompts=POOL_SIZE, seed=3, candidate_ratio=1)


def test_a_perfect_prediction_scores_perfectly(task, policy, selector):
    """Even prompts are always solved and odd prompts never. The selector has observed this 20 times."""
    texts = task.pool(POOL_SIZE, 0).texts
    solved = np.arange(POOL_SIZE) % 2 == 0
    answers = {text: bool(solved[i]) for i, text in enumerate(texts)}
    pool = task.pool(POOL_SIZE, 0)
    task = task._replace(verify=lambda _, answer: Verdict(answer is True, float(answer is True)))
    pool = type(pool)(pool.texts, [answers[text] for text in texts], pool.keys)
    probe = Probe(task, pool, task.held_out(5), num_pool_prompts=12, group_size=4)
    for _ in range(20):
        selector.observe(np.arange(POOL_SIZE), 8 * solved, 8)
    found = probe.measure(HFEngine(policy), selector, 0)
    assert found["probe/solve_state_accuracy"] == 1
    assert found["probe/mae"] < 0.1
    assert found["probe/spearman"] > 0.8
    assert found["probe/rollouts"] == (12 + 5) * 4


def test_failed_generations_count_nowhere(task, policy, selector):
    task = task._replace(verify=lambda *_: Verdict(True, 1.0))
    found = make(task, group_size=4).measure(PartlyFailing(policy), selector, 0)
    assert found["probe/pool_accuracy"] == found["probe/held_out_accuracy"] == 1
    only_failures = make(task, group_size=1).measure(PartlyFailing(policy), selector, 0)
    assert only_failures["probe/rollouts"] > 0
    assert only_failures["probe/pool_accuracy"] == 1


def test_without_judged_completions_only_rollouts_and_judged_share_are_reported(task, policy, selector):
    task = task._replace(verify=lambda *_: None)
    found = make(task, group_size=2).measure(HFEngine(policy), selector, 0)
    assert found == {"probe/rollouts": (12 + 5) * 2, "probe/judged_share": 0}


def test_the_probe_is_no_batch_of_the_epochs(task):
    """The selector shuffles its epochs with the probe's seed. Still no batch of an epoch equals the probe's prompts."""
    for seed in range(5):
        probe = set(make(task, seed=seed).spec["prompt_ids"])
        selector = jaxsel.PromptSelector(UNIFORM, num_prompts=POOL_SIZE, seed=seed, candidate_ratio=1)
        for _ in range(6):
            selector.select(12)
            dealt = {*selector.select(12).tolist()}
            selector.select(6)
            assert dealt != probe
