import itertools
import math

import numpy as np
import pytest
import torch

from rl import advantages
from rl.engines.hf import HFEngine
from rl.groups import advantages_of, join, judge
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


def test_unjudged_completions_lower_n_and_are_no_failures(task, policy):
    verdicts = iter([Verdict(True, 1.0), None, Verdict(True, math.nan), Verdict(False, 0.0)])
    completions = generate(policy, [0, 1])
    completions = completions._replace(texts=[*completions.texts[:4], None, None, None, None])
    groups = judge(task._replace(verify=lambda *_: next(verdicts)), POOL, np.array([0, 1]), completions)
    assert groups.successes.tolist() == [1, 0]
    assert groups.group_size.tolist() == [2, 0]
    assert groups.rewards.isnan().tolist() == [[False, True, True, False], [True] * 4]
    assert groups.mixed.tolist() == [True, False]
    np.testing.assert_array_equal(np.asarray(groups.correct), [[True, False, False, False], [False] * 4])


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


def test_joining_changes_no_log_probability(task, policy):
    """Padding to the longest prompt and completion changes no log-probability."""
    parts = [judge(task, POOL, np.array([i], np.int32), generate(policy, [i], i)) for i in range(3)]
    c = join(parts).completions
    rows = torch.arange(3).repeat_interleave(4)
    with torch.no_grad():
        again = policy.score(c.prompt_tokens[rows], c.prompt_mask[rows], c.tokens, c.mask).log_probs
    torch.testing.assert_close(again[c.mask], c.log_probs[c.mask], atol=1e-5, rtol=1e-4)


def test_verdicts_and_beliefs_follow_their_groups(task, policy):
    said = itertools.cycle([Verdict(True, 0.3), Verdict(False, 0.2), Verdict(False, 0.0)])
    graded = task._replace(verify=lambda *_: next(said))
    parts = [judge(graded, POOL, np.array(ids), generate(policy, ids)) for ids in ([0, 1], [2])]
    parts = [
        part._replace(belief=np.stack([part.prompt_ids / 10 + 0.1, part.prompt_ids / 100 + 0.01], 1)) for part in parts
    ]
    joined = join(parts)
    both = joined.take(np.array([2, 0]))
    for groups, ids in ((joined, [0, 1, 2]), (both, [2, 0])):
        correct = np.arange(12).reshape(3, 4) % 3 == 0
        np.testing.assert_array_equal(np.asarray(groups.correct), correct[ids])
        np.testing.assert_allclose(np.asarray(groups.belief), [[i / 10 + 0.1, i / 100 + 0.01] for i in ids])
    assert join([parts[0]._replace(belief=None), parts[1]]).belief is None
    assert join([parts[0], parts[1]._replace(correct=None)]).correct is None


def test_mapp_reads_verdicts_and_not_rewards(task, policy):
    """The verdict and not the reward makes a completion correct for MaPP, and one without a verdict takes no part."""
    verdicts = iter([Verdict(True, 0.9), Verdict(False, 0.4), None, Verdict(False, 0.0)])
    groups = judge(task._replace(verify=lambda *_: next(verdicts)), POOL, np.array([1]), generate(policy, [1]))
    groups = groups._replace(belief=np.array([[0.3, 0.02]]))
    expected = advantages.mapp(torch.tensor([[1.0, 0, math.nan, 0]]), torch.tensor([0.3]), torch.tensor([0.02]))
    np.testing.assert_allclose(advantages_of(groups, "mapp").numpy(), expected.numpy(), rtol=1e-5)
    assert advantages_of(groups, "grpo").tolist() == advantages.grpo(groups.rewards).tolist()
    for name in ("correct", "belief"):
        with pytest.raises(ValueError, match=rf"groups.{name} is None with the advantage mapp; give it"):
            advantages_of(groups._replace(**{name: None}), "mapp")
