import math

import numpy as np
import torch

from rl.engines.hf import HFEngine
from rl.groups import join, judge
from rl.prompts import PromptPool, Verdict
from rl.rollout import Sampling

POOL = PromptPool(["1=", "22=", "345="], ["a", "b", "c"], ["x", "y", "z"])


def generate(policy, prompt_ids, seed=0, n=4):
    texts = POOL.take(list(prompt_ids)).texts
    return HFEngine(policy).generate(texts, n, Sampling(3), seed=seed)


def test_judge_counts_successes_against_the_right_answer(task, policy):
    seen = []

    def verify(text, answer):
        seen.append(answer)
        return Verdict(answer == "b", 0.1 + (answer == "b"))

    prompt_ids = np.array([2, 1], np.int32)
    groups = judge(task._replace(verify=verify), POOL, prompt_ids, generate(policy, prompt_ids))
    assert seen == ["c"] * 4 + ["b"] * 4
    assert groups.successes.tolist() == [0, 4]
    assert groups.group_size.tolist() == [4, 4]
    np.testing.assert_allclose(groups.rewards.numpy(), [[0.1] * 4, [1.1] * 4], rtol=1e-6)
    assert groups.mixed.tolist() == [False, False]


def test_what_was_not_judged_lowers_n_and_is_no_failure(task, policy):
    verdicts = iter([Verdict(True, 1.0), None, Verdict(True, math.nan), Verdict(False, 0.0)])
    completions = generate(policy, [0, 1])
    completions = completions._replace(texts=[*completions.texts[:4], None, None, None, None])
    groups = judge(task._replace(verify=lambda *_: next(verdicts)), POOL, np.array([0, 1]), completions)
    assert groups.successes.tolist() == [1, 0]
    assert groups.group_size.tolist() == [2, 0]
    assert groups.rewards.isnan().tolist() == [[False, True, True, False], [True] * 4]
    assert groups.mixed.tolist() == [True, False]


def test_infinite_rewards_and_odd_verdicts_are_not_judged(task, policy):
    said = [
        Verdict(True, math.inf),
        Verdict(True, -math.inf),
        True,
        "True",
        1 / 3,
        (False, 0.5),
        Verdict(True, 1e39),
        0,
    ]
    verdicts = iter(said)
    groups = judge(task._replace(verify=lambda *_: next(verdicts)), POOL, np.array([0, 1]), generate(policy, [0, 1]))
    assert groups.successes.tolist() == [1, 0]
    assert groups.group_size.tolist() == [1, 2]
    nan = math.nan
    np.testing.assert_array_equal(groups.rewards.numpy(), [[nan, nan, 1, nan], [nan, 0.5, nan, 0]])


def test_join_then_take_gives_the_parts_back(task, policy):
    parts = [
        judge(task, POOL, np.array(ids, np.int32), generate(policy, ids, seed))
        for seed, ids in enumerate([[0], [2, 1], [1]])
    ]
    whole = join(parts)
    assert whole.prompt_ids.tolist() == [0, 2, 1, 1]
    assert whole.num_rollouts == 16
    part = whole.take(np.array([1, 2]))
    assert part.completions.texts == parts[1].completions.texts
    mask = part.completions.mask
    assert torch.equal(part.completions.tokens[mask], parts[1].completions.tokens[parts[1].completions.mask])
    assert torch.equal(part.completions.log_probs[mask], parts[1].completions.log_probs[parts[1].completions.mask])
    torch.testing.assert_close(part.rewards, parts[1].rewards)


def test_joined_prompts_mean_the_same_to_the_policy(task, policy):
    """Padding to the longest prompt and completion changes no log-probability."""
    parts = [judge(task, POOL, np.array([i], np.int32), generate(policy, [i], i)) for i in range(3)]
    c = join(parts).completions
    rows = torch.arange(3).repeat_interleave(4)
    with torch.no_grad():
        again = policy.score(c.prompt_tokens[rows], c.prompt_mask[rows], c.tokens, c.mask).log_probs
    torch.testing.assert_close(again[c.mask], c.log_probs[c.mask], atol=1e-5, rtol=1e-4)
