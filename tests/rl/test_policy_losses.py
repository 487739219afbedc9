"""Policy losses against the definitions of verl and TRL, written again in NumPy, and against numbers by hand.

The sources are verl's `verl/trainer/ppo/core_algos.py` (agg_loss, compute_policy_loss_vanilla, _gspo and _cispo) and
TRL's `trl/trainer/grpo_trainer.py` (loss_type dr_grpo and cispo, importance_sampling_level sequence).
"""

import math

import numpy as np
import pytest
import torch

from rl.losses import AGGREGATIONS, POLICY_LOSSES, cispo_loss, clipped_policy_loss, gspo_loss

LOW, HIGH = 0.2, 0.28
LENGTHS = (4, 1, 3, 2)
MASK = np.arange(5) < np.array(LENGTHS)[:, None]
RTOL = {"token_mean": 1e-12, "sequence_mean": 1e-6, "constant_length": 1e-12}  # the weights 1 / length are float32
OPTIONS = {"ppo": {"dual_clip": 1.5}, "gspo": {}, "cispo": {}}


def batch(seed: int = 0, spread: float = 0.6):
    """Return log-probabilities, old log-probabilities and advantages in float64; some ratios are clipped."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(1.0, MASK.shape)
    return old + rng.normal(0, spread, MASK.shape), old, np.array([1.5, -0.7, -2.0, 0.4])


def ours(policy_loss, log_probs, old, advantages, mask=MASK, **options):
    """Return the loss, its gradient and the metrics."""
    tensor = torch.tensor(log_probs, requires_grad=True)
    options = {"clip_low": LOW, "clip_high": HIGH, "max_new_tokens": 8} | options
    loss, metrics = policy_loss(tensor, torch.tensor(old), torch.tensor(advantages), torch.tensor(mask), **options)
    (gradient,) = torch.autograd.grad(loss, tensor)
    return loss.item(), gradient.numpy(), metrics


def verl_mean(per_token, aggregation):
    """Return verl's agg_loss: token-mean, seq-mean-token-mean and seq-mean-token-sum-norm with a constant factor."""
    if aggregation == "token_mean":
        return (per_token * MASK).sum() / MASK.sum()
    if aggregation == "sequence_mean":
        return ((per_token * MASK).sum(1) / MASK.sum(1)).mean()
    return (per_token * MASK).sum(1).mean() / 8


def verl_ppo(log_probs, old, advantages):
    ratio, a = np.exp(log_probs - old), advantages[:, None]
    first = np.maximum(-a * ratio, -a * np.clip(ratio, 1 - LOW, 1 + HIGH))
    return np.where(a < 0, np.minimum(-a * 1.5, first), first)


def verl_gspo(log_probs, old, advantages):
    mean = ((log_probs - old) * MASK).sum(1, keepdims=True) / MASK.sum(1, keepdims=True)
    ratio, a = np.exp(np.broadcast_to(mean, MASK.shape)), advantages[:, None]
    return np.maximum(-a * ratio, -a * np.clip(ratio, 1 - LOW, 1 + HIGH))


def verl_cispo(log_probs, old, advantages):
    return -np.clip(np.exp(log_probs - old), 1 - LOW, 1 + HIGH) * advantages[:, None] * log_probs


VERL = {"ppo": verl_ppo, "gspo": verl_gspo, "cispo": verl_cispo}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_the_loss_is_verls(name, aggregation):
    shares = []
    for seed in range(5):
        given = batch(seed)
        loss, _, metrics = ours(POLICY_LOSSES[name], *given, aggregation=aggregation, **OPTIONS[name])
        assert loss == pytest.approx(verl_mean(VERL[name](*given), aggregation), rel=RTOL[aggregation])
        shares.append(metrics["clip_share"])
    assert 0 < np.mean(shares) < 1


def slope(function, at):
    """Return the gradient by central differences."""
    found = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-6
        found[index] = (function(at + step) - function(at - step)) / 2e-6
    return found


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_gradient_of_the_clipped_loss_is_that_of_its_value(aggregation):
    log_probs, old, advantages = batch(1)
    _, gradient, _ = ours(clipped_policy_loss, log_probs, old, advantages, aggregation=aggregation, dual_clip=1.5)
    wanted = slope(lambda x: verl_mean(verl_ppo(x, old, advantages), aggregation), log_probs)
    np.testing.assert_allclose(gradient, wanted, atol=1e-7)


def test_the_gradient_of_gspo_is_that_of_trls_sequence_level_loss():
    """`gspo_loss` has one term per token, and TRL's loss one per completion. Their sequence means have one gradient."""
    for seed in range(3):
        log_probs, old, advantages = batch(seed, spread=0.3)

        def trl(x, old=old, advantages=advantages):
            ratio = np.exp(((x - old) * MASK).sum(1) / MASK.sum(1))
            return -np.minimum(ratio * advantages, np.clip(ratio, 1 - LOW, 1 + HIGH) * advantages).mean()

        loss, gradient, _ = ours(gspo_loss, log_probs, old, advantages, aggregation="sequence_mean")
        assert loss == pytest.approx(trl(log_probs), rel=1e-6)
        np.testing.assert_allclose(gradient, slope(trl, log_probs), atol=1e-7)


def test_the_gradient_of_cispo_is_the_clipped_weight_times_the_advantage():
    """TRL's cispo has the upper bound alone; a lower bound just above 0 changes nothing here."""
    log_probs, old, advantages = batch(2)
    _, gradient, metrics = ours(cispo_loss, log_probs, old, advantages, clip_low=1 - 1e-9)
    weight = np.minimum(np.exp(log_probs - old), 1 + HIGH)
    np.testing.assert_allclose(gradient, -weight * advantages[:, None] * MASK / MASK.sum(), atol=1e-12)
    assert metrics["clip_share"] == pytest.approx((np.exp(log_probs - old) > 1 + HIGH)[MASK].mean())


def test_the_constant_length_is_trls_dr_grpo():
    """TRL divides by the number of completions times max_completion_length."""
    log_probs, old, advantages = batch(3)
    loss, gradient, metrics = ours(clipped_policy_loss, log_probs, old, advantages, aggregation="constant_length")
    plain, plain_gradient, plain_metrics = ours(clipped_policy_loss, log_probs, old, advantages)
    assert loss == pytest.approx(plain * MASK.sum() / (4 * 8))
    np.testing.assert_allclose(gradient, plain_gradient * MASK.sum() / (4 * 8))
    assert metrics == plain_metrics  # metrics are means over tokens with every aggregation


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "bounded", "has_gradient"),
    [(5.0, -1.0, -3.0, 1, False), (2.0, -1.0, -2.0, 0, True), (5.0, 1.0, 1.28, 0, False), (0.1, -1.0, -0.8, 0, False)],
)
def test_the_dual_clip_by_hand(ratio, advantage, objective, bounded, has_gradient):
    """The bound 3 acts on large ratios where the advantage is negative, and nowhere else."""
    given = (np.array([[math.log(ratio)]]), np.zeros((1, 1)), np.array([advantage]), np.ones((1, 1), bool))
    loss, gradient, metrics = ours(clipped_policy_loss, *given, dual_clip=3.0)
    assert loss == pytest.approx(-objective)
    assert metrics["dual_clip_share"] == bounded
    assert (gradient[0, 0] != 0) == has_gradient


def test_gspo_by_hand():
    """Ratios of 4 and 1 have the geometric mean 2. Each of the two tokens has half of the gradient -2 * 0.5."""
    log_probs = np.log(np.array([[4.0, 1.0, 2.0]]))
    mask = np.array([[True, True, False]])
    loss, gradient, metrics = ours(gspo_loss, log_probs, np.zeros((1, 3)), np.array([0.5]), mask, clip_high=1.5)
    assert loss == pytest.approx(-2 * 0.5)
    np.testing.assert_allclose(gradient, [[-0.5, -0.5, 0]])
    assert metrics["clip_share"] == 0
    _, gradient, metrics = ours(gspo_loss, log_probs, np.zeros((1, 3)), np.array([0.5]), mask, clip_high=0.9)
    assert not gradient.any()  # the whole completion is clipped, also its token with the ratio 1
    assert metrics["clip_share"] == 1


def test_cispo_by_hand():
    """Weights of 1.28 (clipped) and 0.9 multiply the gradient; both tokens learn."""
    log_probs = np.log(np.array([[0.4, 0.9]]))
    old = np.log(np.array([[0.2, 1.0]]))
    loss, gradient, metrics = ours(cispo_loss, log_probs, old, np.array([2.0]), np.ones((1, 2), bool))
    assert loss == pytest.approx(-(1.28 * 2 * math.log(0.4) + 0.9 * 2 * math.log(0.9)) / 2)
    np.testing.assert_allclose(gradient, [[-1.28, -0.9]])
    assert metrics["clip_share"] == 0.5


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_parts_add_up(name, aggregation):
    """Losses, gradients and metrics of completions add up to the batch's, also with a KL term and engine weights."""
    log_probs, old, advantages = batch(4)
    reference, engine = (torch.tensor(old + shift) for shift in (0.3, -0.2))
    totals = {"num_tokens": int(MASK.sum()), "num_completions": 4}

    def part(rows):
        given = (log_probs[rows], old[rows], advantages[rows], MASK[rows])
        shared = {"reference_log_probs": reference[rows], "kl_weight": 0.3, "engine_log_probs": engine[rows]}
        return ours(POLICY_LOSSES[name], *given, aggregation=aggregation, **shared, **totals, **OPTIONS[name])

    loss, gradient, metrics = part(slice(None))
    parts = [part(slice(i, i + 1)) for i in range(4)]
    assert sum(one for one, _, _ in parts) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(np.concatenate([one for _, one, _ in parts]), gradient, rtol=1e-12)
    for metric, value in metrics.items():
        assert sum(one[metric] for _, _, one in parts) == pytest.approx(value, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_the_first_pass_has_the_policy_gradient(name):
    """Where the ratio is 1, every loss has the gradient of the mean advantage times log-probability."""
    log_probs, _, advantages = batch(5)
    _, gradient, metrics = ours(POLICY_LOSSES[name], log_probs, log_probs, advantages, **OPTIONS[name])
    np.testing.assert_allclose(gradient, -advantages[:, None] * MASK / MASK.sum(), rtol=1e-12)
    assert metrics["clip_share"] == metrics["approx_kl"] == 0


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("gap", [100.0, -100.0, 1e30])
def test_ratios_that_would_overflow_stay_finite(name, gap):
    log_probs, old, advantages = batch(6)
    old[:, 0] = log_probs[:, 0] - gap
    loss, gradient, metrics = ours(POLICY_LOSSES[name], log_probs, old, advantages, **OPTIONS[name])
    assert math.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert all(map(math.isfinite, metrics.values()))


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("ppo", {"dual_clip": 1.0}, "dual_clip is 1.0; give a number above 1, or 0"),
        ("ppo", {"dual_clip": math.nan}, "dual_clip is nan; give"),
        *((name, {"clip_low": 1.0}, "clip_low is 1.0; give") for name in POLICY_LOSSES),
        *((name, {"aggregation": "sum"}, "aggregation is 'sum'; give one of") for name in POLICY_LOSSES),
        ("gspo", {"aggregation": "constant_length", "max_new_tokens": None}, "max_new_tokens is None with constant"),
        ("cispo", {"aggregation": "constant_length", "max_new_tokens": 0}, "max_new_tokens is 0 with constant"),
    ],
)
def test_an_option_out_of_range_is_refused(name, option, message):
    with pytest.raises(ValueError, match=message):
        ours(POLICY_LOSSES[name], *batch(), **option)
