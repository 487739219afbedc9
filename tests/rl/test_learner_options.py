"""Losses, filters and mini-batches that the learner takes from the settings."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl import finish
from rl.advantages import grpo
from rl.learner import Learner
from rl.policy import build_policy
from rl.token_advantages import rewards_per_token
from tests.rl.test_learner import CONFIG, REWARDS, assert_close, first_gradient, groups_of, log_probs_of, shifted

KNOWN = torch.tensor([[1.0, 0, 0, 1], [1, 1, 0, 1], [0.2, 0, 0, 1]])


def copied(policy):
    return replace(policy, model=copy.deepcopy(policy.model))


@pytest.mark.parametrize("policy_loss", ["ppo", "gspo", "cispo"])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_the_first_step_is_the_policy_gradient_with_every_loss(task, policy, policy_loss, aggregation):
    groups = groups_of(task, policy)
    config = replace(CONFIG, policy_loss=policy_loss, aggregation=aggregation)
    learner = Learner(config, copied(policy), max_new_tokens=6)
    learner.update(groups, 0)
    actual = [10 * state["exp_avg"] for state in learner.state_dict()["optimizer"]["state"].values()]
    mask, judged = groups.completions.mask, ~REWARDS.isnan().flatten()
    per_token = torch.where(mask, log_probs_of(policy, groups), 0.0) * grpo(REWARDS).reshape(-1, 1)
    means = {
        "token_mean": per_token.sum() / mask.sum(1)[judged].sum(),
        "sequence_mean": (per_token.sum(1) / mask.sum(1)).sum() / judged.sum(),
        "constant_length": per_token.sum() / (judged.sum() * 6),
    }
    assert_close(actual, torch.autograd.grad(-means[aggregation], list(policy.model.parameters())))


def test_constant_length_needs_a_length(task, policy):
    with pytest.raises(ValueError, match="max_new_tokens is None with constant_length"):
        Learner(replace(CONFIG, aggregation="constant_length"), policy).update(groups_of(task, policy), 0)


def with_finish(groups, truncated):
    reasons = np.where(np.array(truncated), finish.LENGTH, finish.END_OF_SEQUENCE).astype(np.int8)
    return groups._replace(finish=reasons.reshape(groups.rewards.shape))


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("options", [{}, {"advantage": "reinforce_pp_tokens"}])
def test_truncated_completions_are_not_trained_on(task, policy, options, aggregation):
    """As in TRL, truncated completions give no gradient, but their rewards stay in the baseline of their group."""
    truncated = np.arange(16) % 3 == 0
    groups = with_finish(groups_of(task, policy), truncated)
    config = replace(CONFIG, mask_truncated=True, aggregation=aggregation, **options)
    actual = first_gradient(policy, config, groups)
    mask = groups.completions.mask.clone()
    mask[torch.tensor(truncated)] = False
    masked = groups._replace(completions=groups.completions._replace(mask=mask))
    assert_close(actual, first_gradient(policy, replace(config, mask_truncated=False), masked))
    everything = first_gradient(policy, replace(config, mask_truncated=False), groups)
    assert any((one - other).abs().max() > 1e-3 for one, other in zip(actual, everything, strict=True))
    assert first_gradient(policy, config, with_finish(groups, np.zeros(16)))[0].equal(everything[0])


def test_truncated_completions_stay_in_the_baseline_of_their_group(task, policy):
    groups = with_finish(groups_of(task, policy, torch.tensor([[1.0, 1, 0]])), [False, False, True])
    config = replace(CONFIG, mask_truncated=True, advantage="dr_grpo")
    actual = first_gradient(policy, config, groups)
    log_probs, mask = log_probs_of(policy, groups)[:2], groups.completions.mask[:2]
    objective = log_probs[mask].sum() * (1 - 2 / 3) / mask.sum()
    assert_close(actual, torch.autograd.grad(-objective, list(policy.model.parameters())))


def test_a_filter_without_reasons_is_refused(task, policy):
    with pytest.raises(ValueError, match=r"groups.finish is None with mask_truncated; give it, or"):
        Learner(replace(CONFIG, mask_truncated=True), policy).update(groups_of(task, policy), 0)


@pytest.mark.parametrize("options", [{}, {"kl_weight": 0.2}, {"policy_loss": "gspo", "aggregation": "sequence_mean"}])
def test_a_mini_batch_is_an_update_of_its_own(task, policy, options):
    """One update in mini-batches of whole groups equals one update per mini-batch.

    This holds where the old log-probabilities are the engine's, as then they do not depend on the current weights.
    """
    groups = groups_of(task, policy, torch.cat([KNOWN, torch.ones(1, 4), KNOWN[:1]]))
    config = replace(CONFIG, advantage="dr_grpo", learning_rate=1e-2, **options)
    whole, parts = copied(policy), copied(policy)
    reference = Learner(replace(config, mini_batch_size=8), whole)
    metrics = reference.update(groups, 0)
    learner, separate = Learner(config, parts), []
    for rows in ([0, 1], [2, 3], [4]):
        separate.append(learner.update(groups.take(np.array(rows)), 0))
    assert_close(whole.model.parameters(), parts.model.parameters(), atol=1e-5)
    for name in ("policy/loss", "policy/grad_norm", "policy/clip_share", "policy/approx_kl"):
        assert metrics[name] == pytest.approx(np.mean([one[name] for one in separate]), rel=1e-3, abs=1e-6)
    assert metrics["policy/approx_kl"] > 1e-6  # the later mini-batches are off-policy


def test_mini_batches_keep_the_log_probabilities_from_before_the_first_step(task, policy):
    """With an `importance_cap`, the old log-probabilities are the trainer's, and without one the engine's.

    Both agree before the first step, so the results agree too.
    """
    groups = groups_of(task, policy, KNOWN)
    config = replace(CONFIG, learning_rate=1e-2, mini_batch_size=4, updates_per_batch=2)
    found = []
    for cap in (0.0, 10.0):
        trained = copied(policy)
        metrics = Learner(replace(config, importance_cap=cap), trained).update(groups, 0)
        found.append((list(trained.model.parameters()), metrics["policy/approx_kl"]))
    assert_close(found[0][0], found[1][0], atol=1e-4)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-2)
    assert found[0][1] > 1e-4


def test_a_mini_batch_without_signal_takes_no_step(task, policy):
    groups = groups_of(task, policy, torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0]]))
    one = first_gradient(policy, replace(CONFIG, mini_batch_size=4), groups)
    assert_close(one, first_gradient(policy, CONFIG, groups.take(np.array([1]))), atol=0)


def verl_reinforce_pp(rewards, mask, log_probs, reference, beta, gamma):
    """Return the advantages by verl's apply_kl_penalty ("kl") and compute_reinforce_plus_plus_outcome_advantage."""
    scores = np.zeros(mask.shape)
    for row, reward in enumerate(rewards):
        scores[row, mask[row].sum() - 1] = reward
    per_token = scores - beta * (log_probs - reference) * mask
    returns, running = np.zeros(mask.shape), np.zeros(len(mask))
    for t in reversed(range(mask.shape[1])):
        running = per_token[:, t] + gamma * running
        returns[:, t] = running
        running = running * mask[:, t]
    inside = returns[mask]
    return (returns - inside.mean()) / np.sqrt(inside.var(ddof=1) + 1e-8)


@pytest.mark.parametrize("micro_batch_size", [1, 256])
@pytest.mark.parametrize(("beta", "gamma"), [(0.0, 1.0), (0.3, 0.9)])
def test_reinforce_pp_over_tokens_is_verls(task, policy, beta, gamma, micro_batch_size):
    options = {"advantage": "reinforce_pp_tokens", "discount": gamma, "reward_kl_weight": beta}
    config = replace(CONFIG, **options, micro_batch_size=micro_batch_size)
    moved = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=1)
    groups = groups_of(task, moved, KNOWN)
    learner = Learner(config, copied(policy))  # `policy` stays its reference policy
    learner.load_state_dict(learner.state_dict() | {"policy": moved.model.state_dict()})
    learner.update(groups, 0)
    actual = [10 * state["exp_avg"] for state in learner.state_dict()["optimizer"]["state"].values()]
    mask = groups.completions.mask
    log_probs = log_probs_of(moved, groups)
    ours, reference = (x.detach().double().numpy() for x in (log_probs, log_probs_of(policy, groups)))
    advantages = verl_reinforce_pp(KNOWN.flatten().numpy(), mask.numpy(), ours, reference, beta, gamma)
    objective = (torch.where(mask, log_probs, 0.0) * torch.tensor(advantages)).sum() / mask.sum()
    assert_close(actual, torch.autograd.grad(-objective, list(moved.model.parameters())), atol=1e-5)


def test_rewards_per_token_by_hand():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    log_probs = torch.log(torch.tensor([[0.5, 0.5, 0.2], [0.9, 1.0, 1.0]]))
    reference = torch.log(torch.tensor([[0.25, 0.5, 0.0], [0.9, 1.0, 1.0]]))
    found = rewards_per_token(
        torch.tensor([1.0, -2.0]), mask, log_probs=log_probs, reference_log_probs=reference, kl_weight=0.1
    )
    np.testing.assert_allclose(found.numpy(), [[-0.1 * math.log(2), 0, 1], [-2, 0, 0]], rtol=1e-6)


@pytest.mark.slow
def test_a_kl_penalty_alone_moves_the_policy_towards_the_reference(task, policy):
    """All rewards are equal, and the penalty pays for tokens that the reference likes more."""
    config = replace(CONFIG, advantage="reinforce_pp_tokens", reward_kl_weight=1.0, learning_rate=3e-4)
    learner = Learner(config, copied(policy))
    moved = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=1)
    learner.load_state_dict(learner.state_dict() | {"policy": moved.model.state_dict()})
    metrics = [
        learner.update(groups_of(task, learner._policy, torch.zeros(8, 4), seed=step), step) for step in range(40)
    ]
    kl = [one["policy/reference_kl"] for one in metrics]
    assert np.mean(kl[-5:]) < 0.7 * np.mean(kl[:5])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("share_prompts", [False, True])
@pytest.mark.parametrize("options", [{"reward_kl_weight": 0.1, "advantage": "gae"}, {"kl_weight": 0.1}, {}])
def test_a_kl_penalty_adds_no_rounding(task, policy, precision, share_prompts, options):
    """The policy is its reference and all rewards are 0: there is nothing to learn, whatever the engine says."""
    policy = replace(policy, precision=precision)
    groups = shifted(groups_of(task, policy, torch.zeros(8, 4)), 1e-6)
    options = options or {"reward_kl_weight": 0.1, "advantage": "reinforce_pp_tokens"}
    learner = Learner(replace(CONFIG, **options, share_prompts=share_prompts), copied(policy))
    assert learner.update(groups, 0)["policy/grad_norm"] == 0


def test_the_entropy_by_hand(task, policy):
    """The expected value is the entropy by torch.distributions at the trained tokens, at the rollouts' temperature."""
    groups = groups_of(task, policy)
    learner = Learner(replace(CONFIG, temperature=0.7, updates_per_batch=2, mini_batch_size=5), copied(policy))
    found = learner.update(groups, 0)["policy/entropy"]
    out = groups.completions
    prompt = torch.arange(len(out.tokens)) // out.group_size
    trained = (grpo(REWARDS).flatten() != 0)[:, None] & out.mask
    inputs = torch.cat([out.prompt_tokens[prompt], out.tokens], 1)
    attention = torch.cat([out.prompt_mask[prompt], out.mask.long()], 1)
    positions = (attention.cumsum(1) - 1).clamp_min(0)
    logits = policy.model(inputs, attention_mask=attention, position_ids=positions).logits
    before = logits[:, out.prompt_tokens.shape[1] - 1 : -1] / 0.7
    wanted = torch.distributions.Categorical(logits=before).entropy()[trained].mean()
    assert found == pytest.approx(wanted.item(), rel=1e-2)  # the later mini-batches see moved weights
    one = Learner(replace(CONFIG, temperature=0.7), copied(policy)).update(groups, 0)["policy/entropy"]
    assert one == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"policy_loss": "gspo", "aggregation": "constant_length"},
        {"policy_loss": "cispo", "aggregation": "sequence_mean", "mini_batch_size": 7},
        {"advantage": "reinforce_pp_tokens", "reward_kl_weight": 0.2, "discount": 0.9, "dual_clip": 3.0},
        {"advantage": "gae", "reward_kl_weight": 0.2, "mini_batch_size": 8, "importance_cap": 2.0},
    ],
)
def test_micro_batches_change_nothing_but_memory(task, policy, options):
    groups = shifted(groups_of(task, policy), 0.2)
    found = []
    for size in (1, 3, 256):
        trained = copied(policy)
        learner = Learner(replace(CONFIG, **options, micro_batch_size=size), trained, max_new_tokens=6)
        found.append((learner.update(groups, 0), list(trained.model.parameters())))
    for metrics, weights in found[1:]:
        assert metrics == pytest.approx(found[0][0], rel=1e-3, abs=1e-6)
        assert_close(weights, found[0][1], atol=1e-4)
