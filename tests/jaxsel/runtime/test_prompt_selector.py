import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from tests.support.playing import choices
from tests.support.reference import DpsModel, MoppsModel

N = 20
METHODS = {"mopps": jaxsel.mopps(), "dps": jaxsel.dps()}
MOPPS = METHODS["mopps"]


@pytest.fixture(params=METHODS)
def method(request) -> jaxsel.Selector:
    return METHODS[request.param]


def make(method: jaxsel.Selector = MOPPS, **arguments: Any) -> PromptSelector:
    arguments = {"num_prompts": N} | arguments
    return PromptSelector(method, **arguments)


def trained(method: jaxsel.Selector = MOPPS, **arguments: Any) -> PromptSelector:
    selector = make(method, **arguments)
    for step in range(3):
        ids = selector.select(4)
        selector.observe(ids, ids % 9, 8)
        selector.observe([step, 19], [step, 8], 8)
    return selector


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_select_returns_distinct_rows(method):
    selector = trained(method)
    for batch_size in (1, 4, N):
        ids = selector.select(batch_size)
        assert isinstance(ids, np.ndarray)
        assert ids.dtype == np.int32
        assert len(set(ids.tolist())) == batch_size
        assert set(ids.tolist()) <= set(range(N))


def test_select_respects_candidates(method):
    candidates = [3, 17, 5, 11, 8]
    assert set(trained(method).select(4, candidates).tolist()) <= set(candidates)
    assert sorted(trained(method).select(5, np.array(candidates)).tolist()) == sorted(candidates)


def test_predictions_are_numpy_and_follow_the_requested_rows(method):
    selector = trained(method)
    whole, some = selector.predict(), selector.predict([7, 2, 7])
    for field, all_rows in zip(some, whole, strict=True):
        assert isinstance(field, np.ndarray)
        assert (field.shape, all_rows.shape, field.dtype) == ((3,), (N,), np.float32)
    np.testing.assert_allclose(some.success_rate, whole.success_rate[[7, 2, 7]], rtol=1e-6)
    assert selector.predict([]).mixed.shape == (0,)


@pytest.mark.parametrize(("method", "model"), [("mopps", MoppsModel), ("dps", DpsModel)])
def test_predictions_follow_the_equations_whatever_the_order_of_observations(method, model):
    selector, model = make(METHODS[method]), model(N)
    for ids, successes, group_size in [
        ([1, 2, 3], [0, 4, 8], [8, 8, 8]),
        ([3, 3, 1, 3], [1, 2, 0, 0], [4, 4, 8, 0]),  # repeated ids, and a group without rollouts
        ([], [], []),
        ([19], [1], [1]),  # a prompt that was not observed before, with another group size
        (list(range(N)), [5] * N, [8] * N),
    ]:
        selector.observe(ids, successes, group_size)
        model.observe(ids, successes, group_size)
        np.testing.assert_allclose(selector.predict().success_rate, model.success_rate(), atol=1e-5)


def torch_tensor(values: list) -> Any:
    return pytest.importorskip("torch").tensor(values)


@pytest.mark.parametrize(
    "array",
    [list, tuple, np.array, jnp.array, np.float64, torch_tensor, functools.partial(np.array, dtype="u1")],
)
@pytest.mark.usefixtures("unchecked_types")  # the run-time check of types refuses tuples as ArrayLike
def test_all_kinds_of_arrays_are_accepted(array):
    selector, plain = make(), make()
    selector.observe(array([1, 5, 2]), array([0, 3, 8]), array([8, 8, 8]))
    plain.observe([1, 5, 2], [0, 3, 8], 8)
    assert_same(selector.state_dict(), plain.state_dict())
    np.testing.assert_array_equal(selector.predict(array([5, 1])).mixed, plain.predict([5, 1]).mixed)
    np.testing.assert_array_equal(selector.select(2, array([5, 1, 7])), plain.select(2, [5, 1, 7]))


def test_visits_count_steps_with_rollouts():
    selector = make()
    selector.observe([1, 1, 2, 3], [0, 1, 0, 0], [8, 8, 8, 0])
    selector.observe([1], [0], 8)
    assert selector.visits[:4].tolist() == [0, 2, 1, 0]
    selector.visits[0] = 7  # changes a copy
    assert selector.visits[0] == 0


def test_equal_seeds_and_observations_give_equal_choices(method):
    assert choices(make(method, seed=3), 6) == choices(make(method, seed=3), 6)
    assert choices(make(method, seed=3), 6) != choices(make(method, seed=4), 6)
    assert choices(make(method, seed=2**32 - 1)) != choices(make(method, seed=0))


def test_ties_of_an_unknown_pool_are_broken_at_random():
    chosen = [make(METHODS["dps"], seed=seed).select(4).tolist() for seed in range(10)]
    assert len({tuple(ids) for ids in chosen}) > 5


def test_reading_does_not_change_later_choices(method):
    watched, plain = trained(method), trained(method)
    for _ in range(3):
        watched.predict()
        watched.predict([1, 2])
        watched.metrics()
        watched.state_dict()
        assert choices(watched, 1) == choices(plain, 1)


def test_metrics_compare_the_last_selection_with_its_observation():
    selector = make()
    assert selector.metrics() == {"selector/observes": 0, "selector/coverage": 0}
    ids = selector.select(4)
    # of the 4 selected prompts, the first has two groups, the second one, the third no rollouts; `stranger` is a fifth
    stranger = min(set(range(N)) - set(ids.tolist()))
    selector.observe([ids[0], ids[0], ids[1], ids[2], stranger], [0, 2, 8, 0, 1], [4, 4, 8, 0, 2])
    assert selector.metrics() == pytest.approx(
        {
            "selector/observes": 1,
            "selector/coverage": 3 / N,
            "selector/mixed_share": 2 / 3,
            "selector/predicted_mixed_share": 7 / 9,
            "selector/success_rate_mae": (0.25 + 0.5) / 2,
            "selector/solve_state_accuracy": 1 / 2,
        }
    )
    selector.observe([], [], 8)
    assert set(selector.metrics()) == {"selector/observes", "selector/coverage"}


BAD_CALLS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda s: s.select(0), "batch_size is 0; give an integer of at least 1"),
    (lambda s: s.select(2.0), r"batch_size is 2\.0; give an integer"),
    (lambda s: s.select(True), "batch_size is True; give an integer"),
    (lambda s: s.select(N + 1), f"batch_size is 21 of {N} prompts to choose from; give at most {N}"),
    (lambda s: s.select(3, [1, 2]), "batch_size is 3 of 2 prompts to choose from; give at most 2"),
    (lambda s: s.select(1, []), "batch_size is 1 of 0 prompts"),
    (lambda s: s.select(1, [1, 2, 1]), "candidates holds the entry 1 2 times; give distinct entries"),
    (lambda s: s.select(1, [-1]), r"candidates\[0\] is -1; give integers from 0 to 19"),
    (lambda s: s.predict([1, N]), r"prompt_ids\[1\] is 20; give integers from 0 to 19"),
    (lambda s: s.predict([[1, 2]]), r"prompt_ids has shape \(1, 2\); give a vector"),
    (lambda s: s.predict(3), r"prompt_ids has shape \(\); give a vector"),
    (lambda s: s.predict(["a"]), r"prompt_ids is \['a'\] of type <U1; give integers"),
    (lambda s: s.predict([None]), r"prompt_ids is \[None\] of type object; give integers"),
    (lambda s: s.predict([True]), "of type bool; give integers"),
    (lambda s: s.predict([0.5]), r"prompt_ids is \[0\.5\] of type float64; give integers"),
    (lambda s: s.predict([1.0, np.inf]), r"prompt_ids\[1\] is inf; give integers from 0 to 19"),
    (lambda s: s.predict([np.nan]), r"prompt_ids is \[nan\]"),
    (lambda s: s.predict([1e300]), r"prompt_ids\[0\] is 1e\+300"),
    (lambda s: s.predict([2**70]), "prompt_ids is .* give integers"),
    (lambda s: s.predict([[1], [2, 3]]), "prompt_ids is not an array on the host .* give a vector of integers"),
    (lambda s: s.observe([1, N], [0, 0], 8), r"prompt_ids\[1\] is 20"),
    (lambda s: s.observe([-1], [0], 8), r"prompt_ids\[0\] is -1"),
    (lambda s: s.observe([1], [9], 8), r"successes\[0\] is 9 of 8 rollouts; give successes <= group_size"),
    (lambda s: s.observe([1, 2], [1, -1], 8), r"successes\[1\] is -1; give integers from 0"),
    (lambda s: s.observe([1], [0.5], 8), r"successes is \[0\.5\]"),
    (lambda s: s.observe([1], [np.nan], 8), r"successes is \[nan\]"),
    (lambda s: s.observe([1], np.ma.array([2], mask=[True]), 8), "successes has masked entries"),
    (lambda s: s.observe([1, 2], np.ma.array([True, True], mask=[False, True]), 1), "successes has masked entries"),
    (lambda s: s.select(1, exclude=np.ma.array([True] * N, mask=[True] * N)), "exclude has masked entries"),
    (lambda s: s.observe([1], [0], -8), r"group_size\[0\] is -8"),
    (lambda s: s.observe([1], [0], 2**24), r"group_size\[0\] is 16777216"),
    (lambda s: s.observe([1], [0], None), "group_size is .* of type object; give integers"),
    (
        lambda s: s.observe([1, 2], [0], 8),
        "2 prompt_ids, 1 successes and 2 group_size; give one entry per prompt",
    ),
    (lambda s: s.observe([1, 2], [0, 0], [8]), "2 prompt_ids, 2 successes and 1 group_size"),
    (lambda s: s.observe([], [1], 8), "0 prompt_ids, 1 successes"),
    (lambda s: s.load_state_dict({}), r"state_dict has the keys \[\]; give what state_dict\(\) returned"),
    (lambda s: s.load_state_dict({"arrays": {}, "metadata": {}}), "the checkpoint has format None"),
    (lambda s: s.load_state_dict(None), "state_dict has type NoneType; give what"),
    (lambda s: s.load_state_dict([]), "state_dict has type list; give what"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_input_is_named_and_changes_nothing(call, message):
    selector = trained(candidate_ratio=3)
    before = selector.state_dict()
    with pytest.raises(ValueError, match=message):
        call(selector)
    assert_same(selector.state_dict(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_prompts": None}, "keys and num_prompts are both None; give one of them"),
        ({"keys": [1]}, "num_prompts is 20 and keys is not None; give one of them"),
        ({"num_prompts": 0}, "num_prompts is 0; give an integer of at least 1"),
        ({"num_prompts": 2**31 - 1}, "num_prompts is 2147483647; give at most 2147483646"),
        ({"num_prompts": 2.5}, r"num_prompts is 2\.5"),
        ({"keys": ["a", "b", "a"], "num_prompts": None}, "keys holds the entry 'a' 2 times; give distinct entries"),
        ({"keys": [3, 3], "num_prompts": None}, "keys holds the entry 3 2 times"),
        ({"keys": [], "num_prompts": None}, r"keys has shape \(0,\)"),
        ({"keys": "abc", "num_prompts": None}, r"keys has shape \(\)"),
        ({"keys": [0.5], "num_prompts": None}, r"keys\[0\] is 0.5 of type float; give a vector of strings or integers"),
        ({"keys": [None], "num_prompts": None}, "of type NoneType; give a vector of strings or integers"),
        ({"seed": -1}, "seed is -1; give an integer from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"seed": 1.5}, r"seed is 1\.5"),
        ({"seed": "1"}, "seed is '1'"),
        ({"candidate_ratio": 0}, "candidate_ratio is 0; give an integer of at least 1"),
        ({"candidate_ratio": 1.5}, r"candidate_ratio is 1\.5"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    "keys",
    [
        ["a", "b", "ccc"],
        np.array(["a", "b", "ccc"]),
        np.array(["a", "b", "ccc"], object),
        np.array(["a", "b", "ccc"], np.dtypes.StringDType()),
    ],
)
def test_keys_identify_the_pool_in_any_container(keys):
    selector = make(keys=keys, num_prompts=None)
    assert selector.num_prompts == 3
    make(keys=("a", "b", "ccc"), num_prompts=None).load_state_dict(selector.state_dict())


@pytest.mark.parametrize("other", [["b", "a", "c"], ["a", "b", "d"], ["a", "bc", ""], [1, 2, 3], ["a", "b"]])
def test_other_keys_are_another_pool(other):
    state = make(keys=["a", "b", "c"], num_prompts=None).state_dict()
    with pytest.raises(ValueError, match=r"another pool .* give the same keys in the same order"):
        make(keys=other, num_prompts=None).load_state_dict(state)


OTHERS = {
    "method": (METHODS["dps"], {}, "method: saved 'mopps', here 'dps'"),
    "decay": (
        jaxsel.mopps(decay=0.9),
        {},
        "another method or other hyperparameters .predictor.decay: saved 0.5, here 0.9",
    ),
    "rule": (jaxsel.mopps(rule=jaxsel.gumbel_top_k()), {}, "rule.name: saved 'top_k', here 'gumbel_top_k'"),
    "prior": (jaxsel.mopps(prior_alpha=np.ones(N)), {}, "prior_alpha: saved 1.0, here 'sha256"),
    "ratio": (MOPPS, {"candidate_ratio": 2}, "candidate_ratio: saved None, here 2"),
    "pool": (MOPPS, {"num_prompts": N + 1}, "another pool .20 prompts without keys, here 21 prompts"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_states_of_other_methods_or_pools_are_refused(other, tmp_path):
    method, arguments, message = OTHERS[other]
    selector = make()
    selector.save(tmp_path)
    receiver = make(method, **arguments)
    before = receiver.state_dict()
    with pytest.raises(ValueError, match=message):
        receiver.load_state_dict(selector.state_dict())
    assert_same(receiver.state_dict(), before)
    with pytest.raises(ValueError, match=message):
        PromptSelector.load(tmp_path, method, **({"num_prompts": N} | arguments))


def test_arrays_of_other_shapes_are_refused():
    state = make().state_dict()
    state["arrays"]["visits"] = np.zeros(N + 1, np.int32)
    selector = make()
    with pytest.raises(ValueError, match=r"arrays of shapes .*'visits': \(21,\)"):
        selector.load_state_dict(state)
    del state["arrays"]["visits"]
    with pytest.raises(ValueError, match="arrays of shapes"):
        selector.load_state_dict(state)
    assert_same(selector.state_dict(), make().state_dict())


@pytest.mark.parametrize("candidate_ratio", [None, 3])
@pytest.mark.parametrize("way", ["save", "state_dict"])
def test_a_restored_selector_continues_like_the_original(method, way, candidate_ratio, tmp_path):
    selector = trained(method, seed=5, candidate_ratio=candidate_ratio)
    if way == "save":
        selector.save(tmp_path / "new" / "folder")
        restored = PromptSelector.load(
            tmp_path / "new" / "folder", method, num_prompts=N, candidate_ratio=candidate_ratio
        )
    else:
        restored = make(method, candidate_ratio=candidate_ratio)
        restored.load_state_dict(selector.state_dict())
    assert_same(restored.state_dict(), selector.state_dict())
    assert_same(restored.predict(), selector.predict())
    assert choices(restored, 6) == choices(selector, 6)
    assert_same(restored.state_dict(), selector.state_dict())


def test_state_dicts_hold_nothing_but_numbers_strings_and_bytes(method):
    state = trained(method, candidate_ratio=2).state_dict()
    assert all(array.keys() == {"dtype", "shape", "data"} for array in state["arrays"].values())
    plain = (dict, list, str, bytes, int, float, bool, type(None))
    assert all(type(leaf) in plain for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("num_prompts", [N, 100_000])  # JAX copies small arrays, and shares large ones with NumPy
def test_state_dicts_are_snapshots(method, num_prompts):
    selector = make(method, num_prompts=num_prompts, candidate_ratio=2)
    selector.observe([1, 2], [3, 4], 8)
    state = selector.state_dict()
    kept = copy.deepcopy(state)
    receiver = make(method, num_prompts=num_prompts, candidate_ratio=2)
    receiver.load_state_dict(state)
    receiving = receiver.predict()
    for _ in range(3):
        selector.observe(selector.select(4), [1, 2, 3, 4], 8)
    assert_same(state, kept)
    assert_same(receiver.predict(), receiving)
    state["arrays"].clear()
    assert_same(receiver.predict(), receiving)


def test_predictions_are_snapshots(method):
    selector = make(method, num_prompts=100_000)
    prediction = selector.predict()
    kept = copy.deepcopy(prediction)
    for _ in range(3):
        selector.observe(selector.select(4), [1, 2, 3, 4], 8)
    assert_same(prediction, kept)


def test_selectors_of_one_method_do_not_share_their_prior():
    size = 100_000
    method = jaxsel.mopps(prior_alpha=np.full(size, 3.0), prior_beta=np.ones(size))
    for _ in range(3):
        selector = PromptSelector(method, num_prompts=size)
        np.testing.assert_array_equal(selector.predict().success_rate, np.float32(0.75))
        for _ in range(3):
            selector.observe([1, 2], [1, 2], 8)


@pytest.mark.usefixtures("unchecked_types")
def test_hyperparameters_of_numpy_can_be_saved(tmp_path):
    hyperparameters: dict[str, Any] = {"decay": np.float32(0.5), "group_size": np.int64(8)}
    method = jaxsel.mopps(**hyperparameters)
    make(method, candidate_ratio=np.int64(2), seed=np.uint32(7)).save(tmp_path)
    PromptSelector.load(tmp_path, MOPPS, num_prompts=N, candidate_ratio=2)


def test_every_prompt_is_a_candidate_once_per_epoch():
    selector = make(jaxsel.uniform(), num_prompts=24, candidate_ratio=1)
    for _ in range(3):
        epoch = np.concatenate([selector.select(6) for _ in range(4)])
        assert sorted(epoch.tolist()) == list(range(24))


@pytest.mark.parametrize("taken", [0, 1, 2, 3])  # 2 x 10 candidates are one epoch of 20 rows
def test_a_checkpoint_can_be_written_anywhere_in_an_epoch(taken, tmp_path):
    selector = make(METHODS["dps"], candidate_ratio=2)
    for _ in range(taken):
        selector.select(5)
    selector.save(tmp_path)
    restored = PromptSelector.load(tmp_path, METHODS["dps"], num_prompts=N, candidate_ratio=2)
    assert choices(restored) == choices(selector)


def test_windows_larger_than_the_pool_are_the_pool():
    selector = make(METHODS["dps"], candidate_ratio=10)
    assert sorted(selector.select(N).tolist()) == list(range(N))
    assert len(set(selector.select(4).tolist())) == 4


def test_given_candidates_do_not_advance_the_window():
    first, second = (make(METHODS["dps"], candidate_ratio=2, seed=1) for _ in range(2))
    first.select(2, [1, 2, 3])
    second.select(2, [4, 5, 6])
    assert first.select(4).tolist() == second.select(4).tolist()


@pytest.mark.parametrize(("sizes", "remembered"), [([1] * 100, True), ([4] * 64, True), ([4] * 65, False)])
def test_the_first_of_many_open_selections_is_remembered(sizes, remembered):
    """64 selections stay open, and more if they hold few prompts."""
    selector = PromptSelector(jaxsel.uniform(), num_prompts=400, track_in_flight=True)
    first, *_ = [selector.select(size) for size in sizes]
    selector.observe(first, np.ones(len(first), int), 8)
    assert ("selector/success_rate_mae" in selector.metrics()) is remembered


def test_batches_of_many_sizes_share_few_compilations():
    method = jaxsel.dps(decay=0.6)
    selector = PromptSelector(method, num_prompts=100)
    for size in range(65):
        ids = np.arange(size)
        selector.observe(ids, ids % 9, 8)
        selector.predict(ids)
    assert selector._belief._update.number_of_programs() == 1  # observed batches are padded to 256
    assert selector._belief._predict._cache_size() == 4  # ids are padded to 8, 16, 32 or 64
    for _ in range(5):
        selector.observe(selector.select(4), [1] * 4, 8)
    other = PromptSelector(method, num_prompts=100, seed=9)
    other.observe(other.select(4), [1] * 4, 8)
    assert selector._chooser._select._cache_size() == 1
    assert selector._belief._update.number_of_programs() == 1
