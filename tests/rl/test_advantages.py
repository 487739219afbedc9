import math

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
