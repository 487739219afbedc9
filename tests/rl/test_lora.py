"""LoRA adapters: what they train, their merged weights, checkpoints, and whole runs. Nearly all tests need peft."""

import copy
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl.engines.hf import HFEngine
from rl.learner import Learner
from rl.lora import Adapters, is_adapted
from rl.policy import build_policy, load_policy
from rl.ranks import Ranks
from rl.rollout import Sampling
from tests.rl.test_learner import CONFIG, assert_close, groups_of, log_probs_of
from tests.support.runs import CONFIG as RUN
from tests.support.runs import assert_same_run, start, until_killed
from tests.support.tiny_llama import tiny_llama

LORA = {"lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def _needs_peft(request):
    if request.node.name != "test_without_peft_the_error_names_the_extra":
        pytest.importorskip("peft")


def copied(policy):
    return replace(policy, model=copy.deepcopy(policy.model))


def adapted(policy, **options):
    """Return adapters whose factor B is random, not 0 as in new ones, so that they change the model."""
    adapters = Adapters(policy.model, **{"rank": 2, "alpha": 4.0, "targets": "all-linear", "seed": 0} | options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(0, 0.3, generator=generator)
    return adapters


def test_new_adapters_change_nothing_and_only_they_are_trained(task, policy):
    groups = groups_of(task, policy)
    before = log_probs_of(policy, groups)
    Adapters(policy.model, rank=2, alpha=4.0, targets="q_proj, v_proj", seed=0)
    assert torch.equal(log_probs_of(policy, groups), before)
    trained = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
    assert len(trained) == 4
    assert all(".lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)


def test_merged_weights_compute_the_same_without_peft_layers(task, policy):
    """The expected weights are W + (alpha / rank) B A, where alpha / rank is 2."""
    groups, plain = groups_of(task, policy), copied(policy)
    adapters = adapted(policy)
    merged = adapters.merged()
    assert set(merged) == set(plain.model.state_dict())
    state, base = policy.model.state_dict(), plain.model.state_dict()
    name = "model.layers.0.self_attn.q_proj"
    factors = [state[f"{name}.lora_{letter}.policy.weight"] for letter in "BA"]
    torch.testing.assert_close(merged[f"{name}.weight"], base[f"{name}.weight"] + 2 * factors[0] @ factors[1])
    plain.model.load_state_dict(merged)
    torch.testing.assert_close(log_probs_of(plain, groups), log_probs_of(policy, groups), atol=1e-5, rtol=1e-5)


def test_without_adapters_the_base_model_computes(task, policy):
    groups, plain = groups_of(task, policy), copied(policy)
    adapters = adapted(policy)
    with_adapters = log_probs_of(policy, groups)
    with pytest.raises(AttributeError), adapters.off():
        log_probs_of(policy, None)  # an error switches the adapters on again
    assert torch.equal(log_probs_of(policy, groups), with_adapters)
    with adapters.off():
        assert torch.equal(log_probs_of(policy, groups), log_probs_of(plain, groups))
    assert torch.equal(log_probs_of(policy, groups), with_adapters)
    assert (with_adapters - log_probs_of(plain, groups)).abs().max() > 0.1


@pytest.mark.parametrize("options", [{}, {"kl_weight": 0.3}, {"advantage": "gae"}])
def test_a_step_has_the_gradient_of_the_same_step_on_all_weights(task, policy, options):
    """By the chain rule, a gradient G of W = W0 + 2 B A gives A the gradient 2 B' G, and B the gradient 2 G A'.

    After one step, Adam's first moment is a tenth of the gradient.
    """
    groups = groups_of(task, policy)
    full = copied(policy)
    learner = Learner(replace(CONFIG, **LORA, **options), policy)
    state = copy.deepcopy(learner.state_dict())
    for name, weight in state["policy"]["adapters"].items():
        if ".lora_B." in name:
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    learner.load_state_dict(state)
    reference = Learner(replace(CONFIG, **options), full)  # its reference policy is the base model
    reference.load_state_dict(reference.state_dict() | {"policy": {k: v.clone() for k, v in learner.weights().items()}})
    factors = {name: weight.clone() for name, weight in policy.model.state_dict().items() if ".lora_" in name}
    one, other = (x.update(groups, 0) for x in (learner, reference))
    for name in ("policy/loss", "policy/entropy", *(["policy/reference_kl"] if "kl_weight" in options else [])):
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5)
    moments = [10 * entry["exp_avg"] for entry in learner.state_dict()["optimizer"]["state"].values()]
    names = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    whole = [10 * entry["exp_avg"] for entry in reference.state_dict()["optimizer"]["state"].values()]
    gradients = dict(zip([name for name, _ in full.model.named_parameters()], whole, strict=False))
    for name, moment in zip(names, moments, strict=False):
        layer, _, letter = name.removesuffix(".policy.weight").rpartition(".lora_")
        g, a, b = gradients[f"{layer}.weight"], *(factors[f"{layer}.lora_{x}.policy.weight"] for x in "AB")
        torch.testing.assert_close(moment, 2 * (b.T @ g if letter == "A" else g @ a.T), atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_a_run_trains_resumes_and_saves_a_policy_that_loads_without_peft(task, tmp_path, monkeypatch):
    config = replace(RUN, **LORA, kl_weight=0.01, advantage="reinforce_pp", importance_cap=2.0)
    whole = start(task, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "cut", config, progress=until_killed(5))
    assert_same_run(whole, start(task, tmp_path / "cut", config, resume=True))
    monkeypatch.setitem(sys.modules, "peft", None)
    saved = load_policy(tmp_path / "whole" / "policy")
    assert not is_adapted(saved.model)
    groups = groups_of(task, saved)
    torch.testing.assert_close(log_probs_of(saved, groups), log_probs_of(whole[1], groups), atol=1e-5, rtol=1e-5)
    fresh = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)
    assert (log_probs_of(fresh, groups) - log_probs_of(saved, groups)).abs().max() > 1e-2


def test_a_checkpoint_holds_the_adapters_alone_and_refuses_another_base(task, policy):
    other = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=1)
    state = Learner(replace(CONFIG, **LORA), policy).state_dict()
    assert all(".lora_" in name for name in state["policy"]["adapters"])
    with pytest.raises(ValueError, match="belong to another base model; give the policy that the run started from"):
        Learner(replace(CONFIG, **LORA), other).load_state_dict(state)


def test_an_engine_with_plain_weights_follows_the_training(task, policy):
    """Another process loads merged weights; the trainer's own engine samples with the adapters themselves."""
    follower, config = HFEngine(copied(policy)), replace(CONFIG, **LORA)
    learner = Learner(config, policy)
    learner.update(groups_of(task, policy), 0)
    for engine in (follower, own := HFEngine(policy)):
        engine.update_weights(learner.weights())
    prompts = task.pool(4, 0).texts
    one, other = (engine.generate(prompts, 2, Sampling(4, temperature=0), seed=0) for engine in (follower, own))
    assert one.texts == other.texts
    sampled = [engine.generate(prompts, 8, Sampling(4), seed=1) for engine in (follower, own)]
    assert_close([sampled[0].log_probs], [sampled[1].log_probs], atol=1e-4)


def test_a_llama_learns_with_gradient_checkpointing(task, policy, tmp_path):
    model = replace(policy, model=tiny_llama(policy.tokenizer))
    config = replace(RUN, steps=2, **LORA, gradient_checkpointing=True, mini_batch_size=8)
    records, trained = start(task, tmp_path, config, policy=model)
    assert all(record["policy/grad_norm"] > 0 for record in records[:2])
    moved = [weight.abs().max() for name, weight in trained.model.named_parameters() if ".lora_B." in name]
    assert min(moved) > 0


def test_adapters_that_do_not_fit_are_refused(task, policy):
    with pytest.raises(ValueError, match="lora_targets is 'nothing', which does not fit the model; give names"):
        Adapters(policy.model, rank=2, alpha=4.0, targets="nothing", seed=0)
    tied = tiny_llama(policy.tokenizer, tie_word_embeddings=True)
    for name in ("lm_head", "model.embed_tokens"):
        with pytest.raises(ValueError, match=f"lora_targets is 'q_proj,{name}', and {name} shares its weight with"):
            Adapters(tied, rank=2, alpha=4.0, targets=f"q_proj,{name}", seed=0)
    assert not is_adapted(tied)
    Learner(replace(CONFIG, **LORA), policy)
    with pytest.raises(ValueError, match="the policy has adapters already; load the policy again"):
        Learner(replace(CONFIG, **LORA), policy)
    ranks = Ranks()
    ranks.sharded = True
    with pytest.raises(ValueError, match="lora_rank is 4 with parallel=fsdp; give 0, or parallel=ddp"):
        Learner(replace(CONFIG, **LORA), policy, ranks)
    for name, value in {"lora_rank": -1, "lora_alpha": math.nan}.items():
        with pytest.raises(ValueError, match=f"{name} is {value}; give"):
            replace(CONFIG, **{name: value})


def test_without_peft_the_error_names_the_extra(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'peft is not installed; pip install "jaxsel\[lora\]"'):
        Learner(replace(CONFIG, **LORA), policy)
    assert not is_adapted(policy.model)
    assert np.isfinite(Learner(CONFIG, policy).weights()["model.norm.weight"].numpy()).all()
