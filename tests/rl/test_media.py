"""The tensors of images: taking, joining and padding them for a batch, and the positions after them."""

from typing import Any

import pytest
import torch

from rl.media import ReadPrompts, join, model_inputs, position_shift, prompt_media, take
from tests.support.tiny_vision import figure, tiny_vision, user

ONE = {"pixel_values": torch.ones(1, 2, 3), "mm_token_type_ids": torch.tensor([[0, 1, 1]])}
TWO = {"pixel_values": 2 * torch.ones(2, 1, 4), "mm_token_type_ids": torch.tensor([[1, 0]])}
MASK = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 1, 1, 1]])  # prompts of 3, 3 and 2 tokens


def test_media_follow_their_rows():
    media = [ONE, {}, TWO]
    assert take(media, torch.tensor([2, 2, 0])) == [TWO, TWO, ONE]
    assert take(media, slice(1, 3)) == [{}, TWO]
    assert take(None, slice(1, 3)) is None
    assert join([media, None, [TWO]], [3, 2, 1]) == [ONE, {}, TWO, {}, {}, TWO]
    assert join([None, None], [3, 2]) is None


def test_a_batch_is_padded_with_zeros():
    """Numbers per token stay at the tokens of the prompt; other tensors are joined along their first axis."""
    inputs = model_inputs([ONE, {}, TWO], MASK)
    assert inputs["mm_token_type_ids"].tolist() == [[0, 0, 1, 1, 0], [0] * 5, [0, 0, 1, 0, 0]]
    expected = torch.zeros(3, 2, 4)
    expected[0, :2, :3] = 1
    expected[1:, :1] = 2
    assert torch.equal(inputs["pixel_values"], expected)
    assert inputs["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("media", [None, [{}, {}, {}]])
def test_a_batch_without_images_has_no_inputs(media):
    assert model_inputs(media, MASK) == {}


def test_tensors_that_depend_on_the_completion_are_refused():
    with pytest.raises(ValueError, match="the policy's processor makes cross_attention_mask, which is not supported"):
        prompt_media({"input_ids": [[1]], "cross_attention_mask": torch.ones(1, 1, 1, 1)})


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "llava"])
def test_the_next_position_follows_the_highest_one(kind):
    """An image of Qwen takes as many positions as its longer side has merged patches; others take one per token."""
    policy: Any = tiny_vision(kind)
    read = policy.read([user(figure(3, (24, 16)), "?"), "12=", user("a", figure(3, (16, 16)), "?")])
    found: Any = position_shift(policy.model, read)
    if kind == "llava":
        assert found.flatten().tolist() == [0, 0, 0]
    else:  # 3 by 2 and 2 by 2 merged patches
        assert found.flatten().tolist() == [3 - 6, 0, 2 - 4]
    assert position_shift(policy.model, ReadPrompts(read.tokens, read.mask, None)) is None
