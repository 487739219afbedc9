"""Prompts are added to a pool, removed from it and reordered. What was learned about a prompt follows its key."""

import copy
import warnings

import jax
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from jaxsel.runtime import changed_pool
from tests.support.small_gps import TINY

pytestmark = pytest.mark.slow  # takes 12 s: every method, before and after the change

KEYS = [f"prompt {row}" for row in range(24)]
CHANGED = {
    "added": [*KEYS, "new 1", "new 2"],
    "removed": KEYS[3:],
    "reordered": KEYS[::-1],
    "all": ["new 1", *KEYS[:2:-2], "new 2"],
}
FEATURES = {
    key: np.random.default_rng(number).normal(size=3).astype(np.float32)
    for number, key in enumerate([*KEYS, "new 1", "new 2"])
}


def embeddings(keys):
    return np.stack([FEATURES[key] for key in keys])


def strata(keys):
    return [len(key) for key in keys]


METHODS = {
    "mopps": lambda keys: jaxsel.mopps(),
    "priors": lambda keys: jaxsel.mopps(prior_alpha=1 + embeddings(keys)[:, 0] ** 2, ageing="step"),
    "dps": lambda keys: jaxsel.dps(),
    "gps": lambda keys: jaxsel.gps(embeddings(keys), **TINY),
    "adaptive": lambda keys: jaxsel.adaptive(embeddings(keys)),
    "exploring": lambda keys: jaxsel.exploring(jaxsel.adaptive(), share=0.5),
    "arc length": lambda keys: jaxsel.make_selector(jaxsel.arc_length(), jaxsel.expected_variance(), jaxsel.top_k()),
    "kalman": lambda keys: jaxsel.make_selector(jaxsel.kalman(), jaxsel.expected_variance(), jaxsel.top_k()),
    "recalibrated": lambda keys: jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.hidden_markov()),
        jaxsel.mixed_probability(),
        jaxsel.stratified(jaxsel.top_k(), strata(keys)),
    ),
}


def played(method, keys=KEYS, steps=3, **options):
    """Return a selector after a few steps of choices and observations."""
    selector = PromptSelector(method(keys), keys=keys, seed=4, **options)
    for step in range(steps):
        ids = selector.select(4)
        selector.observe(ids, (ids + step) % 9, 8)
    return selector


def test_every_prompt_keeps_its_prediction_and_its_visits():
    selector = played(METHODS["mopps"])
    before = selector.predict()
    for keys in CHANGED.values():
        changed = selector.with_pool(keys)
        after = changed.predict()
        for row, key in enumerate(keys):
            if key in KEYS:
                old = KEYS.index(key)
                assert after.success_rate[row] == before.success_rate[old]
                assert changed.visits[row] == selector.visits[old]
            else:
                assert after.success_rate[row] == 0.5
                assert changed.visits[row] == 0
    assert selector.num_prompts == len(KEYS)


def test_new_embeddings_of_the_same_prompts_keep_what_was_learned():
    """A policy that is trained on gives other hidden states. What is common to prompts with like states stays known."""
    selector = PromptSelector(METHODS["adaptive"](KEYS), keys=KEYS, seed=4)
    is_easy = embeddings(KEYS)[:, 0] > 0
    seen, unseen = np.arange(18), np.arange(18, 24)
    for _ in range(3):
        selector.observe(seen, np.where(is_easy[seen], 7, 1), 8)
    turned = np.roll(embeddings(KEYS), 1, axis=0)  # every prompt now has the embedding of the prompt before it
    moved = selector.with_pool(KEYS, jaxsel.adaptive(turned)).predict(unseen).success_rate
    np.testing.assert_array_equal(moved > 0.5, np.roll(is_easy, 1)[unseen])


@pytest.mark.parametrize("name", ["gps", "adaptive"])
def test_new_prompts_with_other_embeddings_change_no_belief(name):
    """The embeddings are standardised over a pool. What was learned must not depend on prompts that are added to it."""
    selector = played(METHODS[name])
    added = [f"far {row}" for row in range(len(KEYS))]
    far = 30 + 3 * embeddings(KEYS)
    method = {"gps": lambda all: jaxsel.gps(all, **TINY), "adaptive": jaxsel.adaptive}[name]
    changed = selector.with_pool([*KEYS, *added], method(np.concatenate([embeddings(KEYS), far])))
    before, after = selector.predict(), changed.predict(np.arange(len(KEYS)))
    for field in ("success_rate", "variance", "mixed"):
        np.testing.assert_allclose(getattr(after, field), getattr(before, field), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_beliefs_of_every_method_move_with_their_prompts(name):
    """A reordered pool predicts the same per key, and so does a pool that was changed and changed back."""
    selector = played(METHODS[name])
    before = selector.predict()
    keys = CHANGED["reordered"]
    after = selector.with_pool(keys, METHODS[name](keys)).predict()
    # all fields but `draw`, because random draws depend on the row
    for field in ("success_rate", "variance", "unsolved", "mixed", "solved"):
        np.testing.assert_allclose(getattr(after, field)[::-1], getattr(before, field), rtol=2e-4, atol=1e-6)
    there_and_back = selector.with_pool(CHANGED["added"], METHODS[name](CHANGED["added"]))
    there_and_back = there_and_back.with_pool(KEYS, METHODS[name](KEYS))
    for old, new in zip(before, there_and_back.predict(), strict=True):
        np.testing.assert_array_equal(old, new)
    first, second = there_and_back.select(6), selector.select(6)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", METHODS)
def test_a_changed_pool_goes_on(name):
    keys = CHANGED["all"]
    changed = played(METHODS[name]).with_pool(keys, METHODS[name](keys))
    ids = changed.select(5)
    changed.observe(ids, [0, 8, 4, 3, 2], 8)
    assert len(set(ids.tolist())) == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(changed.predict()))


@pytest.mark.parametrize("change", CHANGED)
def test_a_checkpoint_may_be_opened_onto_a_changed_pool(tmp_path, change):
    selector, keys = played(METHODS["dps"]), CHANGED[change]
    selector.save(tmp_path / "saved")
    added, removed = set(keys) - set(KEYS), set(KEYS) - set(keys)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = PromptSelector.load(tmp_path / "saved", jaxsel.dps(), keys=keys)
    matched = f"{len(keys) - len(added)} prompts were matched by their keys and keep their beliefs"
    expected = f"{matched}, {len(added)} are new, "
    assert [expected + f"{len(removed)} are dropped" in str(one.message) for one in caught] == [True] * (
        change != "reordered"
    )
    same = selector.with_pool(keys)
    assert loaded.pool == same.pool == PromptSelector(jaxsel.dps(), keys=keys).pool
    for ours, theirs in zip(loaded.predict(), same.predict(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded.select(4), same.select(4))
    loaded.save(tmp_path / "again")
    assert PromptSelector.load(tmp_path / "again").pool == loaded.pool


DAMAGED = {
    "empty": (lambda state: {}, r"state_dict has the keys \[\]; give what state_dict"),
    "None": (lambda state: None, "state_dict has type NoneType; give what"),
    "no metadata": (lambda state: state | {"metadata": {}}, "the checkpoint has format None"),
    "no arrays": (lambda state: state | {"arrays": {}}, "holds arrays of shapes {}, and its metadata say {"),
    "a list": (lambda state: state | {"arrays": []}, "arrays is of type list; give what"),
    "other arrays": (
        lambda state: state | {"arrays": state["arrays"] | {"visits": state["arrays"]["keys"]}},
        "holds arrays of shapes .*, and its metadata say",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_state_is_refused_for_a_changed_pool_too(damage, unchecked_types):
    make, said = DAMAGED[damage]
    state = make(played(METHODS["mopps"]).state_dict())
    changed = PromptSelector(jaxsel.mopps(), keys=CHANGED["all"])
    before = changed.state_dict()
    with pytest.raises(ValueError, match=said):
        changed.load_state_dict(state, changed_pool=True)
    assert changed.state_dict() == before


def test_the_window_and_prompts_in_flight_move_too():
    selector = played(METHODS["mopps"], candidate_ratio=2, track_in_flight=True)
    waits = selector.select(3)
    keys = CHANGED["all"]
    changed = selector.with_pool(keys)
    in_flight = {KEYS[row] for row in waits} & set(keys)
    assert {keys[row] for row in changed.in_flight} == in_flight
    seen = {row for _ in range(4) for row in changed.select(2).tolist()}
    assert not {keys[row] for row in seen} & in_flight


def test_every_new_prompt_is_offered_in_the_epoch_in_which_it_came():
    selector = PromptSelector(jaxsel.uniform(), keys=KEYS, candidate_ratio=1)
    first = [KEYS[row] for row in selector.select(8)]
    keys = CHANGED["added"]
    changed = selector.with_pool(keys)
    rest = [keys[row] for _ in range(3) for row in changed.select(6)]
    assert sorted(first + rest) == sorted(keys)


def test_a_mesh_gives_the_same(tmp_path):
    mesh = jaxsel.prompts_mesh(jax.devices("cpu")[:4])
    selector, sharded = played(METHODS["dps"]), played(METHODS["dps"], mesh=mesh)
    keys = CHANGED["all"]
    for ours, theirs in zip(selector.with_pool(keys).predict(), sharded.with_pool(keys).predict(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_checkpoint_of_a_mesh_that_does_not_divide_the_pool_opens_onto_a_changed_pool(tmp_path):
    """On disk, each device's part is padded to the longest part."""
    keys = KEYS[:22]
    sharded = played(METHODS["dps"], keys, mesh=jaxsel.prompts_mesh(jax.devices("cpu")[:4]))
    sharded.save(tmp_path)
    for new in (keys[::-1], CHANGED["all"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it counts the prompts that were added
            loaded = PromptSelector.load(tmp_path, jaxsel.dps(), keys=new)
        for ours, theirs in zip(sharded.with_pool(new).predict(), loaded.predict(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_state_without_remainders_opens_onto_a_changed_pool():
    """Earlier versions kept no rounding remainders of the shared weights."""
    selector = played(METHODS["adaptive"])
    state = selector.state_dict()
    name = "state.weights.remainder"
    del state["arrays"][name]
    for described in state["metadata"].values():
        if isinstance(described, dict):
            described.pop(name, None)
    changed = PromptSelector(METHODS["adaptive"](CHANGED["reordered"]), keys=CHANGED["reordered"], seed=4)
    changed.load_state_dict(state, changed_pool=True)
    np.testing.assert_allclose(changed.predict().mixed[::-1], selector.predict().mixed, rtol=1e-4)


def test_an_open_step_ends_in_the_new_selector_alone():
    selector = played(METHODS["dps"])
    selector.observe([1], [8], 8, step=0)
    changed = selector.with_pool(CHANGED["reordered"])
    assert (selector.step_is_open, changed.step_is_open) == (True, False)
    assert changed.visits[-2] == selector.visits[1] > 0
    np.testing.assert_allclose(changed.predict().mixed[::-1], selector.predict().mixed, rtol=1e-6)


def test_copies_and_state_dicts_know_the_keys(tmp_path):
    selector = played(METHODS["mopps"])
    assert copy.copy(selector).with_pool(CHANGED["added"]).num_prompts == 26
    selector.save(tmp_path / "saved")
    assert PromptSelector.load(tmp_path / "saved").with_pool(CHANGED["removed"]).num_prompts == 21


@pytest.mark.parametrize("keys", [list(range(24)), [2**64 + row for row in range(24)], ["\0", *KEYS[1:]]])
def test_keys_of_any_kind(keys):
    selector = played(METHODS["mopps"], keys)
    changed = selector.with_pool(keys[::-1])
    np.testing.assert_array_equal(changed.visits[::-1], selector.visits)
    assert selector.with_pool(np.array(keys, object)).pool == selector.pool


@pytest.mark.parametrize("name", ["priors", "gps", "adaptive", "recalibrated"])
def test_a_method_with_an_entry_per_prompt_is_made_anew_for_another_order(name):
    selector = PromptSelector(METHODS[name](KEYS), keys=KEYS, seed=4)
    with pytest.raises(ValueError, match="has one entry per prompt, in the order of the old pool; give the method"):
        selector.with_pool(CHANGED["reordered"])
    assert selector.with_pool(KEYS).pool == selector.pool


@pytest.mark.parametrize("name", ["priors", "gps", "adaptive", "recalibrated"])
def test_arrays_in_the_old_order_are_noticed_wherever_a_pool_changes(name, tmp_path):
    selector, keys = played(METHODS[name]), CHANGED["reordered"]
    selector.save(tmp_path / "saved")
    old, state = METHODS[name](KEYS), selector.state_dict()
    for change in (
        lambda method: selector.with_pool(keys, method),
        lambda method: PromptSelector.load(tmp_path / "saved", method, keys=keys),
        lambda method: PromptSelector(method, keys=keys, seed=4).load_state_dict(state, changed_pool=True),
    ):
        if name in ("gps", "adaptive"):
            with pytest.raises(
                ValueError, match="embeddings is the array of the saved pool, whose prompts had another"
            ):
                change(old)
        else:  # their entries may be the same in both orders
            with pytest.warns(UserWarning, match="(alpha|strata) is the array of the saved pool"):
                change(old)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            change(METHODS[name](keys))


def test_what_cannot_be_carried_is_refused(tmp_path):
    selector = played(METHODS["mopps"])
    with pytest.raises(ValueError, match=r"the pool .* and the pool .* share no key"):
        selector.with_pool(["a", "b"])
    with pytest.raises(ValueError, match="the old pool is '24 prompts without keys'; give both pools keys"):
        PromptSelector(jaxsel.mopps(), num_prompts=24).with_pool(KEYS)
    with pytest.raises(ValueError, match=r"other hyperparameters .*decay"):
        selector.with_pool(KEYS[1:], jaxsel.mopps(decay=0.9))
    wide = embeddings(KEYS).shape[1]
    for name in ("adaptive", "gps"):
        other = np.ones((23, wide + 1), np.float32)
        method = jaxsel.gps(other, **TINY) if name == "gps" else jaxsel.adaptive(other)
        message = f"embeddings has {wide + 1} columns, and had {wide} when .*; give embeddings of the same model"
        with pytest.raises(ValueError, match=message):
            played(METHODS[name]).with_pool(KEYS[1:], method)
    with pytest.raises(ValueError, match=r"has shape \(3,\) in the checkpoint and \(4,\) here; give a method"):
        changed_pool._check_shapes({"state.x": np.zeros(3)}, {"state.x": np.zeros(4)}, 24, 23)
    with pytest.raises(ValueError, match="embeddings has 24 rows for 23 prompts"):
        played(METHODS["adaptive"]).with_pool(KEYS[1:])
    selector.save(tmp_path / "saved")
    other = PromptSelector(jaxsel.mopps(), keys=KEYS[1:])
    with pytest.raises(ValueError, match=r"another pool .* or ask for a changed pool"):
        other.load_state_dict(selector.state_dict())
    with pytest.raises(ValueError, match="another pool"):
        PromptSelector.load(tmp_path / "saved", jaxsel.mopps(), num_prompts=23)
