"""Two processes on the CPU, against one."""

import json

import numpy as np
import pytest
import torch

from rl.ranks import Ranks, join
from rl.run_log import load_checkpoint
from tests.rl.two_ranks import UPDATES, run_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    return run_all(folder)


def assert_close(actual, wanted, tolerance):
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_on_two_ranks_is_that_on_one(found, name):
    """Moments are a tenth of the gradient; weights would hide a wrong factor, for Adam rescales it."""
    alone = found[0][f"{name}, alone"]
    for kind, tolerance in (("ddp", 1e-6), ("fsdp", 1e-5)):
        both = [rank[f"{name}, {kind}"] for rank in found]
        assert_close(both[0]["moments"], alone["moments"], tolerance)
        assert both[0]["metrics"] == both[1]["metrics"]
        assert both[0]["metrics"] == pytest.approx(alone["metrics"], rel=1e-4, abs=1e-6)
        assert_equal_weights(both[0]["weights"], both[1]["weights"])
    if name == "no row":
        assert set(alone["metrics"].values()) == {0.0}
    else:
        assert max(moment.abs().max() for moment in alone["moments"]) > 1e-4
