"""Rollouts of SmolLM2 by the real vLLM agree with the Hugging Face engine and with the learner's scores."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from rl.engines.hf import HFEngine
from rl.engines.vllm import VLLMEngine
from rl.policy import Policy, load_policy
from rl.rollout import Sampling
from rl.smollm2 import smollm2_folder

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM in this environment; see `make vllm`"),
    # vLLM and the packages that it imports cause these warnings
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

PROMPTS = [
    "Mia has 4 boxes of 6 pens. How many pens does Mia have?",
    [{"role": "system", "content": "Answer with a number."}, {"role": "user", "content": "2+2?"}],
    "What is the capital of France?",
]


@pytest.fixture(autouse=True)
def one_thread():
    """Override the fixture of `tests/rl/conftest.py`: vLLM sets torch's threads itself and refuses another number."""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[VLLMEngine, Policy]]:
    try:
        policy = load_policy(smollm2_folder())
    except ValueError as error:  # offline, or without the extra
        pytest.skip(str(error))
    with VLLMEngine(policy, max_model_len=256) as engine:
        yield engine, policy


def assert_agree(engine: VLLMEngine, policy: Policy) -> None:
    """Prompts and greedy completions are equal, and the log-probabilities of drawn tokens match the learner's."""
    greedy = Sampling(24, temperature=0)
    ours, theirs = engine.generate(PROMPTS, 1, greedy, seed=0), HFEngine(policy).generate(PROMPTS, 1, greedy, seed=0)
    assert torch.equal(ours.prompt_tokens, theirs.prompt_tokens)
    assert ours.tokens.tolist() == theirs.tokens.tolist()
    assert ours.texts == theirs.texts
    drawn = engine.generate(PROMPTS, 4, Sampling(24), seed=1)
    rows = torch.arange(len(PROMPTS)).repeat_interleave(4)
    with torch.no_grad():
        scored = policy.score(drawn.prompt_tokens[rows], drawn.prompt_mask[rows], drawn.tokens, drawn.mask)
    gap = (scored.log_probs - drawn.log_probs)[drawn.mask].abs()
    assert gap.max() < 1e-3


def test_engines_and_learner_agree_before_and_after_an_update(pair):
    engine, policy = pair
    assert_agree(engine, policy)
    before = engine.generate(PROMPTS, 4, Sampling(24), seed=2).texts
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.003 * torch.randn(parameter.shape, generator=generator))
    engine.update_weights(policy.model.state_dict())
    assert engine.generate(PROMPTS, 4, Sampling(24), seed=2).texts != before
    assert_agree(engine, policy)
