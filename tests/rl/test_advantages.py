import math
from functools import partial

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("epsilon", [-1e-3, float("nan"), float("inf")])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    rewards = torch.tensor([[0.0, 1.0]])
    for compute in (advantages.grpo, advantages.reinforce_pp):
        with pytest.raises(ValueError, match=r"epsilon is .*; give a finite number of at least 0"):
            compute(rewards, epsilon=epsilon)
    with pytest.raises(ValueError, match=r"epsilon is .*; give a finite number of at least 0"):
        advantages.normalise(rewards, rewards > 0, epsilon=epsilon)
