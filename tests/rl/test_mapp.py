"""MaPP's denoised advantages, against plain loops over the counts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from rl import advantages

NAN = math.nan


def beta(mean, variance):
    total = mean * (1 - mean) / variance - 1
    return mean * total, (1 - mean) * total


def denoised(rewards, mean, variance):
    """Return MaPP's advantages, with success rates Beta(a, b), by float64 loops over completions and verdict counts."""
    judged = [r for r in rewards if math.isfinite(r)]
    n, found = len(judged), []
    for r in rewards:
        a, b = beta(mean, variance)
        a, b = a + sum(judged), b + n - sum(judged)  # the belief Beta(a, b), updated by the verdicts of the group
        total = 0.0
        for size in range(1, n):
            own, other = (a - 1, b) if r == 1 else (b - 1, a)
            total += betabinom.pmf(size - 1, n - 1, own, other) * math.sqrt((n - size) / size)
        found.append((total if r == 1 else -total) if math.isfinite(r) else 0.0)
    return found


def mapp(rewards, mean, variance, dtype=torch.float64):
    mean, variance = (torch.as_tensor(x, dtype=dtype).expand(len(rewards)) for x in (mean, variance))
    return advantages.mapp(torch.tensor(rewards, dtype=dtype), mean, variance).numpy()


@given(
    st.lists(st.sampled_from([0.0, 1.0, NAN, math.inf]), min_size=1, max_size=9),
    st.floats(0.001, 0.999),
    st.floats(0.001, 0.98),
)
def test_mapp_equals_a_plain_loop_over_the_counts(rewards, mean, spread):
    variance = mean * (1 - mean) * spread
    np.testing.assert_allclose(mapp([rewards], mean, variance)[0], denoised(rewards, mean, variance), rtol=1e-7)


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=7, max_size=7), min_size=1, max_size=3),
    st.floats(0.001, 0.999),
    st.floats(0.001, 0.98),
)
def test_mapp_equals_its_formula_for_every_completion_alone(rewards, mean, spread):
    judged = np.isfinite(rewards)
    correct = np.where(judged, rewards, 0.0)
    count, successes = judged.sum(1, keepdims=True), correct.sum(1, keepdims=True)
    total = 1 / spread - 1
    a = mean * total + successes - correct
    b = (1 - mean) * total + count - successes - (1 - correct)
    a, b = np.where(correct == 1, a, b), np.where(correct == 1, b, a)
    expected = np.zeros_like(correct)
    for row, column in np.argwhere(judged & (count > 1)):
        m, s = count[row, 0], np.arange(1, count[row, 0])
        weights = betabinom.pmf(s - 1, m - 1, a[row, column], b[row, column])
        expected[row, column] = (2 * correct[row, column] - 1) * (weights * np.sqrt((m - s) / s)).sum()
    np.testing.assert_allclose(mapp(rewards, mean, mean * (1 - mean) * spread), expected, rtol=1e-9, atol=1e-12)


def test_mapp_by_hand():
    # The belief Beta(1, 1), updated by the other completion, is Beta(1, 2) for the correct one and Beta(2, 1) for the
    # wrong one. A completion has an advantage, of size 1, only if the other one has another verdict.
    np.testing.assert_allclose(mapp([[1.0, 0.0]], 1 / 2, 1 / 12), [[2 / 3, -2 / 3]], rtol=1e-12)
    np.testing.assert_allclose(mapp([[1.0, 1.0]], 1 / 2, 1 / 12), [[1 / 3, 1 / 3]], rtol=1e-12)
    np.testing.assert_allclose(mapp([[0.0, 0.0]], 1 / 2, 1 / 12), [[-1 / 3, -1 / 3]], rtol=1e-12)


def test_mapp_with_a_certain_belief_is_grpo_in_groups_drawn_at_that_rate():
    """If the success rate is known, the size of an advantage is the mean of GRPO's sqrt((n - S) / S).

    S is the number of completions, of n, with the same verdict as this one.

    The mean is over Binomial draws of the verdicts of the other completions. The group's own verdicts do not matter.
    """
    n, rate = 6, 0.3
    size = np.arange(1, n)
    right = (binom.pmf(size - 1, n - 1, rate) * np.sqrt((n - size) / size)).sum()
    wrong = (binom.pmf(size - 1, n - 1, 1 - rate) * np.sqrt((n - size) / size)).sum()
    for variance in (0.0, 1e-12, 1e-7):
        found = mapp([[1.0, 0, 0, 1, 0, 1], [0.0] * 6, [1.0] * 6], rate, variance)
        np.testing.assert_allclose(found[0], [right, -wrong, -wrong, right, -wrong, right], rtol=1e-4)
        np.testing.assert_allclose(found[1:], [[-wrong] * 6, [right] * 6], rtol=1e-4)


def test_mapp_without_a_belief_is_grpo_smoothed_over_the_others():
    """A belief with hardly any weight changes nothing: a single correct completion has nearly GRPO's advantage."""
    rewards = [[1.0, 0, 0, 0, 0], [0.0, 1, 1, 1, 1], [1.0] * 5, [0.0] * 5]
    found = mapp(rewards, 1 / 2, 0.2499999)
    population = advantages.grpo(torch.tensor(rewards)).numpy() * math.sqrt(5 / 4)
    assert found[0, 0] == pytest.approx(population[0, 0], rel=0.02)  # sqrt(n - 1) = 2
    assert found[1, 0] == pytest.approx(population[1, 0], rel=0.02)
    np.testing.assert_allclose(found[2:], 0, atol=0.02)
    assert (np.sign(found[:2]) == np.sign(population[:2])).all()
    # A group of 400 with half correct: the noise of the others is small, and the advantage is near 1.
    large = mapp([[1.0, 0.0] * 200], 1 / 2, 0.2499999)
    np.testing.assert_allclose(large[0], [1.0, -1.0] * 200, rtol=0.01)


@pytest.mark.parametrize("mean", [0.0, 1e-9, 0.5, 1.0 - 1e-9, 1.0])
@pytest.mark.parametrize("variance", [0.0, 1e-30, 0.1, 0.25, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mapp_is_finite_and_bounded_for_every_belief(mean, variance, dtype):
    rewards = [[1.0, 0, NAN, 1, 0, 0, 0, 0], [1.0] * 8, [0.0] * 8, [1.0] + [NAN] * 7, [NAN] * 8]
    found = mapp(rewards, mean, variance, dtype)
    assert found.dtype == {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    assert np.isfinite(found).all()
    assert (np.abs(found) <= math.sqrt(7) + 1e-6).all()
    assert (found[0, [0, 3]] >= 0).all()
    assert (found[0, [1, 4]] <= 0).all()
    assert (found[3:] == 0).all()
    assert found[0, 2] == 0


def test_a_surprising_group_of_equal_rewards_moves_the_policy_more_than_an_expected_one():
    found = mapp([[1.0] * 8, [1.0] * 8], [0.1, 0.95], [0.001, 0.001])
    assert found[0, 0] > 4 * found[1, 0] > 0


def test_mapp_of_an_empty_batch_is_empty():
    assert mapp(np.zeros((0, 4)), 0.5, 0.1).shape == (0, 4)
    assert mapp(np.zeros((3, 0)), 0.5, 0.1).shape == (3, 0)


@pytest.mark.parametrize(
    ("rewards", "mean", "variance", "message"),
    [
        ([[1.0, 0.5]], 0.5, 0.1, "rewards holds 0.5, and mapp reads 0 and 1 alone; give 1 for a correct completion"),
        ([[1.0, 0.0]] * 2, [0.5, NAN], 0.1, r"success_rate\[1\] is nan; give a finite number from 0 to 1"),
        ([[1.0, 0.0]], 1.5, 0.1, r"success_rate\[0\] is 1.5; give"),
        ([[1.0, 0.0]], 0.5, -0.1, r"variance\[0\] is -0.1; give"),
        ([[1.0, 0.0]] * 3, 0.5, [0.1, 0.1, math.inf], r"variance\[2\] is inf; give"),
    ],
)
def test_mapp_refuses_bad_rewards_and_beliefs(rewards, mean, variance, message):
    with pytest.raises(ValueError, match=message):
        mapp(rewards, mean, variance)
