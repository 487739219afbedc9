"""Checkpoints of this version and of earlier versions: folders, and dictionaries for torch-style checkpoints."""

import os

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxsel
from jaxsel import PromptSelector
from jaxsel.runtime.checkpoint import folder
from jaxsel.runtime.checkpoint import metadata as _metadata
from jaxsel.runtime.checkpoint.arrays import decoded
from tests.support.checkpoints import METHOD, N, load, observed


def in_the_earlier_layout(selector):
    """Return the arrays of a selector with a hidden Markov model as earlier versions saved them.

    Their beliefs lack the probability of the state SOLVED. The last column of the transition counts holds each row's
    sum.
    """
    arrays = {name: np.array(array) for name, array in selector._arrays().items()}
    for name in ("state.filtered", "state.predicted"):
        arrays[name] = arrays[name][:2]
    arrays["state.excess"][:, 2] = arrays["state.excess"].sum(1)
    return arrays


def played(steps: int, **options) -> PromptSelector:
    selector = PromptSelector(METHOD, num_prompts=N, **options)
    for step in range(steps):
        selector.observe([3, 5, 7], [4, 8 * (step % 2), 8], 8)
    return selector


def written_by_an_earlier_version(path, selector, arrays=None, **changes):
    """Write a checkpoint as earlier versions did: Orbax items `arrays` and `metadata`, no nested spec, no checksums."""
    metadata = selector._metadata() | {"format": 2} | changes
    metadata["spec"] = _metadata._side_by_side(metadata["spec"])
    with ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(create=True)) as manager:
        items = {"arrays": ocp.args.StandardSave(arrays or selector._arrays()), "metadata": ocp.args.JsonSave(metadata)}
        manager.save(4, args=ocp.args.Composite(**items))


def test_a_checkpoint_of_an_earlier_version_loads_and_can_be_saved_to(tmp_path):
    written_by_an_earlier_version(tmp_path, observed(3))
    assert load(tmp_path).visits[3] == 3
    selector = PromptSelector.load(tmp_path)
    assert selector.select(4).tolist() == observed(3).select(4).tolist()
    selector.save(tmp_path)
    assert os.listdir(tmp_path) == ["5"]
    assert load(tmp_path).visits[3] == 3


def test_the_fingerprint_of_earlier_versions_opens_a_pool_with_nul_in_a_key(tmp_path):
    keys = ["a\0b", "c"]
    selector = PromptSelector(METHOD, keys=keys)
    written_by_an_earlier_version(tmp_path, selector, pool=selector.pool.partition("+")[0])
    PromptSelector.load(tmp_path, METHOD, keys=keys)
    PromptSelector(METHOD, keys=["a", "b\0c"]).save(tmp_path / "new")
    with pytest.raises(ValueError, match="share no key"):
        PromptSelector.load(tmp_path / "new", METHOD, keys=keys)


def test_a_state_dict_of_an_earlier_version_is_taken_and_copied():
    old = observed(3).state_dict()
    old["metadata"] |= {"format": 2, "spec": _metadata._side_by_side(old["metadata"]["spec"])}
    old["arrays"] = {name: decoded(name, array) for name, array in old["arrays"].items()}
    selector = observed(0)
    selector.load_state_dict(old)
    before = selector.predict().mixed
    for array in old["arrays"].values():
        array[...] = 0
    np.testing.assert_array_equal(selector.predict().mixed, before)
    np.testing.assert_array_equal(before, observed(3).predict().mixed)


def test_a_state_dict_without_beliefs_in_solved_goes_on_as_before():
    here, selector = played(4), played(0)
    old, arrays = here.state_dict(), in_the_earlier_layout(here)
    old["metadata"] |= {"format": 2, "spec": _metadata._side_by_side(old["metadata"]["spec"])}
    old["metadata"]["shapes"] = {name: list(array.shape) for name, array in arrays.items()}
    selector.load_state_dict(old | {"arrays": arrays})
    assert arrays["state.filtered"].shape == (2, N)
    assert_goes_on_alike(selector, here)
    old["arrays"] = arrays | {"state.excess": arrays["state.excess"][:2]}
    with pytest.raises(ValueError, match="this selector has"):
        selector.load_state_dict(old)


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_folder_without_beliefs_in_solved_goes_on_as_before(tmp_path, is_sharded):
    mesh = jaxsel.prompts_mesh() if is_sharded else None
    here = played(4)
    arrays = in_the_earlier_layout(here)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    written_by_an_earlier_version(tmp_path, here, arrays, shapes=shapes)
    selector = PromptSelector.load(tmp_path, METHOD, num_prompts=N, mesh=mesh)
    lies = [leaf.sharding for leaf in jax.tree.leaves(selector._belief.state)]
    assert lies == [leaf.sharding for leaf in jax.tree.leaves(played(0, mesh=mesh)._belief.state)]
    assert_goes_on_alike(selector, here)


@pytest.mark.slow
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_state_space_checkpoint_without_the_remainder_goes_on_as_before(tmp_path, is_nested):
    """Earlier versions kept no remainder of the sum in the weights. It is 0 then, also in a selector in use."""
    method = jaxsel.exploring(jaxsel.adaptive(), share=0.2) if is_nested else jaxsel.adaptive()
    here, selector = (PromptSelector(method, num_prompts=N, seed=3) for _ in range(2))
    for each in (here, selector):
        for step in range(3 + 2 * (each is selector)):
            each.observe([3, 5, 7], [4, 8 * (step % 2), 8], 8)
    arrays = {name: np.array(array) for name, array in here._arrays().items() if not name.endswith(".remainder")}
    assert len(arrays) == len(here._arrays()) - 1
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    folder.save(tmp_path, arrays, here._metadata() | {"shapes": shapes})
    loaded = PromptSelector.load(tmp_path, method, num_prompts=N)
    selector.load_state_dict({"arrays": arrays, "metadata": here._metadata() | {"shapes": shapes}})
    for each in (loaded, selector):
        (remainder,) = (array for name, array in each._arrays().items() if name.endswith(".remainder"))
        np.testing.assert_array_equal(remainder, 0)
        np.testing.assert_allclose(each.predict().mixed, here.predict().mixed, atol=1e-6)
        each.observe([3], [4], 8)
    np.testing.assert_array_equal(loaded.predict().mixed, selector.predict().mixed)


def assert_goes_on_alike(selector, other):
    for _ in range(2):
        for one, same in zip(selector.predict(), other.predict(), strict=True):
            np.testing.assert_allclose(one, same, atol=1e-6)
        for each in (selector, other):
            each.observe([3, 4, 5], [8, 0, 3], 8)


@pytest.mark.parametrize("wrong", [None, [], {"dtype": "object", "shape": [3], "data": b"x"}, {"shape": [10]}, "text"])
def test_a_state_dict_with_wrong_arrays_leaves_the_state(wrong):
    selector = observed(2)
    state = selector.state_dict()
    state["arrays"]["visits"] = wrong
    with pytest.raises(ValueError, match=r"(give what state_dict|this selector has)"):
        selector.load_state_dict(state)
    with pytest.raises(ValueError, match=r"(give what state_dict|this selector has)"):
        selector.load_state_dict(state | {"arrays": wrong})
    assert selector.visits[3] == 2


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 2**32}, *({"counters": c} for c in ({}, {"observes": 1}, {"ended_step": "1"}))]
)
def test_a_state_dict_with_wrong_numbers_leaves_the_state(wrong):
    selector, state = observed(2), observed(3).state_dict()
    if "ended_step" in wrong.get("counters", {}):
        wrong = {"counters": state["metadata"]["counters"] | wrong["counters"]}
    with pytest.raises(ValueError, match=r"the checkpoint has the seed .*; give what PromptSelector wrote"):
        selector.load_state_dict(state | {"metadata": state["metadata"] | wrong})
    assert selector.state_dict() == observed(2).state_dict()


def test_torch_loads_a_state_dict_with_weights_only(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"selector": observed(3).state_dict()}, tmp_path / "trainer.pt")
    selector = observed(0)
    selector.load_state_dict(torch.load(tmp_path / "trainer.pt", weights_only=True)["selector"])
    assert selector.state_dict() == observed(3).state_dict()


@pytest.mark.parametrize("pool", [{"num_prompts": N}, {"keys": [f"k{i}" for i in range(N)]}, {"keys": range(N)}])
def test_load_needs_only_the_folder(pool, tmp_path):
    selector = PromptSelector(METHOD, seed=3, candidate_ratio=2, **pool)
    selector.observe(selector.select(4), [1, 2, 3, 4], 8)
    selector.save(tmp_path)
    restored = PromptSelector.load(tmp_path)
    assert restored.state_dict() == selector.state_dict()
    assert restored.select(4).tolist() == selector.select(4).tolist()
    restored.save(tmp_path)
    PromptSelector.load(tmp_path, METHOD, candidate_ratio=2, **pool)
    with pytest.raises(ValueError, match=r"another pool|share no key"):
        PromptSelector.load(tmp_path, keys=[f"x{i}" for i in range(N)])


def test_load_requires_a_selector_that_cannot_be_rebuilt(tmp_path):
    PromptSelector(jaxsel.mopps(prior_alpha=np.arange(1.0, N + 1)), num_prompts=N).save(tmp_path)
    with pytest.raises(ValueError, match="give the selector itself"):
        PromptSelector.load(tmp_path)
