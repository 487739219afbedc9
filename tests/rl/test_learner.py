import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl.advantages import FROM_REWARDS, mapp
from rl.engines.hf import HFEngine
from rl.groups import Groups, judge
from rl.learner import Learner
from rl.policy import Policy, build_policy, load_policy
from rl.rollout import Sampling
from rl.train_config import TrainConfig
from tests.support.runs import CONFIG as RUN
from tests.support.runs import assert_same_run, start, until_killed
from tests.support.tiny_llama import tiny_llama

CONFIG = TrainConfig(learning_rate=1e-3, warm_up_steps=1, max_grad_norm=1e9, micro_batch_size=3)
REWARDS = torch.tensor([[1, 0, 0, 1], [1, 1, math.nan, 1], [math.nan] * 4, [0.2, 0, 0, 1]])


def groups_of(task, policy, rewards=REWARDS, seed=0) -> Groups:
    """Return groups of completions of 1 to 6 tokens with the given rewards."""
    b, n = rewards.shape
    completions = HFEngine(policy).generate(task.pool(b, 0).texts, n, Sampling(6), seed=seed)
    successes = (rewards == 1).sum(1).numpy().astype(np.int32)
    group_size = (~rewards.isnan()).sum(1).numpy().astype(np.int32)
    belief = np.stack([np.linspace(0.2, 0.7, b), np.full(b, 0.02)], 1)
    correct = (rewards == 1).numpy()
    return Groups(np.arange(b, dtype=np.int32), completions, rewards, successes, group_size, correct, belief)


def gradient(learner: Learner) -> list[torch.Tensor]:
    """Return the gradient of every parameter in the first step: ten times Adam's first moment."""
    return [10 * state["exp_avg"] for state in learner.state_dict()["optimizer"]["state"].values()]


def first_gradient(policy: Policy, config: TrainConfig, groups: Groups, value_head=None) -> list[torch.Tensor]:
    learner = Learner(config, replace(policy, model=copy.deepcopy(policy.model)))
    if value_head is not None:
        learner.load_state_dict(learner.state_dict() | {"value_head": value_head})
    learner.update(groups, 0)
    return gradient(learner)


def assert_close(actual, wanted, atol=1e-6):
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-3)


def log_probs_of(policy, groups):
    out = groups.completions
    prompt = torch.arange(len(out.tokens)) // out.group_size
    return policy.score(out.prompt_tokens[prompt], out.prompt_mask[prompt], out.tokens, out.mask).log_probs


def value_head_of(policy):
    generator = torch.Generator().manual_seed(5)
    return {"weight": torch.randn(policy.hidden_size, generator=generator) / 10, "bias": torch.tensor([0.2])}


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("advantage", FROM_REWARDS)
def test_one_step_is_the_policy_gradient_of_the_whole_batch(task, policy, advantage, aggregation):
    """Ratios are 1 in the first step, so the loss has the gradient of the mean advantage times log-probability."""
    groups = groups_of(task, policy)
    actual = first_gradient(policy, replace(CONFIG, advantage=advantage, aggregation=aggregation), groups)
    mask = groups.completions.mask
    per_token = torch.where(mask, log_probs_of(policy, groups), 0.0) * FROM_REWARDS[advantage](REWARDS).reshape(-1, 1)
    judged, length = ~REWARDS.isnan().flatten(), mask.sum(1)
    if aggregation == "token_mean":
        objective = per_token.sum() / length[judged].sum()
    else:
        objective = (per_token.sum(1) / length).sum() / judged.sum()
    assert_close(actual, torch.autograd.grad(-objective, list(policy.model.parameters())))
    assert any(one.abs().max() > 1e-3 for one in actual)
    assert len(set(length[judged].tolist())) > 1  # otherwise the two means would be equal


def test_one_step_with_mapp_is_the_policy_gradient_of_every_judged_completion(task, policy):
    groups = groups_of(task, policy)
    actual = first_gradient(policy, replace(CONFIG, advantage="mapp"), groups)
    verdicts = torch.where(REWARDS.isnan(), REWARDS, (REWARDS == 1).float())
    advantages = mapp(verdicts, *torch.as_tensor(groups.belief).T).reshape(-1, 1)
    mask, judged = groups.completions.mask, ~REWARDS.isnan().flatten()
    assert (advantages[judged] != 0).all()  # also in the group whose judged rewards are all 1
    per_token = torch.where(mask, log_probs_of(policy, groups), 0.0) * advantages
    objective = per_token.sum() / mask.sum(1)[judged].sum()
    assert_close(actual, torch.autograd.grad(-objective, list(policy.model.parameters())))


def test_one_step_of_ppo_by_hand(task, policy):
    """The expected loss is computed from each completion alone, without padding. The first step clips no value."""
    groups = groups_of(task, policy)
    saved = value_head_of(policy)
    config = replace(CONFIG, advantage="gae", gae_lambda=0.9, value_weight=0.3)
    weight, bias = (saved[name].clone().requires_grad_() for name in ("weight", "bias"))
    estimated, objective, squares = [], [], []
    out = groups.completions
    for row, reward in enumerate(REWARDS.flatten().tolist()):
        if math.isnan(reward):
            continue
        prompt = out.prompt_tokens[row // 4][out.prompt_mask[row // 4] > 0]
        tokens = out.tokens[row][out.mask[row]]
        whole = policy.model(torch.cat([prompt, tokens])[None], output_hidden_states=True)
        before = slice(len(prompt) - 1, len(prompt) + len(tokens) - 1)
        objective += whole.logits[0, before].log_softmax(-1)[range(len(tokens)), tokens]
        values = whole.hidden_states[-1][0, before] @ weight + bias
        v = [*values.tolist(), 0.0]
        advantage, reversed_advantages = 0.0, []
        for t in reversed(range(len(tokens))):
            advantage = (reward if t == len(tokens) - 1 else 0.0) + v[t + 1] - v[t] + 0.9 * advantage
            reversed_advantages.append(advantage)
        advantages = torch.tensor(reversed_advantages[::-1])
        estimated += advantages
        squares += (values - (advantages + values.detach())).square()
    advantages = torch.stack(estimated)
    advantages = (advantages - advantages.mean()) / advantages.std()
    loss = (-torch.stack(objective) * advantages).mean() + 0.3 * torch.stack(squares).mean() / 2
    wanted = torch.autograd.grad(loss, [*policy.model.parameters(), weight, bias])
    assert_close(first_gradient(policy, config, groups, saved), wanted, atol=3e-6)


@pytest.mark.slow
def test_ppo_learns_the_task(task, policy):
    """The share of correct completions rises from a tenth, which is chance, to about half."""
    learner = Learner(
        replace(CONFIG, advantage="gae", learning_rate=3e-3, micro_batch_size=32, max_grad_norm=1.0), policy
    )
    pool, engine, rng = task.pool(30, 0), HFEngine(policy), np.random.default_rng(0)
    accuracy = []
    for step in range(200):
        prompt_ids = rng.choice(30, 4, replace=False)
        prompts = pool.take(prompt_ids.tolist()).texts
        completions = engine.generate(prompts, 8, Sampling(3), seed=step)
        groups = judge(task, pool, prompt_ids, completions)
        accuracy.append(float(groups.rewards.mean()))
        learner.update(groups, step)
    assert np.mean(accuracy[:20]) < 0.2
    assert np.mean(accuracy[-20:]) > 0.4


def test_the_first_values_are_zero(task, policy):
    """With lambda 1 the return of every token is the reward. The values are 0, so the loss is half its mean square."""
    groups = groups_of(task, policy)
    metrics = Learner(replace(CONFIG, advantage="gae", gae_lambda=1.0), policy).update(groups, 0)
    tokens = groups.completions.mask.sum(1)
    judged = ~REWARDS.isnan().flatten()
    wanted = (REWARDS.flatten().square() * tokens)[judged].sum() / tokens[judged].sum() / 2
    assert metrics["policy/value_loss"] == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"advantage": "gae"},
        {"kl_weight": 0.5},
        {"advantage": "gae", "kl_weight": 0.5, "importance_cap": 2.0, "aggregation": "sequence_mean"},
    ],
)
def test_micro_batches_change_nothing_but_memory(task, policy, options):
    groups = groups_of(task, policy)
    other = replace(policy, model=copy.deepcopy(policy.model))
    state = Learner(replace(CONFIG, **options), policy).state_dict()
    state = copy.deepcopy(state) | ({"value_head": value_head_of(policy)} if "advantage" in options else {})
    gradients, metrics = [], []
    for size in (1, 3, 256):
        # The reference policy keeps the weights that `other` has now.
        learner = Learner(replace(CONFIG, **options, micro_batch_size=size), other)
        learner.load_state_dict(state)
        with torch.no_grad():
            other.model.model.norm.weight += 0.1  # move the policy away from the reference policy
        metrics.append(learner.update(groups, 0))
        gradients.append(gradient(learner))
        other.model.load_state_dict(state["policy"])
    for one, more in zip(gradients[1:], metrics[1:], strict=True):
        assert_close(gradients[0], one)
        assert more == pytest.approx(metrics[0], rel=1e-4, abs=1e-6)
    assert ("policy/reference_kl" in metrics[0]) == ("kl_weight" in options)


def test_the_kl_to_the_reference_acts_where_there_is_no_advantage(task, policy):
    """The KL of a token is e^d - d - 1, where d is the reference's log-probability less the policy's.

    Its derivative with respect to the policy's log-probability is 1 - e^d.
    """
    learner = Learner(replace(CONFIG, kl_weight=0.5), replace(policy, model=copy.deepcopy(policy.model)))
    moved = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=1)
    learner.load_state_dict(learner.state_dict() | {"policy": moved.model.state_dict()})
    groups = groups_of(task, moved, torch.ones(4, 4))
    mask = groups.completions.mask
    first = learner.update(groups, 0)
    log_probs = log_probs_of(moved, groups)
    slope = (1 - (log_probs_of(policy, groups) - log_probs).exp()).detach()
    surrogate = 0.5 * (slope * log_probs)[mask].mean()
    assert_close(gradient(learner), torch.autograd.grad(surrogate, list(moved.model.parameters())))
    later = [learner.update(groups, step)["policy/reference_kl"] for step in range(1, 30)]
    assert later[-1] < 0.3 * first["policy/reference_kl"]


def test_without_a_kl_weight_nothing_happens_where_there_is_no_advantage(task, policy):
    learner = Learner(CONFIG, policy)
    before = copy.deepcopy(learner.state_dict())
    groups = groups_of(task, policy, torch.ones(4, 4))
    metrics = learner.update(groups, 0)
    assert metrics["policy/loss"] == metrics["policy/grad_norm"] == 0
    assert math.isnan(metrics["policy/log_prob_gap_mean"])  # no log-probability was compared
    assert before["optimizer"] == learner.state_dict()["optimizer"]
    assert all(torch.equal(w, before["policy"][name]) for name, w in policy.model.state_dict().items())


def shifted(groups, by):
    """Return the groups, with `by` added to the engine's log-probabilities, so that they differ from the trainer's."""
    return groups._replace(completions=groups.completions._replace(log_probs=groups.completions.log_probs + by))


@pytest.mark.parametrize(("by", "weight"), [(0.5, math.exp(-0.5)), (-0.2, math.exp(0.2)), (-2.0, 3.0)])
def test_importance_weights_correct_a_deviating_engine(task, policy, by, weight):
    """The engine's log-probabilities are shifted by `by`, so every token has the weight e^-by, capped at 3.

    The ratios of PPO refer to the trainer's own policy, so none of them is clipped.
    """
    groups = groups_of(task, policy)
    exact = first_gradient(policy, CONFIG, groups)
    config = replace(CONFIG, importance_cap=3.0)
    assert_close(first_gradient(policy, config, shifted(groups, by)), [weight * one for one in exact], atol=1e-5)
    metrics = Learner(config, policy).update(shifted(groups, by), 0)
    assert metrics["policy/approx_kl"] == metrics["policy/clip_share"] == 0
    assert metrics["policy/log_prob_gap_mean"] == pytest.approx(abs(by), abs=1e-5)
    assert metrics["policy/log_prob_gap_max"] == pytest.approx(abs(by), abs=1e-5)


def test_ratios_are_to_the_log_probabilities_of_the_first_pass(task, policy):
    """The ratios use the trainer's log-probabilities before the update, and not the engine's, which differ by 1."""
    groups = shifted(groups_of(task, policy), 1.0)
    config = replace(CONFIG, importance_cap=2.0, updates_per_batch=2)
    other = replace(policy, model=copy.deepcopy(policy.model))
    before = log_probs_of(policy, groups)
    Learner(replace(config, updates_per_batch=1), other).update(groups, 0)
    log_ratio = log_probs_of(other, groups) - before
    trained = (REWARDS - REWARDS.nanmean(1, keepdim=True)).nan_to_num().flatten() != 0
    mask = groups.completions.mask
    kl = (log_ratio.exp() - 1 - log_ratio)[mask & trained[:, None]].sum() / mask[~REWARDS.isnan().flatten()].sum()
    metrics = Learner(config, policy).update(groups, 0)
    assert metrics["policy/approx_kl"] == pytest.approx(kl.item(), rel=1e-3)
    assert kl > 1e-4


@pytest.mark.parametrize("importance_cap", [0.0, 2.0])
def test_the_gap_is_measured_on_trained_tokens_before_the_first_step(task, policy, importance_cap):
    """Engine and trainer differ by 1 at the first tokens of the last two groups, and by 1/4 at their other tokens.

    The first two groups have no advantage and differ by 100, which must not count.
    """
    groups = groups_of(task, policy, torch.tensor([[1.0, 1, 1], [math.nan, 0, 0], [0, 0, 1], [1, 0, 0]]))
    by = torch.full(groups.completions.mask.shape, -0.25)
    by[:, 0] = 1.0
    by[:6] = 100.0
    config = replace(CONFIG, importance_cap=importance_cap, updates_per_batch=3, learning_rate=0.1)
    metrics = Learner(config, policy).update(shifted(groups, by), 0)
    tokens = int(groups.completions.mask[6:].sum())
    assert 6 < tokens < 36
    assert metrics["policy/log_prob_gap_mean"] == pytest.approx((6 + 0.25 * (tokens - 6)) / tokens, rel=1e-5)
    assert metrics["policy/log_prob_gap_max"] == pytest.approx(1.0, rel=1e-5)


def test_the_gap_of_bfloat16(task, policy):
    """A bfloat16 engine and trainer see the same policy; a float32 engine samples from another policy."""
    rounded = replace(policy, precision="bfloat16")
    gaps = {}
    for name, sampler, trainer in (("32", policy, policy), ("16", rounded, rounded), ("mixed", policy, rounded)):
        groups = groups_of(task, sampler, REWARDS.repeat(8, 1))
        fresh = replace(trainer, model=copy.deepcopy(trainer.model))
        gaps[name] = Learner(CONFIG, fresh).update(groups, 0)["policy/log_prob_gap_mean"]
    assert gaps["32"] < 1e-6
    assert 1e-4 < gaps["mixed"] < 1e-2
    assert gaps["16"] < gaps["mixed"] / 2  # 0 if passes with and without a key-value cache round alike


@pytest.mark.parametrize("advantage", ["grpo", "gae"])
def test_gradient_checkpointing_changes_nothing_but_memory(task, policy, advantage):
    groups = groups_of(task, policy)
    calls = []
    policy.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    config = replace(CONFIG, advantage=advantage)
    plain = first_gradient(policy, config, groups)
    once, _ = sum(calls), calls.clear()
    assert_close(first_gradient(policy, replace(config, gradient_checkpointing=True), groups), plain)
    assert sum(calls) == 2 * once
    completions = HFEngine(policy).generate(["12="], 4, Sampling(3), seed=3)
    learner = Learner(replace(config, gradient_checkpointing=True, learning_rate=1e-30), policy)
    learner.update(groups, 0)
    again = HFEngine(policy).generate(["12="], 4, Sampling(3), seed=3)
    assert torch.equal(completions.log_probs, again.log_probs)


@pytest.mark.parametrize("micro_batch_size", [3, 256])
@pytest.mark.parametrize("advantage", ["grpo", "gae"])
def test_shared_prompts_change_nothing_but_time(task, policy, advantage, micro_batch_size):
    groups = groups_of(task, policy)
    read = []
    policy.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, arguments: read.append(arguments[0].numel())
    )
    config = replace(CONFIG, advantage=advantage, micro_batch_size=micro_batch_size)
    plain = first_gradient(policy, config, groups)
    whole, _ = sum(read), read.clear()
    assert_close(first_gradient(policy, replace(config, share_prompts=True), groups), plain)
    assert sum(read) < whole


def test_shared_prompts_exclude_gradient_checkpointing():
    with pytest.raises(ValueError, match="share_prompts is True with gradient_checkpointing, which excludes it"):
        TrainConfig(share_prompts=True, gradient_checkpointing=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"advantage": "gae", "updates_per_batch": 2},
        {"kl_weight": 0.1, "importance_cap": 2.0, "updates_per_batch": 2},
    ],
)
def test_a_killed_run_continues_to_the_same_numbers(task, tmp_path, options):
    config = replace(RUN, **options)
    whole = start(task, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "cut", config, progress=until_killed(5))
    resumed = start(task, tmp_path / "cut", config, resume=True)
    assert_same_run(whole, resumed)
    name = "policy/value_loss" if "advantage" in options else "policy/reference_kl"
    assert whole[0][7][name] > 0


def test_a_model_by_path_with_a_chat_template_trains(task, policy, tmp_path):
    tokenizer = policy.tokenizer
    tokenizer.chat_template = "{% for m in messages %}={{ m['content'] }}{% endfor %}"
    tiny_llama(tokenizer, attention_dropout=0.5).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    before = load_policy(tmp_path / "model").model.state_dict()
    trained = replace(load_policy(tmp_path / "model"), precision="bfloat16")
    config = replace(RUN, steps=2, advantage="gae", kl_weight=0.1, importance_cap=2.0, gradient_checkpointing=True)
    records, _ = start(task, tmp_path / "run", config, policy=trained)
    for record in records[:2]:
        assert 0 < record["policy/grad_norm"] < 100
        assert 0 <= record["policy/log_prob_gap_mean"] <= record["policy/log_prob_gap_max"] < 0.1
    moved = [name for name, weight in trained.model.state_dict().items() if not torch.equal(weight, before[name])]
    assert len(moved) == len(before)


def test_truncated_sampling_is_not_clipped_in_the_first_step(policy, task):
    """Log-probabilities under top-p sampling exceed the policy's. Ratios to them would be clipped from the start."""
    groups = groups_of(task, policy)
    completions = groups.completions._replace(log_probs=groups.completions.log_probs + 0.5)
    groups = groups._replace(completions=completions)
    assert Learner(replace(CONFIG, top_p=0.5, learning_rate=1e-30), policy).update(groups, 0)["policy/clip_share"] == 0
    assert Learner(replace(CONFIG, learning_rate=1e-30), policy).update(groups, 0)["policy/clip_share"] > 0


def weights_of(learner: Learner) -> list[torch.Tensor]:
    state = learner.state_dict()
    moments = [value for entry in state["optimizer"]["state"].values() for value in entry.values()]
    head = list((state["value_head"] or {}).values())
    return [value.clone() for value in [*state["policy"].values(), *moments, *head]]


@pytest.mark.parametrize("advantage", ["dr_grpo", "gae"])
def test_a_step_with_a_non_finite_gradient_is_skipped(task, policy, advantage, caplog):
    """Rewards near the largest float32 make the gradient overflow. Later steps equal those without this batch."""
    good, huge = groups_of(task, policy), groups_of(task, policy, REWARDS * 3e38)
    config = replace(CONFIG, advantage=advantage, updates_per_batch=2)
    learner = Learner(config, replace(policy, model=copy.deepcopy(policy.model)))
    untouched = Learner(config, replace(policy, model=copy.deepcopy(policy.model)))
    for one in (learner, untouched):
        assert one.update(good, 0)["policy/skipped_steps"] == 0
    before = weights_of(learner)
    metrics = learner.update(huge, 1)
    assert metrics["policy/skipped_steps"] == 2
    assert not math.isfinite(metrics["policy/grad_norm"])
    assert "this optimiser step is skipped" in caplog.text
    assert_close(weights_of(learner), before, atol=0)
    for one in (learner, untouched):
        assert one.update(good, 2)["policy/skipped_steps"] == 0
    for one, other in zip(weights_of(learner), weights_of(untouched), strict=True):
        assert torch.equal(one, other)
        assert one.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"importance_cap": 2.0}, {"advantage": "gae"}, {"kl_weight": 0.1}])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_tokens_without_a_finite_log_probability_do_not_count(task, policy, bad, options):
    groups = groups_of(task, policy)
    log_probs = groups.completions.log_probs.clone()
    log_probs[0, 0] = log_probs[5] = bad  # one token, and a whole completion
    broken = groups._replace(completions=groups.completions._replace(log_probs=log_probs))
    learner = Learner(replace(CONFIG, **options), policy)
    metrics = learner.update(broken, 0)
    lost = int(groups.completions.mask[5].sum()) if REWARDS.flatten()[5].isfinite() else 0
    assert metrics["policy/non_finite_log_probs"] == 1 + lost
    assert metrics["policy/skipped_steps"] == 0
    assert all(map(math.isfinite, metrics.values()))
    assert metrics["policy/grad_norm"] > 0
    assert all(value.isfinite().all() for value in weights_of(learner))


@pytest.mark.parametrize("unknown", [math.inf, -math.inf])
@pytest.mark.parametrize("advantage", ["grpo", "reinforce_pp", "gae"])
def test_infinite_rewards_train_like_unknown_rewards(task, policy, advantage, unknown):
    config = replace(CONFIG, advantage=advantage)
    known = groups_of(task, policy)
    wanted = first_gradient(policy, config, known)
    assert_close(first_gradient(policy, config, known._replace(rewards=REWARDS.nan_to_num(unknown))), wanted, atol=0)


@pytest.mark.parametrize("advantage", ["grpo", "gae"])
def test_completions_without_tokens_have_no_loss_and_no_gradient(task, policy, advantage):
    groups = groups_of(task, policy)
    nothing = groups.completions._replace(mask=groups.completions.mask & False)
    metrics = Learner(replace(CONFIG, advantage=advantage), policy).update(groups._replace(completions=nothing), 0)
    assert (metrics["policy/loss"], metrics["policy/grad_norm"], metrics["policy/skipped_steps"]) == (0, 0, 0)
