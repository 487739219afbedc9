"""Tests of work that is dispatched to the device and not waited for.

`PromptSelector.prepare` starts the next choice, and `observe_on_device` takes counts that stay on the device.
"""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from jaxsel.metrics import mixed_share, solve_state_accuracy
from tests.support.playing import choices, mesh_of
from tests.support.small_gps import EMBEDDINGS, TINY

pytestmark = pytest.mark.slow

N = len(EMBEDDINGS)
METHODS = {"mopps": jaxsel.mopps(), "dps": jaxsel.dps(), "gps": jaxsel.gps(EMBEDDINGS, **TINY)}


def make(method: str = "mopps", num_prompts: int = N, **arguments) -> PromptSelector:
    return PromptSelector(METHODS[method], num_prompts=num_prompts, seed=3, **arguments)


def assert_same(first, second) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def assert_same_selector(first: PromptSelector, second: PromptSelector) -> None:
    assert_same(first.state_dict(), second.state_dict())
    assert first.metrics() == pytest.approx(second.metrics(), nan_ok=True, rel=0, abs=0)
    assert choices(first) == choices(second)


def refused(call, *arguments) -> None:
    with pytest.raises(ValueError, match="give"):
        call(*arguments)


def interrupted(selector: PromptSelector, prepares: bool) -> list:
    """Return the results of all calls that may occur between `prepare` and `select`."""
    seen = []

    def prepare(batch_size: int = 4) -> None:
        if prepares:
            selector.prepare(batch_size)

    for act in (
        lambda: None,
        lambda: prepare(3),
        lambda: selector.observe([1, 2, 2], [0, 3, 4], 8),
        lambda: selector.select(5).tolist(),
        lambda: selector.select(2, [7, 1, 5]).tolist(),
        lambda: selector.load_state_dict(copy.deepcopy(selector.state_dict())),
        lambda: (selector.predict(), selector.metrics()),
        lambda: selector.state_dict(),
        lambda: refused(selector.select, N + 1),
        lambda: refused(selector.observe, [N], [0], 8),
    ):
        prepare()
        seen.append(act())
        seen.append(selector.select(4))
        prepare()
        selector.observe(seen[-1], seen[-1] % 9, 8)
        prepare()
    return seen


@pytest.mark.parametrize("ratio", [None, 3])
def test_preparing_changes_no_choice(ratio):
    ahead, plain = make(candidate_ratio=ratio), make(candidate_ratio=ratio)
    assert_same(interrupted(ahead, True), interrupted(plain, False))
    assert_same_selector(ahead, plain)


def test_a_prepared_choice_on_a_mesh_changes_no_choice(on_cpu):
    ahead, plain = make("dps", mesh=mesh_of(4)), make("dps")
    for _ in range(3):
        ahead.prepare(4)
        assert choices(ahead, 1) == choices(plain, 1)


def test_select_takes_the_prepared_choice():
    selector = make()
    selector.prepare(4)
    assert selector._prepared is not None
    ids = selector._prepared.selection.prompt_ids
    selector.prepare(4)  # changes nothing, because the choice exists already
    assert selector._prepared.selection.prompt_ids is ids
    prediction = selector._prepared.selection.prediction
    assert selector.select(4).tolist() == ids[:4].tolist()
    assert selector._belief.books._open[-1].prediction is prediction
    assert selector._prepared is None


def test_checkpoints_leave_prepared_choices_out(tmp_path):
    selector, plain = make(candidate_ratio=2), make(candidate_ratio=2)
    for each in (selector, plain):
        choices(each)
    selector.prepare(4)
    selector.save(tmp_path)
    restored = PromptSelector.load(tmp_path, METHODS["mopps"], num_prompts=N, candidate_ratio=2)
    assert_same(restored.state_dict(), plain.state_dict())
    expected = choices(plain)
    assert choices(restored) == choices(selector) == expected


def test_an_update_does_not_change_a_choice_that_still_reads_the_state():
    """The update donates arrays that a prepared choice reads. The pool is so large that the choice still runs then."""
    selector, plain = make(num_prompts=300_000), make(num_prompts=300_000)
    for _ in range(3):
        selector.prepare(64)
        pending = selector._prepared.selection  # type: ignore[union-attr]
        ids = np.arange(64)
        selector.observe(ids, ids % 9, 8)
        assert_same(
            jax.tree.map(np.asarray, pending), jax.tree.map(np.asarray, plain._choice(64, None, None).selection)
        )
        plain.observe(ids, ids % 9, 8)
    assert_same_selector(selector, plain)


@pytest.mark.usefixtures("unchecked_types")
def test_prepare_names_bad_batch_sizes():
    selector = make(candidate_ratio=2)
    selector.prepare(1)
    for batch_size, message in ((0, "batch_size is 0"), (True, "batch_size is True"), (N + 1, f"give at most {N}")):
        with pytest.raises(ValueError, match=message):
            selector.prepare(batch_size)
    assert choices(selector) == choices(make(candidate_ratio=2))


ROUNDS = [
    ([3, 1, 4], [0, 8, 2], [8, 8, 8]),
    ([5, 5, 9, 2, 6], [1, 2, 0, 0, 3], [4, 4, 8, 0, 8]),  # repeated ids, and a group without rollouts
    # 9 rows of 8 prompts: padded to 16 on the device, and to 8 on the host, which merges rows of a prompt
    ([7, *range(8)], [1, 2, 3, 4, 5, 6, 7, 0, 0], [8] * 8 + [0]),
    ([1, 2], [0, 0], [0, 0]),
    ([], [], []),
]


@pytest.mark.parametrize("method", METHODS)
def test_counts_on_the_device_and_on_the_host_teach_the_same(method):
    there, here = make(method), make(method)
    for ids, successes, group_size in ROUNDS:
        there.select(4)
        here.select(4)
        there.observe_on_device(ids, jnp.array(successes, jnp.int32), jnp.array(group_size, jnp.int32))
        here.observe(ids, successes, group_size)
        assert there.metrics() == pytest.approx(here.metrics(), nan_ok=True, rel=0, abs=0)
    np.testing.assert_array_equal(there.visits, here.visits)
    assert_same_selector(there, here)


def test_counts_are_fetched_only_when_they_are_needed(monkeypatch):
    selector = make()
    counts = jnp.array([1, 2]), jnp.array([8, 8])
    with monkeypatch.context() as patched:
        patched.setattr("jaxsel.runtime.bookkeeping.checked_visits", None)
        selector.observe_on_device([3, 4], *counts)
        selector.prepare(4)
        selector.select(4)
    assert selector.visits.sum() == 2
    assert selector.metrics()["selector/coverage"] == 2 / N


@pytest.mark.usefixtures("unchecked_types")
def test_counts_may_change_or_be_donated_after_the_call():
    there, here = make(), make()
    successes: Any = np.array([4, 0], np.int32)
    group_size: Any = np.array([8, 8], np.int32)
    here.observe([3, 4], successes, 8)
    there.observe_on_device([3, 4], successes, group_size)
    successes[:] = 9
    assert there.metrics() == here.metrics()
    on_device = jnp.array([5, 6]), jnp.array([8, 8])
    here.observe([1, 2], [5, 6], 8)
    there.observe_on_device([1, 2], *on_device)
    for column in on_device:
        column.delete()
    assert there.metrics() == here.metrics()
    assert_same_selector(there, here)


@pytest.mark.usefixtures("unchecked_types")
def test_counts_that_no_array_holds_are_refused():
    selector = make()
    selector.observe([1], [3], 8, step=0)
    with pytest.raises(ValueError, match="successes is of type list; give a JAX array"):
        selector.observe_on_device([3, 4], [1, 2], [8, 8])
    assert selector.step_is_open


def test_on_a_mesh_counts_come_from_one_device(on_cpu):
    there, here = make("dps", mesh=mesh_of(2)), make("dps")
    for selector in (there, here):
        selector.observe_on_device([1, 5], jnp.array([0, 3]), jnp.array([8, 8]))
    assert choices(there) == choices(here)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, N], r"prompt_ids\[1\] is 21"),
        ([1], "1 prompt_ids, 2 successes and 2 group_size; give one entry per prompt"),
    ],
)
def test_wrong_ids_are_named_at_once(ids, message):
    selector = make()
    with pytest.raises(ValueError, match=message):
        selector.observe_on_device(ids, jnp.array([1, 2]), jnp.array([8, 8]))
    assert_same_selector(selector, make())


def test_wrong_counts_are_named_by_every_later_call(tmp_path):
    selector = make()
    selector.observe_on_device([1, 2], jnp.array([1, 9]), jnp.array([8, 8]))
    for look in (
        lambda: selector.visits,
        selector.metrics,
        selector.state_dict,
        lambda: selector.save(tmp_path),
        lambda: selector.observe([1], [1], 8),
        lambda: selector.observe_on_device([1], jnp.array([1]), jnp.array([8])),
    ):
        with pytest.raises(ValueError, match=r"successes\[1\] is 9 of 8 rollouts"):
            look()


def test_reported_metrics_equal_the_metric_functions():
    selector = make("dps")
    choices(selector)
    ids = np.sort(selector.select(9))
    successes, group_size = np.arange(9), np.full(9, 8)
    selection = selector._belief.books._open[-1]
    order = np.argsort(selection.prompt_ids)
    prediction = jax.tree.map(lambda field: np.asarray(field)[order], selection.prediction)
    selector.observe(ids, successes, group_size)
    metrics = selector.metrics()
    assert metrics["selector/mixed_share"] == pytest.approx(float(mixed_share(successes, group_size)))
    accuracy = float(solve_state_accuracy(prediction, successes, group_size))
    assert metrics["selector/solve_state_accuracy"] == pytest.approx(accuracy)
