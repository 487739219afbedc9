import pytest

from rl.rollout import Sampling


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("max_new_tokens", 0, "give at least 1"),
        ("temperature", -1.0, "give a number of at least 0"),
        ("temperature", float("nan"), "give a number of at least 0"),
        ("top_p", 0.0, "give a number above 0 and up to 1"),
        ("top_p", 1.5, "give a number above 0 and up to 1"),
        ("stop", "</answer>", "give a tuple of texts"),
        ("stop", ("",), "none of them empty"),
    ],
)
def test_bad_sampling(name, value, cure):
    with pytest.raises(ValueError, match=rf"{name} is .*{cure}"):
        Sampling(**{"max_new_tokens": 3, name: value})
