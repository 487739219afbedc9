import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from rl import advantages

NAN = math.nan


def test_grpo_by_hand():
    result = advantages.grpo(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(result.numpy(), np.array([[1, -1, -1, 1]]) * 0.5 / math.sqrt(1 / 3), rtol=1e-5)


def test_grpo_is_the_standard_score_of_every_group():
    rewards = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    expected = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)
    np.testing.assert_allclose(advantages.grpo(rewards).numpy(), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "group",
    [
        [0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0],
        [0.1, 0.1, 0.1],
        [NAN, NAN, NAN],
        [1.0, NAN, 1.0],
        [1.0, NAN, NAN],
    ],
)
def test_a_group_without_spread_gives_no_gradient(group):
    assert advantages.grpo(torch.tensor([group])).tolist() == [[0.0, 0.0, 0.0]]


def test_unknown_rewards_do_not_count():
    known = advantages.grpo(torch.tensor([[1.0, 0.0, 0.0]]))
    partly = advantages.grpo(torch.tensor([[1.0, NAN, 0.0, 0.0]]))
    np.testing.assert_allclose(partly[:, [0, 2, 3]].numpy(), known.numpy(), rtol=1e-6)
    assert partly[0, 1] == 0


def test_groups_do_not_see_each_other():
    one, other = torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([[7.0, NAN, -100.0]])
    both = advantages.grpo(torch.cat([one, other]))
    np.testing.assert_allclose(both[:1].numpy(), advantages.grpo(one).numpy())


def test_grpo_without_the_standard_deviation_by_hand():
    result = advantages.grpo(torch.tensor([[1.0, 0.0, NAN, 0.5], [2.0, 2.0, 2.0, 2.0]]), divide_by_std=False)
    np.testing.assert_allclose(result.numpy(), [[0.5, -0.5, 0, 0], [0, 0, 0, 0]], atol=1e-7)


def test_rloo_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, NAN, 0.0, 0.5], [NAN, 0.0, NAN, 3.0]])
    expected = [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [0.75, 0, -0.75, 0], [0, -3, 0, 3]]
    np.testing.assert_allclose(advantages.rloo(rewards).numpy(), expected, atol=1e-6)


def test_reinforce_pp_by_hand():
    # the six judged rewards have the mean 1 and the variance (1 + 0 + 1 + 4 + 0 + 4) / (6 - 1) = 2
    rewards = torch.tensor([[0.0, 1.0, 2.0, NAN], [3.0, 1.0, NAN, -1.0]])
    expected = np.array([[-1, 0, 1, 0], [2, 0, 0, -2]]) / math.sqrt(2)
    np.testing.assert_allclose(advantages.reinforce_pp(rewards).numpy(), expected, rtol=1e-5)


def test_reinforce_pp_with_the_group_baseline_by_hand():
    # less their groups' means, the eight judged rewards are -1 0 1, 1 0 -1 and 0 0: a variance of 4 / (8 - 1)
    rewards = torch.tensor([[0.0, 1.0, 2.0], [7.0, 6.0, 5.0], [9.0, NAN, 9.0]])
    expected = np.array([[-1, 0, 1], [1, 0, -1], [0, 0, 0]]) / math.sqrt(4 / 7)
    np.testing.assert_allclose(advantages.reinforce_pp(rewards, group_baseline=True).numpy(), expected, rtol=1e-5)


def test_reinforce_pp_learns_from_groups_that_agree():
    result = advantages.reinforce_pp(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(result.numpy(), np.array([[1, 1], [-1, -1]]) * 0.5 / math.sqrt(1 / 3), rtol=1e-5)


ESTIMATORS = {
    "grpo": advantages.grpo,
    "dr_grpo": partial(advantages.grpo, divide_by_std=False),
    "rloo": advantages.rloo,
    "reinforce_pp": advantages.reinforce_pp,
    "reinforce_pp_baseline": partial(advantages.reinforce_pp, group_baseline=True),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_finite_centred_and_shift_invariant(name):
    estimate = ESTIMATORS[name]
    rewards = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    rewards[0, 1], rewards[2] = NAN, NAN
    result = estimate(rewards)
    assert result.isfinite().all()
    assert (result[rewards.isnan()] == 0).all()
    assert result.sum().abs() < 1e-5
    np.testing.assert_allclose(estimate(rewards + 3).numpy(), result.numpy(), atol=1e-5)
    assert not estimate(torch.full((3, 4), 0.1)).any()
    assert not estimate(torch.full((3, 4), NAN)).any()
    assert not estimate(torch.tensor([[1.0, NAN]])).any()


def test_gae_by_hand():
    # reward + 1/2 next value - value, from the last token on: 4 - 1 = 3; 1 + 1/2 - 2 = -1/2; 0 + 1 - 3 = -2
    result, returns = advantages.gae(
        torch.tensor([[0.0, 1.0, 4.0]]),
        torch.tensor([[3.0, 2.0, 1.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        discount=0.5,
        gae_lambda=0.5,
    )
    np.testing.assert_allclose(result.numpy(), [[-2 + 0.25 * 0.25, -0.5 + 0.25 * 3, 3]])
    np.testing.assert_allclose(returns.numpy(), [[1.0625, 2.25, 4]])


def test_gae_between_its_extremes():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.25, 0.75]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    monte_carlo, _ = advantages.gae(rewards, values, mask, gae_lambda=1.0)
    np.testing.assert_allclose(monte_carlo.numpy(), [[0.5, 0.75, 0.25]])  # reward to go minus value
    one_step, _ = advantages.gae(rewards, values, mask, gae_lambda=0.0)
    np.testing.assert_allclose(one_step.numpy(), [[-0.25, 0.5, 0.25]])  # differences of the values


def test_gae_skips_masked_tokens():
    rewards = torch.tensor([[0.0, 1.0, 4.0]])
    values = torch.tensor([[3.0, 2.0, 1.0]])
    dense = advantages.gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), discount=0.9)
    mask = torch.tensor([[True, False, True, True, False]])
    sparse = advantages.gae(
        torch.tensor([[0.0, NAN, 1.0, 4.0, 100.0]]), torch.tensor([[3.0, math.inf, 2.0, 1.0, NAN]]), mask, discount=0.9
    )
    for short, long in zip(dense, sparse, strict=True):
        assert long[mask].tolist() == short.flatten().tolist()
        assert long[~mask].tolist() == [0, 0]


def test_gae_of_a_completion_without_judgement_is_zero_everywhere():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    rewards = torch.tensor([[0.0, NAN, 0.0], [0.0, 0.0, 1.0]])
    values = torch.full((2, 3), 0.5, requires_grad=True)
    result, returns = advantages.gae(rewards, values, mask, gae_lambda=1.0)
    assert result.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]
    np.testing.assert_array_equal(returns.numpy(), [[NAN, NAN, 0], [1, 1, 1]])
    assert not result.requires_grad


def test_advantages_are_normalised_over_unmasked_tokens():
    mask = torch.tensor([[True, False, True], [True, True, True]])
    result = advantages.normalise(torch.tensor([[1.0, NAN, 2.0], [3.0, 5.0, -1.0]]), mask)
    known = np.array([1.0, 2.0, 3.0, 5.0, -1.0])
    np.testing.assert_allclose(result[mask].numpy(), (known - 2) / known.std(ddof=1), rtol=1e-5)
    assert result[0, 1] == 0
    assert not advantages.normalise(torch.ones(2, 3), mask).any()
    assert not advantages.normalise(torch.randn(2, 3), mask & False).any()


@pytest.mark.parametrize("name", ["discount", "gae_lambda"])
@pytest.mark.parametrize("value", [-0.1, 1.5, NAN])
def test_gae_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; give a number from 0 to 1"):
        advantages.gae(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), **{name: value})


SCALES = [0.95, 6.76, 8.24, 13.79, 85.7, 1234.567, 1e4, 1e-3, -6.76, 1e30]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_rewards_have_no_advantage_at_any_scale(name, dtype):
    estimate = ESTIMATORS[name]
    for scale in [s for s in SCALES if s <= torch.finfo(dtype).max]:
        for n in (2, 3, 6, 7, 8, 16, 64):
            rewards = torch.full((3, n), scale, dtype=dtype)
            assert not estimate(rewards).any()
            assert estimate(rewards).dtype == dtype
            rewards[1, 0] = NAN
            assert not estimate(rewards).any()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rounding_errors_are_no_spread(name):
    """The two rewards differ by rounding only, as sums of the same terms in two orders do: no advantage may result."""
    one, other = np.float32(8.24), np.nextafter(np.float32(8.24), np.float32(9))
    rewards = torch.tensor([[one, other] * 4])
    assert rewards.unique().numel() == 2
    assert not ESTIMATORS[name](rewards).any()


@pytest.mark.parametrize("group", [[1.0, 1.001], [0.0, 1e-3], [0.0, 1e-9], [1e4, 1e4 + 1], [-5.0, -5.001]])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_small_differences_give_an_advantage(name, group):
    result = ESTIMATORS[name](torch.tensor([group])).flatten().tolist()
    sign = math.copysign(1, group[1] - group[0])
    assert result[1] * sign > 0
    assert result[0] == pytest.approx(-result[1])


@pytest.mark.parametrize("unknown", [math.inf, -math.inf])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_infinite_rewards_are_unknown_rewards(name, unknown):
    rewards = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    rewards[0, 1] = rewards[3, 0] = rewards[3, 4] = NAN
    wanted = ESTIMATORS[name](rewards)
    assert wanted.any()
    torch.testing.assert_close(ESTIMATORS[name](rewards.nan_to_num(unknown)), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_advantages_are_finite_whatever_the_rewards(name):
    huge = torch.finfo(torch.float32).max
    assert ESTIMATORS[name](torch.tensor([[huge, -huge, 0.0], [1.0, 0.0, math.inf]])).isfinite().all()
    assert ESTIMATORS[name](torch.zeros(0, 4)).shape == (0, 4)
    assert ESTIMATORS[name](torch.zeros(2, 0)).shape == (2, 0)


@pytest.mark.parametrize("unknown", [math.inf, -math.inf])
def test_gae_treats_an_infinite_reward_or_value_as_not_judged(unknown):
    mask = torch.ones(3, 2, dtype=torch.bool)
    rewards, values = torch.tensor([[0.0, unknown], [0.0, 1.0], [0.0, 1.0]]), torch.full((3, 2), 0.5)
    values[1, 0] = unknown
    result, returns = advantages.gae(rewards, values, mask, gae_lambda=1.0)
    assert result.tolist() == [[0, 0], [0, 0], [0.5, 0.5]]
    np.testing.assert_array_equal(returns.numpy(), [[NAN, NAN], [NAN, NAN], [1, 1]])


def test_errors_of_rounding_are_not_normalised():
    """Advantages of 1e-3 are mere rounding errors of rewards of 1e4, so they become 0 and are not scaled up."""
    noise = torch.tensor([[0.0, 1e-3, -1e-3]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert not advantages.normalise(noise, mask, scale=1e4).any()
    assert advantages.normalise(noise, mask, scale=1.0).abs().max() > 0.9


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


@pytest.mark.parametrize("epsilon", [-1e-3, float("nan"), float("inf")])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    rewards = torch.tensor([[0.0, 1.0]])
    for compute in (advantages.grpo, advantages.reinforce_pp):
        with pytest.raises(ValueError, match=r"epsilon is .*; give a finite number of at least 0"):
            compute(rewards, epsilon=epsilon)
    with pytest.raises(ValueError, match=r"epsilon is .*; give a finite number of at least 0"):
        advantages.normalise(rewards, rewards > 0, epsilon=epsilon)
