import itertools
import math

import numpy as np
import pytest
import torch

from rl.losses import AGGREGATIONS, POLICY_LOSSES, clipped_policy_loss, clipped_value_loss, log_prob_gap


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
        (1.4, 1.0, 1.28, True),  # clipped at 1 + 0.28
        (0.5, 1.0, 0.5, False),
        (1.4, -1.0, -1.4, False),
        (0.5, -1.0, -0.8, True),  # clipped at 1 - 0.2
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


def test_masked_tokens_do_not_count_even_if_not_finite():
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


def test_without_tokens_the_loss_is_0():
    empty = torch.zeros(2, 3, dtype=torch.bool)
    loss, metrics = clipped_policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2), empty)
    assert loss.item() == 0
    assert metrics == {"clip_share": 0.0, "approx_kl": 0.0}


LENGTHS_3_AND_1 = torch.tensor([[True, True, True], [True, False, False]])


def test_the_sequence_mean_by_hand():
    zeros, advantages = torch.zeros(2, 3, requires_grad=True), torch.tensor([2.0, -1.0])
    loss, _ = clipped_policy_loss(zeros, torch.zeros(2, 3), advantages, LENGTHS_3_AND_1, aggregation="sequence_mean")
    (gradient,) = torch.autograd.grad(loss, zeros)
    assert loss.item() == pytest.approx(-(2 - 1) / 2)
    np.testing.assert_allclose(gradient.numpy(), [[-1 / 3, -1 / 3, -1 / 3], [0.5, 0, 0]], rtol=1e-6)


def test_the_metrics_use_the_aggregation_of_the_loss():
    log_probs = torch.tensor([[math.log(2.0), 0.0, 0.0], [0.0, 0.0, 0.0]])
    for aggregation, share in {"token_mean": 1 / 4, "sequence_mean": 1 / 6}.items():
        _, metrics = clipped_policy_loss(
            log_probs, torch.zeros(2, 3), torch.ones(2), LENGTHS_3_AND_1, aggregation=aggregation
        )
        assert metrics["clip_share"] == pytest.approx(share)
        assert metrics["approx_kl"] == pytest.approx(share * (1 - math.log(2)), rel=1e-5)


def test_a_row_without_tokens_is_no_completion():
    mask = torch.tensor([[True, True], [False, False]])
    loss, _ = clipped_policy_loss(
        torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([3.0, 5.0]), mask, aggregation="sequence_mean"
    )
    assert loss.item() == -3


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_parts_add_up_with_every_option(aggregation):
    generator = torch.Generator().manual_seed(0)
    log_probs, old, reference, engine = (-torch.rand(6, 4, generator=generator) for _ in range(4))
    advantages = torch.randn(6, generator=generator)
    mask = torch.rand(6, 4, generator=generator) < 0.7
    mask[:, 0] = True

    def part(rows, **totals):
        return clipped_policy_loss(
            log_probs[rows],
            old[rows],
            advantages[rows],
            mask[rows],
            aggregation=aggregation,
            reference_log_probs=reference[rows],
            kl_weight=0.3,
            engine_log_probs=engine[rows],
            **totals,
        )

    whole, metrics = part(slice(None))
    parts = [part(rows, num_tokens=int(mask.sum()), num_completions=6) for rows in (slice(0, 2), slice(2, 6))]
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(whole.item(), rel=1e-5)
    for name in metrics:
        assert sum(m[name] for _, m in parts) == pytest.approx(metrics[name], rel=1e-5)


def test_the_kl_to_a_reference_by_hand():
    log_probs = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    reference = torch.tensor([[math.log(2.0), 0.0, -math.inf]])
    mask = torch.tensor([[True, True, False]])
    loss, metrics = clipped_policy_loss(
        log_probs, torch.zeros(1, 3), torch.zeros(1), mask, reference_log_probs=reference, kl_weight=0.5
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    kl = (2 - math.log(2) - 1 + 0) / 2
    assert metrics["reference_kl"] == pytest.approx(kl, rel=1e-6)
    assert loss.item() == pytest.approx(0.5 * kl, rel=1e-6)
    np.testing.assert_allclose(
        gradient.numpy(), [[0.5 * (1 - 2) / 2, 0, 0]], rtol=1e-6
    )  # 1 - e^d, where e^d = 2 is the reference's probability over the policy's


def test_a_reference_without_weight_is_only_measured():
    plain, _ = clipped_policy_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1) > 0)
    loss, metrics = clipped_policy_loss(
        torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1) > 0, reference_log_probs=torch.ones(1, 1)
    )
    assert loss == plain
    assert metrics["reference_kl"] == pytest.approx(math.e - 2, rel=1e-6)


def test_truncated_importance_sampling_by_hand():
    """The trainer's probabilities are 1.5, 8 (capped at 2) and 1 / 4 times the engine's. The last token is masked."""
    old = torch.tensor([[math.log(1.5), math.log(8.0), -math.log(4.0), math.inf]])
    log_probs = old.detach().clone().requires_grad_()
    mask = torch.tensor([[True, True, True, False]])
    loss, _ = clipped_policy_loss(
        log_probs, old, torch.tensor([3.0]), mask, engine_log_probs=torch.zeros(1, 4), importance_cap=2.0
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    weights = np.array([[1.5, 2, 0.25, 0]])
    assert loss.item() == pytest.approx(-3 * weights.sum() / 3, rel=1e-6)
    np.testing.assert_allclose(gradient.numpy(), -3 * weights / 3, rtol=1e-6)


def test_the_gap_between_trainer_and_engine_by_hand():
    log_probs = torch.tensor([[math.log(1.5), math.log(8.0), -math.log(4.0), math.inf]])
    mask = torch.tensor([[True, True, True, False]])
    gap = log_prob_gap(log_probs, torch.zeros(1, 4), mask)
    assert gap["log_prob_gap_mean"] == pytest.approx(math.log(1.5 * 8 * 4) / 3, rel=1e-6)
    assert gap["log_prob_gap_max"] == pytest.approx(math.log(8), rel=1e-6)
    assert log_prob_gap(log_probs, log_probs, mask & False) == {"log_prob_gap_mean": 0.0, "log_prob_gap_max": 0.0}


def test_the_importance_weights_are_constants_to_the_gradient():
    """The importance weights have no gradient, even if the old log-probabilities are the trained ones."""
    log_probs = torch.tensor([[math.log(1.5)]], requires_grad=True)
    loss, _ = clipped_policy_loss(
        log_probs, log_probs, torch.ones(1), torch.ones(1, 1) > 0, engine_log_probs=torch.zeros(1, 1)
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert loss.item() == pytest.approx(-1.5)
    assert gradient.item() == 0  # the old log-probabilities are the trained ones, so the ratio is always 1


def test_advantages_may_differ_between_tokens():
    advantages = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 9.0, 9.0]])
    loss, _ = clipped_policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), advantages, LENGTHS_3_AND_1)
    assert loss.item() == -(1 + 2 + 3 - 4) / 4


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"aggregation": "mean"}, "aggregation is 'mean'; give one of token_mean, sequence_mean"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0; give a number of at least 0"),
        ({"importance_cap": 0.0}, "importance_cap is 0.0; give a number above 0"),
    ],
)
def test_an_option_out_of_range_is_refused(option, message):
    with pytest.raises(ValueError, match=message):
        loss_of(1.0, 1.0, **option)


def test_the_value_loss_by_hand():
    """The return is 1, the old value 0, and the clip 0.2.

    The six new values are: equal to the old one, clipped, farther from the return (-0.5), beyond it (3), masked, and
    without a return.
    """
    values = torch.tensor([[0.0, 0.5, -0.5, 3.0, math.inf, 7.0]], requires_grad=True)
    returns = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, math.nan]])
    mask = torch.tensor([[True, True, True, True, False, True]])
    loss, metrics = clipped_value_loss(values, torch.zeros(1, 6), returns, mask, clip=0.2)
    (gradient,) = torch.autograd.grad(loss, values)
    assert loss.item() == pytest.approx((1 + 0.8**2 + 1.5**2 + 2**2) / 2 / 4, rel=1e-6)
    np.testing.assert_allclose(gradient.numpy(), [[-1 / 4, 0, -1.5 / 4, 2 / 4, 0, 0]], rtol=1e-6)
    assert metrics == {"value_clip_share": 1 / 4}


def test_parts_of_the_value_loss_add_up_and_an_empty_mask_gives_0():
    values = torch.tensor([[1.0], [2.0]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    whole, _ = clipped_value_loss(values, values, torch.zeros(2, 1), mask)
    parts = [clipped_value_loss(values[i], values[i], torch.zeros(1, 1), mask[i], num_tokens=2)[0] for i in ([0], [1])]
    assert whole.item() == pytest.approx((1 + 4) / 4)
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item())
    assert clipped_value_loss(values, values, values, ~mask)[0].item() == 0
    with pytest.raises(ValueError, match="clip is 0; give a number above 0"):
        clipped_value_loss(values, values, values, mask, clip=0)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("gap", [100.0, -100.0, 1e30, -1e30])
def test_ratios_that_would_overflow_are_clamped(gap, advantage):
    log_probs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    others = torch.tensor([[-1.0 - gap, -1.5]])
    loss, metrics = clipped_policy_loss(
        log_probs,
        others,
        torch.tensor([advantage]),
        torch.tensor([[True, True]]),
        reference_log_probs=torch.tensor([[-1.0 + gap, -1.5]]),
        kl_weight=0.1,
        engine_log_probs=others + torch.tensor([[gap, 0.0]]),
        importance_cap=1e9,
    )
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(map(math.isfinite, metrics.values()))
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()
    assert log_probs.grad[0, 0] == 0  # its log-ratio is clamped, which has no gradient
    assert log_probs.grad[0, 1] != 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["old", "reference", "engine"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("policy_loss", POLICY_LOSSES.values())
def test_a_token_without_a_finite_log_probability_counts_nowhere(policy_loss, aggregation, name, bad):
    def result(mask, bad):
        log_probs = (-torch.rand(2, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
        given = {other: torch.full((2, 3), -0.7) for other in ("old", "reference", "engine")}
        given[name][0, 1] = bad
        loss, metrics = policy_loss(
            log_probs,
            given["old"],
            torch.tensor([1.0, -2.0]),
            mask,
            aggregation=aggregation,
            max_new_tokens=3,
            reference_log_probs=given["reference"],
            kl_weight=0.1,
            engine_log_probs=given["engine"],
        )
        (gradient,) = torch.autograd.grad(loss, log_probs)
        return [loss.item(), *metrics.values(), *gradient.flatten().tolist()]

    every = torch.ones(2, 3, dtype=torch.bool)
    without = every.clone()
    without[0, 1] = False
    assert result(every, bad) == result(without, -0.7)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 3)])
def test_no_row_no_token_and_an_empty_mask_give_0(shape):
    log_probs = torch.full(shape, -0.5, requires_grad=True)
    none, zeros = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    for aggregation, policy_loss in itertools.product(AGGREGATIONS, POLICY_LOSSES.values()):
        loss, metrics = policy_loss(
            log_probs,
            zeros,
            torch.ones(shape[0]),
            none,
            aggregation=aggregation,
            max_new_tokens=3,
            reference_log_probs=zeros,
        )
        assert loss.item() == 0
        assert set(metrics.values()) == {0.0}
        assert not torch.autograd.grad(loss, log_probs)[0].any()
    assert clipped_value_loss(zeros, zeros, zeros, none)[0].item() == 0
    assert log_prob_gap(zeros, zeros, none) == {"log_prob_gap_mean": 0.0, "log_prob_gap_max": 0.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_return_or_old_value_that_is_not_finite_counts_nowhere(bad):
    values, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    old, returns = torch.tensor([[1.0, bad, 3.0]]), torch.tensor([[bad, 0.0, 1.0]])
    loss, metrics = clipped_value_loss(values, old, returns, mask)
    assert loss.item() == pytest.approx((3 - 1) ** 2 / 2)
    assert metrics["value_clip_share"] == 0


def test_the_gap_leaves_out_non_finite_log_probabilities():
    gap = log_prob_gap(
        torch.tensor([[-1.0, -1.0]]), torch.tensor([[-math.inf, -1.5]]), torch.ones(1, 2, dtype=torch.bool)
    )
    assert gap == {"log_prob_gap_mean": 0.5, "log_prob_gap_max": 0.5}


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ({"clip_low": -1.0}, "clip_low is -1.0; give a number from 0 to below 1"),
        ({"clip_low": 1.0}, "clip_low is 1.0; give"),
        ({"clip_low": math.nan}, "clip_low is nan; give"),
        ({"clip_high": -0.1}, "clip_high is -0.1; give a number of at least 0"),
        ({"clip_high": math.nan}, "clip_high is nan; give"),
    ],
)
def test_clips_out_of_range_are_refused(clips, message):
    with pytest.raises(ValueError, match=message):
        clipped_policy_loss(
            torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1, dtype=torch.bool), **clips
        )
