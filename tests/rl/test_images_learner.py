"""The learner with images: however a batch is split, each completion contributes the gradient that it has alone."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rl.engines.hf import HFEngine
from rl.groups import Groups, join
from rl.learner import Learner
from rl.lora import is_adapted
from rl.ranks import Ranks
from rl.rollout import Completions, Sampling
from rl.run_folder.checkpoint import load_checkpoint, save_checkpoint
from tests.rl.test_images import PROMPTS, alone, without_placeholders
from tests.rl.test_learner import CONFIG, assert_close, gradient
from tests.support.tiny_vision import tiny_vision

REWARDS = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.2, 0.0], [1.0, 1.0]])


def groups_of(policy, prompts=PROMPTS, rewards=REWARDS) -> Groups:
    completions = HFEngine(policy).generate(prompts, 2, Sampling(4), seed=0)
    counts = (rewards == 1).sum(1).numpy().astype(np.int32)
    return Groups(
        np.arange(len(prompts), dtype=np.int32), completions, rewards, counts, np.full(len(prompts), 2, np.int32)
    )


def first_gradient(policy, groups, **options):
    learner = Learner(replace(CONFIG, advantage="grpo", **options), replace(policy, model=copy.deepcopy(policy.model)))
    metrics = learner.update(groups, 0)
    assert metrics["policy/log_prob_gap_max"] < 1e-5
    return gradient(learner)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "idefics3", "gemma3"])
def test_one_step_is_the_policy_gradient_of_every_completion_alone(kind):
    policy: Any = tiny_vision(kind)
    groups = groups_of(policy)
    out = groups.completions
    centred = REWARDS - REWARDS.mean(1, keepdim=True)
    advantages = (centred / (REWARDS.std(1, keepdim=True) + 1e-6)).flatten()
    objective = []
    for row, advantage in enumerate(advantages):
        kept = out.tokens[row][out.mask[row]]
        logits = policy.model(**alone(policy, PROMPTS[row // 2], kept), use_cache=False).logits[0, -len(kept) - 1 : -1]
        log_probs = without_placeholders(policy, logits).log_softmax(-1).gather(1, kept[:, None])
        objective.append(advantage * log_probs.sum())
    loss = -torch.stack(objective).sum() / out.mask.sum()
    weights = list(policy.model.parameters())
    expected = [g for g in torch.autograd.grad(loss, weights, allow_unused=True) if g is not None]
    found = first_gradient(policy, groups, micro_batch_size=3)
    assert_close(found, expected, atol=1e-5)
    assert len(found) > len(list(policy.model.get_output_embeddings().parameters()))


@pytest.mark.parametrize("kind", ["qwen3_vl", "llava"])
def test_the_gradient_does_not_depend_on_how_the_batch_is_read(kind):
    policy: Any = tiny_vision(kind)
    groups = groups_of(policy)
    expected = first_gradient(policy, groups, micro_batch_size=100)
    for options in ({"micro_batch_size": 1}, {"gradient_checkpointing": True}, {"share_prompts": True}):
        assert_close(first_gradient(policy, groups, **options), expected, atol=1e-5)


def test_mini_batches_a_reference_and_kept_groups_hold_their_images():
    """Two groups of an earlier batch join the batch; every mini-batch scores each completion with its own images."""
    policy: Any = tiny_vision("idefics3")
    kept = groups_of(policy).take(np.array([2, 1]))
    whole = join([kept, groups_of(policy, PROMPTS[::-1], REWARDS.flip(0))])
    media: Any = whole.completions.media
    assert [bool(one) for one in media] == [True, False, True, True, False, True]
    config = replace(CONFIG, mini_batch_size=5, micro_batch_size=2, kl_weight=0.1, updates_per_batch=2)
    metrics = Learner(config, policy).update(whole, 0)
    assert metrics["policy/log_prob_gap_max"] < 1e-5
    assert metrics["policy/skipped_steps"] == 0


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "llava"])
def test_adapters_are_trained_and_merged(kind):
    pytest.importorskip("peft")
    policy, plain = tiny_vision(kind), tiny_vision(kind)
    config = replace(CONFIG, lora_rank=2, lora_alpha=4.0, learning_rate=1e-2)
    learner = Learner(config, policy)
    metrics = learner.update(groups_of(policy), 0)
    assert metrics["policy/log_prob_gap_max"] < 1e-5
    assert is_adapted(policy.model)
    plain.model.load_state_dict(learner.weights())
    ours, theirs = (HFEngine(p).generate(PROMPTS, 2, Sampling(4), seed=1) for p in (policy, plain))
    assert ours.texts == theirs.texts
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, atol=1e-5, rtol=0)
    before = HFEngine(tiny_vision(kind)).generate(PROMPTS, 2, Sampling(4), seed=1)
    assert not torch.equal(before.log_probs, theirs.log_probs)


def test_a_checkpoint_keeps_the_images_of_surplus_groups(tmp_path):
    policy: Any = tiny_vision("gemma3")
    groups = groups_of(policy)
    save_checkpoint(tmp_path / "checkpoint.pt", {}, surplus=groups)
    surplus = load_checkpoint(tmp_path / "checkpoint.pt", {})["surplus"]
    restored = Groups(*surplus)._replace(completions=Completions(*surplus[1]))
    expected = first_gradient(policy, groups)
    assert_close(first_gradient(policy, restored), expected, atol=0)


def test_several_processes_are_refused():
    policy, ranks = tiny_vision("llava"), Ranks()
    learner = Learner(CONFIG, policy, ranks)
    ranks.count = 2
    with pytest.raises(ValueError, match="2 processes train on prompts with images together; start one process"):
        learner.update(groups_of(policy), 0)
