"""Reasons why completions ended, and the soft overlong penalty of DAPO."""

import numpy as np
import pytest
import torch

from rl.engines.hf import HFEngine
from rl.finish import END_OF_SEQUENCE, FAILED, LENGTH, STOP, check_overlong, finish_reasons, overlong_penalty
from rl.rollout import Completions, Sampling


def completions(rows, texts, width=4):
    """Return completions of the given tokens, where 9 pads."""
    tokens = torch.tensor([row + [9] * (width - len(row)) for row in rows])
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    prompts = torch.ones(len(rows), 1, dtype=torch.int64)
    return Completions(prompts, prompts, tokens, mask, torch.zeros(tokens.shape), texts)


def test_each_reason():
    """The pad token 9 is also an end of sequence; only the last token of a completion counts."""
    rows = [[1, 2, 3], [1, 9], [7], [1, 2, 3, 4], [], [1, 2, 3, 4], []]
    texts = ["a.b", "a", "a", "abcd", None, None, ""]
    wanted = [STOP, END_OF_SEQUENCE, END_OF_SEQUENCE, LENGTH, FAILED, FAILED, LENGTH]
    found = finish_reasons(completions(rows, texts), (7, 9), (".",))
    assert found.tolist() == wanted
    assert found.dtype == np.int8


def test_the_reasons_of_an_engine(policy, task):
    """A completion that is shorter than the limit ended with an end of sequence or with the stop text."""
    out = HFEngine(policy).generate(task.pool(8, 0).texts, 8, Sampling(6, stop=("5",)), seed=0)
    found = finish_reasons(out, policy.eos_token_ids, ("5",))
    last = out.tokens.gather(1, out.mask.sum(1, keepdim=True) - 1)[:, 0]
    for reason, token, length, text in zip(found.tolist(), last.tolist(), out.mask.sum(1), out.texts, strict=True):
        assert (reason == END_OF_SEQUENCE) == (token == policy.eos_token_id)
        assert (reason == STOP) == ("5" in (text or ""))
        assert reason != LENGTH or length == 6
    assert {END_OF_SEQUENCE, STOP, LENGTH} == set(found.tolist())


def verl(length, limit, buffer, factor):
    """The overlong reward of verl's reward manager for DAPO (verl/workers/reward_manager/dapo.py)."""
    exceed = length - (limit - buffer)
    return min(-exceed / buffer * factor, 0)


@pytest.mark.parametrize(("limit", "buffer", "factor"), [(20, 5, 1.0), (20, 20, 0.5), (7, 1, 2.0)])
def test_the_penalty_is_verls(limit, buffer, factor):
    lengths = torch.arange(limit + 1)
    wanted = [verl(length, limit, buffer, factor) for length in range(limit + 1)]
    np.testing.assert_allclose(overlong_penalty(lengths, limit, buffer, factor).numpy(), wanted, rtol=1e-6)


def test_the_penalty_by_hand():
    """Equation 13 of DAPO with a limit of 10 and a buffer of 4."""
    penalty = overlong_penalty(torch.tensor([[0, 6], [7, 10]]), 10, 4, 1.0)
    np.testing.assert_allclose(penalty.numpy(), [[0, 0], [-0.25, -1]])
    assert not overlong_penalty(torch.tensor([10]), 10, 0, 1.0).any()


def test_a_buffer_beyond_the_limit_is_refused():
    check_overlong(10, 10)
    with pytest.raises(ValueError, match="overlong_buffer is 11; give at most 10"):
        check_overlong(11, 10)
