"""Rollouts of SmolLM2 by the real vLLM agree with the Hugging Face engine and with the learner's scores."""

from collections.abc import Iterator

import pytest

from rl.engines.vllm import VLLMEngine
from rl.policy import Policy, load_policy
from rl.rollout import Sampling
from rl.smollm2 import smollm2_folder
from tests.support import vllm_lane
from tests.support.vllm_lane import assert_parity, disturbed

pytestmark = vllm_lane.MARKS

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


def test_engines_and_learner_agree_before_and_after_an_update(pair):
    engine, policy = pair
    assert_parity(engine, policy, PROMPTS)
    before = engine.generate(PROMPTS, 4, Sampling(24), seed=2).texts
    disturbed(policy, 0, 0.003)
    engine.update_weights(policy.model.state_dict())
    assert engine.generate(PROMPTS, 4, Sampling(24), seed=2).texts != before
    assert_parity(engine, policy, PROMPTS)
