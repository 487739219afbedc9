"""Tests of which prompts a `PromptSelector` may choose, and of steps that are observed in parts.

A prompt is in flight from its selection until it is observed, released or timed out. It is not chosen meanwhile.
"""

from typing import Any

import jax
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from tests.support.playing import choices, mesh_of
from tests.support.small_gps import EMBEDDINGS, TINY

pytestmark = pytest.mark.slow  # takes 7 s: a selector is compiled per test

N = len(EMBEDDINGS)
METHODS = {"mopps": jaxsel.mopps(), "dps": jaxsel.dps(), "gps": jaxsel.gps(EMBEDDINGS, **TINY)}


@pytest.fixture(params=["mopps", "dps"])
def method(request) -> jaxsel.Selector:
    return METHODS[request.param]


def make(method: jaxsel.Selector, **arguments: Any) -> PromptSelector:
    return PromptSelector(method, num_prompts=N, seed=3, **arguments)


@pytest.mark.parametrize("name", ["mopps", "dps", "gps"])
def test_excluded_prompts_are_not_chosen(name):
    selector, banned = make(METHODS[name]), np.arange(0, N, 2)
    mask = np.isin(np.arange(N), banned)
    for exclude in (banned, mask, banned.tolist()):
        assert not set(selector.select(9, exclude=exclude).tolist()) & set(banned.tolist())
    rest = sorted(selector.select(N - len(banned), exclude=banned).tolist())
    assert rest == np.flatnonzero(~mask).tolist()
    assert set(selector.select(2, [1, 2, 3, 4], exclude=mask).tolist()) == {1, 3}
    with pytest.raises(ValueError, match=r"batch_size is 3 of 2 prompts to choose from, where 11 of the pool are"):
        selector.select(3, [1, 2, 3, 4], exclude=mask)


def test_the_prompts_that_are_in_flight_longest_are_those_of_one_selection():
    selector = make(METHODS["mopps"], track_in_flight=True)
    assert selector.longest_in_flight().tolist() == []
    first, second = selector.select(3), selector.select(3)
    assert selector.longest_in_flight().tolist() == sorted(first.tolist())
    selector.observe(first, [4, 4, 4], 8)
    again = selector.select(3, first)  # observed, and handed out once more after the second selection
    assert selector.longest_in_flight().tolist() == sorted(second.tolist())
    both = selector.longest_in_flight([*again[:2], *second[1:]])
    assert both.tolist() == sorted(second[1:].tolist())
    assert selector.longest_in_flight(again).tolist() == sorted(again.tolist())
    selector.release(second)
    assert selector.longest_in_flight().tolist() == sorted(again.tolist())
    with pytest.raises(ValueError, match=r"among"):
        selector.longest_in_flight([N])
    assert make(METHODS["mopps"]).longest_in_flight() is None


def test_excluding_equals_choosing_among_the_others(method):
    first, second, banned = make(method), make(method), [1, 5, 7]
    others = np.setdiff1d(np.arange(N), banned)
    mask = np.isin(np.arange(N), others)
    for candidates in (others, mask):
        assert first.select(6, exclude=banned).tolist() == second.select(6, candidates).tolist()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_exclusions_are_the_same_on_a_mesh(size, on_cpu):
    there, here = make(METHODS["mopps"], mesh=mesh_of(size)), make(METHODS["mopps"])
    for batch_size in (3, 6):
        chosen = [s.select(batch_size, exclude=[0, 4, N - 1]).tolist() for s in (there, here)]
        assert chosen[0] == chosen[1]


def test_the_window_skips_excluded_rows():
    selector = make(METHODS["mopps"], candidate_ratio=1)
    first = np.concatenate([selector.select(4, exclude=[2, 3]) for _ in range(4)])
    assert not {2, 3} & set(first.tolist())
    assert {2, 3} <= set(selector.select(5).tolist())  # candidates come in epochs of all 21 rows; 5 are left


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exclude": [N]}, rf"exclude\[0\] is {N}; give integers from 0"),
        ({"exclude": [True, False]}, rf"exclude is a mask of shape \(2,\); give one boolean per prompt, {N} in all"),
        ({"candidates": [True]}, r"candidates is a mask of shape \(1,\)"),
    ],
)
def test_wrong_masks_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(METHODS["mopps"]).select(1, **arguments)


def test_sizes_share_few_compilations():
    method = jaxsel.mopps(decay=0.4)
    selector = PromptSelector(method, num_prompts=5000)
    for batch_size in range(1, 600, 7):
        assert len(set(selector.select(batch_size).tolist())) == batch_size
    assert selector._chooser._select._cache_size() == 3  # programs for batches of up to 256, 512 and 1,024
    for size in range(33, 53):
        selector.select(3, np.arange(size))
    for size in range(1, 21):
        selector.select(3, exclude=np.arange(size))
    assert selector._chooser._select._cache_size() == 5  # two more: for 64 candidates, and for a mask of exclusions


@pytest.mark.parametrize(
    "rule",
    [jaxsel.top_k(), jaxsel.gumbel_top_k(), jaxsel.within_bounds(0.3, 0.7), jaxsel.random_subset()],
    ids=lambda rule: str(next(iter(rule.spec.values()))),
)
def test_a_bound_on_the_batch_changes_no_choice(rule):
    """A program for up to 8 prompts chooses the same 5 prompts as a program for 5."""
    method: Any = jaxsel.mopps(rule=rule)
    state, select = method.init(jax.random.key(0), N), jax.jit(method.select, static_argnums=2)
    for seed in range(3):
        exact = select(jax.random.key(seed), state, 5)
        bounded = select(jax.random.key(seed), state, 8, count=np.int32(5))
        np.testing.assert_array_equal(bounded.prompt_ids[:5], exact.prompt_ids)
        np.testing.assert_array_equal(bounded.prompt_ids[5:], -1)


def test_prompts_in_flight_are_not_chosen_again(method):
    selector = make(method, track_in_flight=True)
    first, second = selector.select(8), selector.select(8)
    assert not set(first.tolist()) & set(second.tolist())
    with pytest.raises(ValueError, match=f"batch_size is 8 of {N - 16} prompts .* 16 of the pool are excluded or in f"):
        selector.select(8)
    selector.observe(first, np.zeros(8, int), [0] * 4 + [8] * 4)  # half of the groups have no rollouts
    selector.release(second[:2])
    free = set(range(N)) - set(second[2:].tolist())
    assert set(selector.select(len(free)).tolist()) == free


def test_prompts_time_out():
    selector = make(METHODS["dps"], track_in_flight=True, in_flight_steps=1)
    first, second = selector.select(N // 2), selector.select(N // 2)
    assert not set(first.tolist()) & set(second.tolist())
    free = set(range(N)) - set(second.tolist())
    assert set(selector.select(len(free)).tolist()) == free


def test_prompts_in_flight_are_part_of_checkpoints(tmp_path):
    method = METHODS["mopps"]
    selector, forgetful = make(method, track_in_flight=True), make(method)
    selector.select(8)
    selector.save(tmp_path)
    restored = PromptSelector.load(tmp_path, method, num_prompts=N, track_in_flight=True)
    without = PromptSelector.load(tmp_path, method, num_prompts=N)
    forgetful.load_state_dict(selector.state_dict())
    expected = choices(forgetful)
    assert choices(without) == expected
    assert choices(restored) == choices(selector)
    forgetful.save(tmp_path)
    tracking = PromptSelector.load(tmp_path, method, num_prompts=N, track_in_flight=True)
    tracking.load_state_dict(forgetful.state_dict())
    assert len(tracking.select(N)) == N


@pytest.mark.usefixtures("unchecked_types")
def test_releasing_needs_tracking():
    with pytest.raises(ValueError, match="make it with track_in_flight=True"):
        make(METHODS["mopps"]).release([1])
    with pytest.raises(ValueError, match="in_flight_steps is 3 without track_in_flight"):
        make(METHODS["mopps"], in_flight_steps=3)


def test_metrics_match_observations_to_their_own_selection():
    """With two batches in flight, each is compared with the prediction made when it was chosen."""
    selector, plain = make(METHODS["mopps"]), make(METHODS["mopps"])
    selector.observe([0, 1], [8, 0], 8)
    plain.observe([0, 1], [8, 0], 8)
    late = selector.select(3, [0, 2, 3])
    selector.select(2, [1, 5])
    selector.observe([1, 5], [0, 4], 8)
    plain.select(2, [1, 5])
    plain.observe([1, 5], [0, 4], 8)
    assert selector.metrics() == plain.metrics()
    selector.observe(late, [8, 8, 8], 8)
    order = np.argsort(late)
    rates = np.array([0.9, 0.5, 0.5])  # predicted for the prompts 0, 2 and 3 when they were chosen
    assert late[order].tolist() == [0, 2, 3]
    assert selector.metrics()["selector/success_rate_mae"] == pytest.approx(np.abs(rates - 1).mean())


@pytest.mark.parametrize("name", METHODS)
def test_parts_of_a_step_are_one_observation(name):
    whole, parts = make(METHODS[name]), make(METHODS[name])
    for step in range(3):
        ids = whole.select(8)
        np.testing.assert_array_equal(parts.select(8), ids)
        successes = (ids * 5 + step) % 9
        whole.observe(ids, successes, 8)
        for at in (0, 3, 6):
            rows = slice(at, at + 3)
            parts.observe(ids[rows], successes[rows] // 2, 4, step=step)
            parts.observe(ids[rows], successes[rows] - successes[rows] // 2, 4, step=step)
        # reading in the middle of a step includes its observations and does not end it
        jax.tree.map(np.testing.assert_array_equal, parts.predict(), whole.predict())
        assert parts.metrics() == pytest.approx(whole.metrics(), nan_ok=True)
        np.testing.assert_array_equal(parts.visits, whole.visits)
    assert parts.state_dict()["metadata"]["counters"]["observes"] == 3


def test_reading_does_not_end_a_step():
    looked, plain = make(METHODS["dps"]), make(METHODS["dps"])
    for selector in (looked, plain):
        selector.observe([1], [3], 8, step=0)
        if selector is looked:
            selector.predict()
            selector.metrics()
        selector.observe([2], [3], 8, step=0)
    np.testing.assert_array_equal(looked.predict().mixed, plain.predict().mixed)
    assert looked.metrics()["selector/observes"] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("call", ["select", "save", "end_step"])
def test_an_interrupted_update_leaves_the_step_open(error, call, monkeypatch, tmp_path):
    stopped, plain = make(METHODS["dps"]), make(METHODS["dps"])
    for selector in (stopped, plain):
        selector.observe([1, 2], [3, 8], 8, step=0)

    def stops(*_):
        raise error("stopped")

    calls = {"select": lambda: stopped.select(4), "save": lambda: stopped.save(tmp_path), "end_step": stopped.end_step}
    with monkeypatch.context() as patched:
        patched.setattr(stopped._belief, "_update", stops)
        with pytest.raises(error, match="stopped"):
            calls[call]()
    assert stopped.step_is_open
    stopped.end_step()
    plain.end_step()
    assert stopped.metrics() == plain.metrics()
    np.testing.assert_array_equal(stopped.predict().mixed, plain.predict().mixed)


def test_late_observations_count_in_the_current_step():
    late, plain = make(METHODS["dps"]), make(METHODS["dps"])
    late.observe([1, 2], [3, 8], 8, step=0)
    late.observe([4], [0], 8, step=1)  # ends step 0
    late.observe([3], [5], 8, step=0)
    late.end_step()
    late.observe([6], [5], 8, step=1)  # step 1 has ended, and step 2 has not begun
    late.observe([7], [5], 8, step=2)
    for batch in (([1, 2], [3, 8], 8), ([3, 4], [5, 0], 8), ([6, 7], [5, 5], 8)):
        plain.observe(*batch)
    np.testing.assert_array_equal(late.predict().mixed, plain.predict().mixed)
    assert late.metrics()["selector/observes"] == 3


def test_an_observation_without_a_step_ends_the_open_step():
    parts, plain = make(METHODS["mopps"]), make(METHODS["mopps"])
    parts.observe([1], [3], 8, step=0)
    parts.observe([1], [3], 8)
    plain.observe([1], [3], 8)
    plain.observe([1], [3], 8)
    np.testing.assert_array_equal(parts.predict().mixed, plain.predict().mixed)


@pytest.mark.usefixtures("unchecked_types")
def test_a_wrong_step_or_too_many_rollouts_change_nothing():
    selector, many = make(METHODS["mopps"]), 2**24 - 1
    selector.observe([1], [0], many, step=0)
    before = selector.predict().mixed
    for call, message in (
        (lambda: selector.observe([1], [0], many, step=0), r"the group_size of prompt 1 sums to 33554430 in one step"),
        (lambda: selector.observe([2] * 200, [0] * 200, many), r"the group_size of prompt 2 sums to 3355443000"),
        (lambda: selector.observe([2], [0], 8, step=-1), "step is -1; give an integer from 0"),
        (lambda: selector.observe([2], [0], 8, step=0.5), r"step is 0\.5"),
        (lambda: selector.select(N + 1), f"give at most {N}"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    np.testing.assert_array_equal(selector.predict().mixed, before)
    assert selector.metrics()["selector/observes"] == 1
    selector.observe([3], [1], 8, step=0)  # the step is still open
    assert selector.metrics()["selector/observes"] == 1


@pytest.mark.parametrize("kind", [np.array, list])
def test_boolean_successes_count(kind):
    selector, plain = make(METHODS["mopps"]), make(METHODS["mopps"])
    selector.observe([1, 2, 2], kind([True, False, True]), 1)
    plain.observe([1, 2, 2], [1, 0, 1], 1)
    np.testing.assert_array_equal(selector.predict().mixed, plain.predict().mixed)
