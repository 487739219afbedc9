from typing import Any

import numpy as np
import pytest

from rl.rollout import Sampling, check_request


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("max_new_tokens", 0, "give an integer of at least 1"),
        ("max_new_tokens", 2.5, "give an integer of at least 1"),
        ("max_new_tokens", True, "give an integer of at least 1"),
        ("max_new_tokens", "3", "give an integer of at least 1"),
        ("temperature", float("inf"), "give a finite number"),
        ("temperature", None, "give a finite number"),
        ("top_p", float("nan"), "give a number above 0"),
        ("top_p", True, "give a number above 0"),
        ("stop", (None,), "texts that are not empty"),
        ("temperature", -1.0, "give a finite number of at least 0"),
        ("temperature", 1e-45, "give 0, for the likeliest tokens, or a number of at least 1e-06"),
        ("temperature", float("nan"), "give a finite number of at least 0"),
        ("top_p", 0.0, "give a number above 0 and at most 1"),
        ("top_p", 1.5, "give a number above 0 and at most 1"),
        ("stop", "</answer>", "give a tuple of texts"),
        ("stop", ("",), "texts that are not empty"),
    ],
)
def test_bad_sampling_is_refused(name, value, cure):
    with pytest.raises(ValueError, match=rf"{name} is .*{cure}"):
        Sampling(**{"max_new_tokens": 3, name: value})


@pytest.mark.parametrize("group_size", [0, -1, True, 2.5, "2", float("nan"), None])
def test_a_bad_group_size_is_refused(group_size):
    with pytest.raises(ValueError, match=r"group_size is .*; give an integer of at least 1"):
        check_request(["1="], group_size)


def test_good_requests_are_accepted():
    check_request(["1="], 1)
    prompts: Any = np.array(["1=", "2="])
    three: Any = np.int64(3)
    half: Any = np.float32(0.5)
    check_request(prompts, three)
    assert Sampling(three, half, 1).top_p == 1


def test_a_single_text_is_refused():
    with pytest.raises(ValueError, match="prompts is the text '1='; give a list"):
        check_request("1=", 1)
