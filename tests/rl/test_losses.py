import math

import numpy as np
import pytest
import torch

from rl.losses import clipped_policy_loss


def loss_of(ratio, advantage, **options):
    log_probs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss, metrics = clipped_policy_loss(
        log_probs, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool), **options
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    return loss.item(), gradient.item(), metrics


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "clipped"),
    [
        (1.0, 2.0, 2.0, False),
        (1.2, 1.0, 1.2, False),
        (1.4, 1.0, 1.28, True),  # clip-higher: 0.28 above
        (0.5, 1.0, 0.5, False),
        (1.4, -1.0, -1.4, False),
        (0.5, -1.0, -0.8, True),  # 0.2 below
    ],
)
def test_one_token_by_hand(ratio, advantage, objective, clipped):
    loss, gradient, metrics = loss_of(ratio, advantage)
    assert loss == pytest.approx(-objective, rel=1e-6)
    assert metrics["clip_share"] == float(clipped)
    assert (gradient == 0) == clipped
    assert metrics["approx_kl"] == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)


def test_the_mean_runs_over_tokens_not_over_completions():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    loss, _ = clipped_policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([1.0, -1.0]), mask)
    assert loss.item() == pytest.approx(-(3 - 1) / 4)


def test_what_the_mask_hides_does_not_count_even_when_it_is_not_finite():
    mask = torch.tensor([[True, False]])
    log_probs = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    loss, metrics = clipped_policy_loss(log_probs, torch.zeros(1, 2), torch.ones(1), mask)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert loss.item() == -1
    np.testing.assert_array_equal(gradient.numpy(), [[-1, 0]])
    assert all(map(math.isfinite, metrics.values()))


def test_parts_of_a_batch_add_up_to_the_batch():
    generator = torch.Generator().manual_seed(0)
    log_probs = -torch.rand(6, 4, generator=generator)
    old, advantages = -torch.rand(6, 4, generator=generator), torch.randn(6, generator=generator)
    mask = torch.rand(6, 4, generator=generator) < 0.7
    whole, _ = clipped_policy_loss(log_probs, old, advantages, mask)
    parts = [
        clipped_policy_loss(log_probs[i], old[i], advantages[i], mask[i], num_tokens=int(mask.sum()))[0]
        for i in (slice(0, 2), slice(2, 6))
    ]
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item(), rel=1e-6)


def test_no_token_no_loss():
    empty = torch.zeros(2, 3, dtype=torch.bool)
    loss, metrics = clipped_policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2), empty)
    assert loss.item() == 0
    assert metrics == {"clip_share": 0.0, "approx_kl": 0.0}
