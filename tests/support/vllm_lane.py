"""What the tests with the real vLLM share: their marks, and the check that two engines agree. Imports no vLLM."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rl.engines.hf import HFEngine
from rl.policy import Policy
from rl.rollout import Completions, RolloutEngine, Sampling

MARKS = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM in this environment; see `make vllm`"),
    # vLLM and the packages that it imports cause these warnings
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def disturbed(policy: Policy, seed: int, size: float = 0.03) -> None:
    """Change every weight, as an update does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.device))


def log_probs_of_policy(policy: Policy, out: Completions, temperature: float = 1.0) -> torch.Tensor:
    rows = torch.arange(len(out.prompt_tokens)).repeat_interleave(out.group_size)
    with torch.no_grad():
        return policy.score(
            out.prompt_tokens[rows], out.prompt_mask[rows], out.tokens, out.mask, temperature=temperature
        ).log_probs


def assert_parity(engine: RolloutEngine, policy: Policy, prompts: Sequence[Any]) -> None:
    """Greedy tokens match the Hugging Face engine, and log-probabilities of drawn tokens match the policy."""
    greedy = Sampling(24, temperature=0)
    ours, theirs = engine.generate(prompts, 1, greedy, seed=0), HFEngine(policy).generate(prompts, 1, greedy, seed=0)
    assert ours.tokens.tolist() == theirs.tokens.tolist()
    assert torch.equal(ours.mask, theirs.mask)
    assert ours.texts == theirs.texts
    assert torch.equal(ours.prompt_tokens, theirs.prompt_tokens)
    for temperature in (1.0, 0.7):
        out = engine.generate(prompts, 2, Sampling(24, temperature), seed=1)
        gap = (out.log_probs - log_probs_of_policy(policy, out, temperature))[out.mask]
        assert gap.abs().max() < 1e-3
        assert out.log_probs[out.mask].max() < 0
