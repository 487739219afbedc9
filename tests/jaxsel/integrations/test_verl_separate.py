"""Tests in verl's mode `separate_async`, where the trainer lends its GPUs and groups finish while verl waits."""

import inspect
from collections import Counter

import numpy as np
import pytest

from tests.support.verl_lane import HAS_VERL, MARKS, NO_VERL

if not HAS_VERL:
    pytest.skip(NO_VERL, allow_module_level=True)

from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync  # pyright: ignore[reportMissingImports]

import jaxsel
from tests.support.tiny_verl import DAPO, SELECTED, G, K, N, coin, train

pytestmark = [*MARKS, pytest.mark.usefixtures("ray_and_transfer_queue")]
FLIP = coin(np.random.default_rng(0).beta(0.5, 0.5, size=N).tolist())
LENDS = "trainer.v1.separate_async.hybrid_rollout.enable_switch=True"
STALE = "trainer.v1.sampler.max_off_policy"
PACE = 0.2  # seconds


@pytest.fixture
def events(monkeypatch):
    """Return the list of all events in their order: ("asked", ...) and ("done", ...) of `train`, and ("observed", ...).

    The detail of "observed" is the step and a list of (row, successes, completions with a reward).
    """
    found = []
    plain = jaxsel.PromptSelector.observe

    def noting(self, ids, successes, group_size, *, step=None):
        found.append(("observed", (step, list(zip(*np.array([ids, successes, group_size]).tolist(), strict=True)))))
        plain(self, ids, successes, group_size, step=step)

    monkeypatch.setattr(jaxsel.PromptSelector, "observe", noting)
    return found


def separate(folder, events, *overrides, **more):
    note = lambda kind, detail: events.append((kind, detail))  # noqa: E731
    return train(folder, *SELECTED, *overrides, **{"mode": "separate_async", "reward": FLIP, "note": note} | more)


def observed(events):
    return [visit for kind, detail in events if kind == "observed" for visit in detail[1]]


def done(events):
    return [(it["row"], int(sum(it["rewards"])), len(it["rewards"])) for kind, it in events if kind == "done"]


def check_each_group_is_observed_once(run, events):
    """Check the groups against the coins, and that no prompt is generated again before its group was observed."""
    out: set[int] = set()
    for kind, detail in events:
        if kind == "asked":
            assert not out & set(detail["rows"])
            out |= set(detail["rows"])
        elif kind == "observed":
            out -= {row for row, _, _ in detail[1]}
    assert run.edge.handed_out.tolist() == sorted(out)
    unseen = Counter(done(events))
    unseen.subtract(observed(events))
    assert set(unseen.values()) <= {0, 1}
    assert {row for row, _, _ in +unseen} <= out  # they finished after verl's last look
    visits = Counter(row for row, _, size in observed(events) if size)
    assert run.edge.selector.visits.tolist() == [visits[row] for row in range(N)]


@pytest.mark.parametrize("pace", [0, PACE], ids=["at once", "in the background"])
@pytest.mark.parametrize("lends", [False, True])
def test_choices_are_those_of_a_plain_selector_with_the_same_events(tmp_path, events, pace, lends):
    run = separate(tmp_path, events, "+data.jaxsel.seed=7", *[LENDS] * lends, pace=pace, steps=6)
    check_each_group_is_observed_once(run, events)
    alone = jaxsel.PromptSelector(jaxsel.mopps(group_size=G), num_prompts=N, seed=7, track_in_flight=True)
    for kind, detail in list(events):  # a copy, because `alone` adds events
        if kind == "asked":
            assert detail["rows"] == alone.select(K).tolist()
        elif kind == "observed":
            alone.observe(*np.array(detail[1]).T, step=detail[0])
    assert len(run.asked) == 7  # one before the first step
    assert len(run.logs) == 6


def test_groups_that_finish_while_verl_lends_its_gpus_are_observed_once(tmp_path, events, monkeypatch):
    callers = count_callers(monkeypatch, "get_sampleable_count", "wait_for_sampleable")

    def some_fail(row, number, step):
        if row % 6 == 0 and number == 1:
            raise RuntimeError("no answer")
        return FLIP(row, number, step)

    run = separate(tmp_path, events, LENDS, *DAPO, pace=PACE, reward=some_fail, steps=6)
    check_each_group_is_observed_once(run, events)
    assert callers["wait_for_sampleable", "_wait_for_sampleable_and_switch"]
    assert {caller for name, caller in callers if name == "get_sampleable_count"} == {
        "on_step_begin",
        "on_sample_begin",
        "on_step_end",
    }
    equal = sum(size == G and wins in (0, G) for _, wins, size in observed(events))
    failed = sum(size < G for _, _, size in observed(events))
    assert equal
    assert sum(log.get("training/filter_groups/evicted_samples", 0) for log in run.logs) == equal
    assert sum(log.get("training/rollout_failure/evicted_samples", 0) for log in run.logs) == failed


def count_callers(monkeypatch, *names):
    """Return a counter of the calls of these methods of verl's buffer, per method and calling function."""
    found: Counter[tuple[str, str]] = Counter()

    def counting(name, plain):
        def call(self, *args):
            found[name, inspect.stack()[1].function] += 1
            return plain(self, *args)

        return call

    for name in names:
        monkeypatch.setattr(ReplayBufferAsync, name, counting(name, getattr(ReplayBufferAsync, name)))
    return found


@pytest.mark.parametrize(
    ("strategy", "late", "pace"), [("drop", 0, 0), ("drop", 2, 0), ("drop", 0, PACE), ("wait", 0, 0), ("wait", 0, PACE)]
)
def test_groups_of_an_old_policy_are_observed_also_if_verl_drops_them(tmp_path, events, strategy, late, pace):
    options = [f"{STALE}_threshold=1", f"{STALE}_strategy={strategy}"]
    run = separate(tmp_path, events, *options, late=late, pace=pace, steps=5)
    check_each_group_is_observed_once(run, events)
    dropped = sum(log.get("training/off_policy/evicted_samples", 0) for log in run.logs)
    assert dropped == 0 if strategy == "wait" else dropped > 0
    if strategy == "drop":
        assert len(observed(events)) >= 5 * K + dropped


def test_a_resumed_run_that_lends_and_filters_has_the_same_choices_and_rewards(tmp_path, events):
    options = [LENDS, *DAPO]
    through = separate(tmp_path, events, *options, "trainer.save_freq=2", steps=5)
    resume = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={tmp_path}/checkpoints/global_step_2"]
    resumed = separate(tmp_path, events, *options, *resume, steps=5)
    assert len(resumed.groups) >= 3 * K
    assert resumed.asked == through.asked[-len(resumed.asked) :]
    assert resumed.groups == through.groups[-len(resumed.groups) :]
    assert resumed.edge.state_dict() == through.edge.state_dict()
