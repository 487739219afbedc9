"""Tests of `TrainerEdge`, the part that the adapters of all trainers share.

An edge hands out the prompts that a `PromptSelector` chooses, and turns rewards into its observations. Many tests
compare an edge (`ours`) with a `PromptSelector` that is called directly (`alone`).
"""

import math
import signal
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import jaxsel
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.integrations.history import read_history
from tests.support.interruptions import interrupt_updates

pytestmark = pytest.mark.slow  # 17 s: a selector is compiled per test

N = 30
KEYS = [f"p{row}" for row in range(N)]


def selector(method=None, **options):
    defaults = {"keys": KEYS, "seed": 0, "track_in_flight": True}
    return jaxsel.PromptSelector(method or jaxsel.mopps(), **defaults | options)


def edge(method=None, *, in_flight_steps=None, **options):
    return TrainerEdge(selector(method, in_flight_steps=in_flight_steps), **options)


def rewards_of(ids, round_=0, size=4):
    """Return rewards of each prompt that depend only on the prompt and the round."""
    return [np.random.default_rng([int(i), round_]).random(size).tolist() for i in ids]


# Handing out prompts


def test_an_edge_chooses_and_learns_like_a_plain_selector():
    alone, ours = selector(), edge()
    for round_ in range(5):
        ids = alone.select(6)
        np.testing.assert_array_equal(ours.next_batch(6), ids)
        rewards = np.array(rewards_of(ids, round_))
        alone.observe(ids, (rewards > 0.5).sum(1), 4)
        ours.observe(ids, rewards)
    np.testing.assert_array_equal(alone.predict().success_rate, ours.selector.predict().success_rate)


def test_single_prompts_come_from_one_drawn_batch():
    together, one_by_one = edge(), edge(draw_size=8)
    batch = together.next_batch(8)
    assert [one_by_one.next_prompt() for _ in range(8)] == batch.tolist()
    assert one_by_one.selector.state_dict()["metadata"]["counters"]["selects"] == 1
    assert set(one_by_one.next_batch(8)) & set(batch) == set()


def test_waiting_prompts_are_handed_out_before_new_draws():
    ours = edge(draw_size=8)
    first = ours.next_batch(3)
    second = ours.next_batch(8)  # 5 drawn prompts wait; for the 3 missing ones, 8 are drawn
    assert len(second) == 8
    assert len(set(first) | set(second)) == 11
    assert ours.metrics()["selector/in_flight"] == 11
    assert len(ours.selector.in_flight) == 16


def test_the_last_free_prompts_are_handed_out_and_no_more():
    ours = edge(draw_size=8)
    seen = [ours.next_prompt() for _ in range(N)]
    assert sorted(seen) == list(range(N))
    with pytest.raises(ValueError, match="batch_size is 1 of 0 prompts to choose from"):
        ours.next_prompt()
    ours.observe([7], [[1.0]])
    assert ours.next_prompt() == 7


def test_a_refused_batch_hands_out_nothing():
    ours = edge(draw_size=8)
    ours.next_batch(5)
    with pytest.raises(ValueError, match="to choose from"):
        ours.next_batch(N)
    assert sorted([*ours.next_batch(25)]) == sorted(set(range(N)) - set(edge(draw_size=8).next_batch(5)))


@pytest.mark.parametrize("draw_size", [None, 7])
def test_threads_never_get_the_same_prompt(draw_size):
    ours, got, lock = edge(draw_size=draw_size), [], threading.Lock()
    start = threading.Barrier(5)

    def worker():
        start.wait()
        for _ in range(6):
            prompt = ours.next_prompt()
            with lock:
                got.append(prompt)

    threads = [threading.Thread(target=worker) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(N))


def test_a_prompt_comes_again_after_it_was_observed_released_or_timed_out():
    few = jaxsel.PromptSelector(jaxsel.uniform(), num_prompts=4, track_in_flight=True, in_flight_steps=1)
    ours = TrainerEdge(few)
    first = ours.next_batch(2)
    second = ours.next_batch(2)
    assert set(first) | set(second) == set(range(4))
    assert set(ours.next_batch(2)) == set(first)  # timed out after one later selection
    ours.observe(first, [[1.0], [0.0]])
    ours.release(first)
    ours.release(second)
    assert set(ours.next_batch(4)) == set(range(4))


def test_release_without_ids_releases_all_prompts():
    ours = edge(draw_size=8)
    ours.next_batch(3)
    ours.release()
    assert len(ours.selector.in_flight) == 0
    assert sorted(ours.next_batch(N)) == list(range(N))


def test_an_observed_prompt_that_still_waits_is_not_handed_out_twice():
    ours = edge(jaxsel.uniform(), draw_size=20)
    ours.next_batch(1)
    (waiting, *_) = sorted(set(ours.selector.in_flight) - {*edge(jaxsel.uniform(), draw_size=20).next_batch(1)})
    ours.observe([waiting], [[1.0]])  # a late reward from an earlier hand-out
    assert len(set(ours.next_batch(29))) == 29


# Observing rewards


@pytest.mark.parametrize(
    "rewards",
    [
        [[1.0, 0.0, None], [0.5, 0.6, math.nan], [math.inf], []],
        {"format": [0, 0, 0, 0], "accuracy": [[1, 0, None], [0.5, 0.6, None], [None], []]},
    ],
)
def test_groups_may_differ_in_size_and_missing_rewards_do_not_count(rewards):
    ours, alone = edge(success="accuracy" if isinstance(rewards, dict) else None), selector()
    ids = ours.next_batch(4)
    ours.observe(ids, rewards)
    alone.select(4)
    alone.observe(ids, [1, 1, 0, 0], [2, 2, 0, 0])
    np.testing.assert_array_equal(ours.selector.predict().success_rate, alone.predict().success_rate)
    assert ours.selector.visits.sum() == 2
    assert len(ours.selector.in_flight) == 0  # groups without a finite reward are not in flight either
    assert ours.metrics()["selector/judged_share"] == 0.5


def test_tensors_of_torch_are_rewards_also_in_bfloat16_and_with_a_gradient():
    torch = pytest.importorskip("torch")
    from jaxsel.integrations._rewards import counted

    values = [[1.0, 0.0], [math.nan, 1.0]]
    for rewards in (torch.tensor(values, dtype=torch.bfloat16), torch.tensor(values, requires_grad=True)):
        for form in (rewards, list(rewards), [list(row) for row in rewards]):
            successes, group_size = counted(np.arange(2), form, None, 0.5)
            assert successes.tolist() == [1, 1]
            assert group_size.tolist() == [2, 1]


def test_flat_rewards_teach_the_same_as_grouped_rewards():
    flat, grouped = edge(), edge()
    flat.observe([3, 4, 3, 4], [1, None, 0, 1])
    grouped.observe([3, 4], [[1, 0], [None, 1]])
    np.testing.assert_array_equal(flat.selector.predict().success_rate, grouped.selector.predict().success_rate)
    np.testing.assert_array_equal(flat.selector.visits, grouped.selector.visits)


@given(
    st.lists(st.lists(st.sampled_from([None, 0.0, 0.5, 0.51, 1.0, math.nan]), max_size=5), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, 0.9]),
)
def test_counts_equal_a_loop(groups, threshold):
    from jaxsel.integrations._rewards import counted

    successes, group_size = counted(np.arange(len(groups)), groups, None, threshold)
    known = [[x for x in group if x is not None and math.isfinite(x)] for group in groups]
    assert group_size.tolist() == [len(group) for group in known]
    assert successes.tolist() == [sum(x > threshold for x in group) for group in known]


@pytest.mark.parametrize("credit", [0.1, 0.2, 0.3, 0.6, 0.7])
@pytest.mark.parametrize("dtype", [float, np.float32])
def test_a_reward_equal_to_the_threshold_is_no_success_in_any_float(credit, dtype):
    from jaxsel.integrations._rewards import counted

    for rewards in (np.array([[credit, credit, 1.0]], dtype), [list(np.array([credit, credit, 1.0], dtype))]):
        assert counted(np.array([0]), rewards, None, credit)[0].tolist() == [1]
    assert counted(np.array([0]), np.array([[credit]], dtype), None, credit - 1e-3)[0].tolist() == [1]


def test_late_observations_and_parts_of_a_step():
    ours, alone = edge(jaxsel.dps()), selector(jaxsel.dps())
    ids, late = ours.next_batch(4), [5, 6]
    alone.select(4)
    for part in (ids[:2], ids[2:]):
        ours.observe(part, rewards_of(part), step=3)
    ours.observe(late, rewards_of(late), step=1)
    everything = [*ids, *late]
    alone.observe(everything, (np.array(rewards_of(everything)) > 0.5).sum(1), 4)
    np.testing.assert_array_equal(ours.next_batch(4), alone.select(4))
    np.testing.assert_array_equal(ours.selector.predict().mixed, alone.predict().mixed)


def test_rows_by_key():
    ours = edge(keys=KEYS)
    assert ours.rows(["p3", "p0"]).tolist() == [3, 0]
    numbered = jaxsel.PromptSelector(jaxsel.mopps(), keys=np.array([10, 20]), track_in_flight=True)
    assert TrainerEdge(numbered, keys=np.array([10, 20])).rows(np.array([20])).tolist() == [1]


def test_metrics_are_finite_floats_with_one_prefix():
    ours = edge()
    assert ours.metrics()["selector/in_flight"] == 0
    ids = ours.next_batch(4)
    ours.observe(ids, rewards_of(ids))
    metrics = ours.metrics()
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert all(name.startswith("selector/") for name in metrics)
    assert metrics["selector/observes"] == 1


# Saved state


def play(ours, rounds, first=0):
    chosen = []
    for round_ in range(first, first + rounds):
        ids = ours.next_batch(3)
        chosen.append(ids.tolist())
        ours.observe(ids, rewards_of(ids, round_), step=round_)
    return chosen


@pytest.mark.parametrize("method", [jaxsel.mopps, jaxsel.dps, jaxsel.uniform, jaxsel.adaptive])
@pytest.mark.parametrize("draw_size", [None, 5])
def test_a_resumed_edge_gives_the_same_bits(tmp_path, method, draw_size):
    through = edge(method(), draw_size=draw_size)
    play(through, 4)
    waits = through.next_batch(2)
    through.save(tmp_path / "checkpoint-4" / "selector.npz")
    resumed = TrainerEdge(selector(method(), seed=9), draw_size=draw_size)
    resumed.load(tmp_path / "checkpoint-4" / "selector.npz")
    for ours in (through, resumed):
        ours.observe(waits, rewards_of(waits))
    assert play(through, 6, 4) == play(resumed, 6, 4)
    a, b = through.state_dict(), resumed.state_dict()
    assert a == b


def test_a_state_dict_restores_an_edge():
    ours = edge(draw_size=5)
    play(ours, 2)
    state = ours.state_dict()
    again = edge(draw_size=5)
    again.load_state_dict(state)
    assert play(ours, 2, 2) == play(again, 2, 2)


def test_loading_changes_nothing_when_it_fails(tmp_path):
    other = edge(jaxsel.dps())
    other.save(tmp_path / "selector.npz")
    ours = edge(draw_size=8)
    play(ours, 2)
    before = ours.state_dict()
    with pytest.raises(ValueError, match="another method"):
        ours.load(tmp_path / "selector.npz")
    with pytest.raises(ValueError, match="does not exist; resume from an earlier checkpoint"):
        ours.load(tmp_path / "elsewhere.npz")
    with pytest.raises(ValueError, match="give what TrainerEdge"):
        ours.load_state_dict({"selector": {}})
    sound = edge().state_dict()
    for name, wrong in (("clock", "x"), ("clock", -1), ("waiting", [1, 1, 1]), ("waiting", [10**6])):
        with pytest.raises(ValueError, match=name):
            ours.load_state_dict(sound | {name: wrong})
    assert ours.state_dict() == before


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.filterwarnings("ignore:the checkpoint is of another pool")
def test_the_state_of_a_larger_pool_is_named():
    def of(keys):
        selector = jaxsel.PromptSelector(jaxsel.mopps(), keys=keys, track_in_flight=True)
        return TrainerEdge(selector, keys=keys, draw_size=len(keys))

    large, small = of(list("abcdefgh")), of(list("abcd"))
    large.next_prompt()
    with pytest.raises(
        ValueError, match=r"holds prompt .* of a pool larger than 4; give the same pool, or changed_pool=True"
    ):
        small.load_state_dict(large.state_dict())
    small.load_state_dict(large.state_dict(), changed_pool=True)
    with pytest.raises(ValueError, match="state_dict has type NoneType; give what"):
        small.load_state_dict({**small.state_dict(), "selector": None})


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"text"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "selector.npz"
    edge().save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="is damaged"):
        edge().load(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "selector.npz"
    edge().save(path)
    data = bytearray(path.read_bytes())
    at = data.find(b'"waiting"')
    data[at + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        edge().load(path)


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "selector.npz"
    ours = edge()
    ours.save(path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        ours.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["selector.npz"]


# Recorded history


def test_the_history_replays(tmp_path):
    read_history = pytest.importorskip("jaxsel.integrations.history").read_history
    ours = edge(jaxsel.dps(), history=tmp_path / "history", texts=KEYS)
    play(ours, 5)
    ours.flush()
    found = read_history(tmp_path / "history")
    assert found.history.num_steps == 5
    assert (found.num_prompts, found.spec, found.texts) == (N, ours.selector.spec, KEYS)
    again = jaxsel.replay(found.history, jaxsel.dps(), num_prompts=N, seed=0)
    order = np.lexsort([found.rollouts["prompt_id"], found.rollouts["clock"]])
    np.testing.assert_array_equal(again.prediction.success_rate, found.rollouts["success_rate"][order])


def test_parts_of_a_step_are_one_batch_of_the_history(tmp_path):
    read_history = pytest.importorskip("jaxsel.integrations.history").read_history
    ours = edge(history=tmp_path)
    for step in range(3):
        for part in np.split(ours.next_batch(4), 2):
            ours.observe(part, rewards_of(part, step), step=step)
    ours.observe([1], [[None]])  # a batch without finite rewards also counts as a step
    ours.observe([2], [[1.0]])
    ours.flush()
    found = read_history(tmp_path)
    assert found.history.num_steps == ours.metrics()["selector/observes"] == 5
    assert found.rollouts["step"].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [4]


def test_predictions_of_a_step_in_parts_know_no_earlier_part(tmp_path):
    """Prompts with equal embeddings teach about each other."""
    read_history = pytest.importorskip("jaxsel.integrations.history").read_history
    ours = edge(jaxsel.adaptive(np.ones((N, 2), np.float32)), history=tmp_path)
    predicted = []
    for step in range(2):
        predicted.append(ours.selector.predict([3, 5, 7]).success_rate)
        for prompt in (3, 5, 7):
            ours.observe([prompt], [[1.0, 1.0]], step=step)
        known = ours.selector.predict([7])
        assert known.success_rate > ours.selector.predict([7], open_step=False).success_rate == predicted[-1][2]
    ours.flush()
    np.testing.assert_array_equal(read_history(tmp_path).rollouts["success_rate"], np.concatenate(predicted))
    assert predicted[1][0] > predicted[0][0]


def test_a_prompt_in_several_parts_is_one_visit_with_the_prediction_before_it(tmp_path):
    read_history = pytest.importorskip("jaxsel.integrations.history").read_history
    ours = edge(history=tmp_path)
    predicted = []
    for step in range(2):
        predicted.append(ours.selector.predict([3]).success_rate[0])
        for reward in (1.0, 0.0, 1.0):
            ours.observe([3], [[reward]], step=step)
        ours.observe([5], [[0.0]], step=step)
        ours.flush()
        assert not ours.step_is_open
    rows = read_history(tmp_path).rollouts
    assert rows["prompt_id"].tolist() == [3, 5, 3, 5]
    assert rows["successes"].tolist() == [2, 0, 2, 0]
    assert rows["group_size"].tolist() == [3, 1, 3, 1]
    assert rows["success_rate"][[0, 2]].tolist() == predicted


def test_an_interrupted_observation_is_in_the_history(tmp_path, monkeypatch):
    ours = edge(history=tmp_path)
    batch = ours.next_batch(3)
    interrupt_updates(monkeypatch, ours.selector, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ours.observe(batch, rewards_of(batch))
    ours.flush()
    assert ours.metrics()["selector/observes"] == 1
    assert sorted(read_history(tmp_path).history.prompt_ids) == sorted(batch)
    assert not len(ours.handed_out)


def test_a_resumed_run_goes_on_with_the_history_of_its_checkpoint(tmp_path):
    read_history = pytest.importorskip("jaxsel.integrations.history").read_history
    ours = edge(history=tmp_path / "a")
    play(ours, 2)
    ours.save(tmp_path / "selector.npz")
    play(ours, 3, 2)
    ours.flush()
    once = read_history(tmp_path / "a").rollouts
    resumed = edge(history=tmp_path / "a")
    resumed.load(tmp_path / "selector.npz")
    play(resumed, 3, 2)
    resumed.flush()
    again = read_history(tmp_path / "a").rollouts
    for name, column in once.items():
        np.testing.assert_array_equal(column, again[name])


def test_a_new_run_does_not_drop_the_history_of_another(tmp_path):
    pytest.importorskip("pyarrow")
    ours = edge(history=tmp_path)
    play(ours, 2)
    ours.flush()
    with pytest.raises(ValueError, match="which holds another run"):
        edge(history=tmp_path).next_batch(2)


def test_a_run_that_is_resumed_from_before_its_first_batch_repeats_its_history(tmp_path):
    read_history = pytest.importorskip("jaxsel.integrations.history").read_history
    ours = edge(history=tmp_path / "history")
    ours.save(tmp_path / "selector.npz")
    play(ours, 2)
    ours.flush()
    resumed = edge(history=tmp_path / "history")
    resumed.load(tmp_path / "selector.npz")
    play(resumed, 1)
    resumed.flush()
    assert read_history(tmp_path / "history").history.num_steps == 1


def test_a_history_that_lacks_observed_batches_is_not_continued(tmp_path):
    """A run went on for a while without a history, whose later batches would seem to follow the earlier ones."""
    read_history = pytest.importorskip("jaxsel.integrations.history").read_history
    first = edge(history=tmp_path / "a")
    play(first, 2)
    without = edge()
    without.load_state_dict(first.state_dict())
    play(without, 3, 2)
    state = without.state_dict()
    again = edge(history=tmp_path / "a")
    again.load_state_dict(state)
    with pytest.raises(ValueError, match=r"which lacks the last 3 batches that this run has observed; give another"):
        again.next_batch(1)
    assert read_history(tmp_path / "a").history.num_steps == 2
    crashed = edge(history=tmp_path / "b")
    crashed.load_state_dict(state)
    play(crashed, 2, 5)
    crashed.flush()  # and no checkpoint after it
    later = edge(history=tmp_path / "b")
    later.load_state_dict(state)
    play(later, 1, 5)
    kept = edge(history=tmp_path / "b")
    kept.load_state_dict(later.state_dict())
    play(kept, 1, 6)
    kept.flush()
    assert np.unique(read_history(tmp_path / "b").rollouts["clock"]).tolist() == [5, 6]


def test_a_step_in_parts_without_a_history_counts_once():
    ours = edge()
    for step, parts in enumerate((3, 1)):
        for prompt_id in ours.next_batch(parts):
            ours.observe([prompt_id], [[1.0, 0.0]], step=step)
    assert ours.state_dict()["clock"] == 2
    ours.observe([], [])
    assert ours.state_dict()["unrecorded"] == 3


# Refused arguments


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="track_in_flight=True"):
        TrainerEdge(jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=3))
    with pytest.raises(ValueError, match="draw_size is 0"):
        edge(draw_size=0)
    with pytest.raises(ValueError, match="threshold is nan"):
        edge(threshold=math.nan)
    with pytest.raises(ValueError, match="keys are not the keys of the selector"):
        edge(keys=KEYS[::-1])
    with pytest.raises(ValueError, match=f"texts has 1 entries for {N} prompts"):
        edge(texts=["a"])
    with pytest.raises(ValueError, match=r"texts\[2\] is "):
        edge(texts=["a", "b", "\ud800", *KEYS[3:]])
    with pytest.raises(ValueError, match=r"texts\[1\] is None"):
        edge(texts=["a", None, *KEYS[2:]])


@pytest.mark.parametrize(
    ("ids", "rewards", "message"),
    [
        ([1, 2], [[1.0]], "prompt_ids has 2 entries, and rewards 1"),
        ([N], [[1.0]], rf"prompt_ids\[0\] is {N}"),
        ([1], [["right"]], "rewards holds something other than numbers"),
        ([1], [["0.9", "0.1"]], "rewards holds something other than numbers"),
        ([1, 2], [["0.9"], [0.1, None]], "rewards holds something other than numbers"),
        ([1], np.zeros((1, 2, 2)), r"rewards has shape \(1, 2, 2\)"),
        ([1], [[10**400]], "too large"),
        ([1], [[1j]], "complex"),
        ([1], {"a": [1], "b": [1]}, "success is None and the rewards are 'a', 'b'"),
    ],
)
def test_bad_observations_are_refused_and_change_nothing(ids, rewards, message):
    ours = edge()
    play(ours, 1)
    before = ours.state_dict()
    with pytest.raises(ValueError, match=message):
        ours.observe(ids, rewards)
    assert ours.state_dict() == before


def test_a_masked_reward_was_not_judged():
    ours = edge()
    ours.observe([1], np.ma.array([[1.0, 1.0, 0.0]], mask=[[True, False, False]]))
    assert ours.metrics()["selector/mixed_share"] == 1.0
    ours.observe([2], np.ma.array([[1.0, 0.0]], mask=[[True, False]]))
    assert ours.metrics()["selector/mixed_share"] == 0.0
    hidden, wrong = np.ma.array([1.0, 1.0], mask=True), np.ma.array([1.0, 0.0], mask=[True, False])
    for groups in ([hidden, wrong], (hidden, [np.ma.masked, 0.0]), [hidden, np.ma.array([0.0])]):
        ours = edge()
        ours.observe([1, 2], groups)
        assert ours.selector.visits[[1, 2]].tolist() == [0, 1]
        assert ours.selector.predict([1, 2]).success_rate.tolist() == pytest.approx([1 / 2, 1 / 3])


def test_an_unknown_reward_name_is_refused():
    with pytest.raises(ValueError, match="success is 'accuracy', but the rewards are named 'a', 'b'"):
        edge(success="accuracy").observe([1], {"a": [1], "b": [1]})
    for success in (None, "accuracy"):
        with pytest.raises(ValueError, match=f"success is {success!r}, and there are no rewards; give at least one"):
            edge(success=success).observe([1], {})
    with pytest.raises(ValueError, match="success is 'accuracy', but rewards have no names; give"):
        edge(success="accuracy").observe([1], [[1.0, 0.0]])


@pytest.mark.slow
def test_a_state_can_be_opened_onto_a_changed_pool_when_asked(tmp_path):
    keys = [f"p{row}" for row in range(30)]
    changed = ["new", *keys[:1:-1]]

    def over(keys, folder):
        own = jaxsel.PromptSelector(jaxsel.mopps(), keys=keys, seed=0, track_in_flight=True)
        return TrainerEdge(own, draw_size=12, history=tmp_path / folder)

    before = over(keys, "before")
    ids = before.next_batch(8)
    before.observe(ids[:6], [[1.0, 0.0]] * 6)  # the other two stay in flight, and four wait
    before.save(tmp_path / "state.npz")
    after = over(changed, "after")
    with pytest.raises(ValueError, match="another pool"):
        after.load(tmp_path / "state.npz")
    assert after.selector.visits.sum() == 0
    with pytest.warns(UserWarning, match="28 prompts were matched by their keys .* 1 are new, 2 are dropped"):
        after.load(tmp_path / "state.npz", changed_pool=True)
    seen = {keys[row] for row in ids[:6].tolist()}
    assert {key for key, visits in zip(changed, after.selector.visits, strict=True) if visits} == seen - {"p0", "p1"}
    assert len(after.selector.in_flight) == 0
    assert len(set(after.next_batch(29).tolist())) == 29  # nobody waits for prompts of the old pool
    after.observe([0], [[1.0]])
    after.flush()
    assert len(read_history(tmp_path / "after").history.step) == 1
    same = over(keys, "same")
    same.load(tmp_path / "state.npz", changed_pool=True)
    np.testing.assert_array_equal(same.selector.visits, before.selector.visits)


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"keys\[1\] is 'x'"):
        edge(keys=KEYS).rows(["p1", "x"])
    with pytest.raises(ValueError, match=r"keys\[0\] is \['p1'\]"):
        edge(keys=KEYS).rows([["p1"]])
    with pytest.raises(ValueError, match="made without keys"):
        edge().rows(["p1"])
