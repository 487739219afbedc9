"""Tests of the parts of the adapter for verl that need no verl.

These are its options, the keys of prompts, the selector, and `Outcomes`, which collects the rewards of finished groups
until a step observes them.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import jaxsel
from jaxsel.integrations._verl_options import Options, pool_keys, prompt_selector, prompt_texts, read_options
from jaxsel.integrations._verl_outcomes import Outcomes, one_per_session, reward_of
from jaxsel.integrations.edge import TrainerEdge

pytestmark = pytest.mark.slow

N = 6


class Table(dict):
    """A stand-in for verl's table of prompts."""

    column_names = property(lambda self: list(self))

    def __len__(self):
        return max(map(len, self.values()))


def outcomes(**options):
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0, track_in_flight=True)
    return Outcomes(TrainerEdge(selector, **options))


# Options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"data.jaxsel is None, which names no method; set for example \+data.jaxsel.method=mopps"),
        ({"seed": 1}, "names no method"),
        ({"method": "dps", "argument": {}}, "data.jaxsel has the entry 'argument'; give only method, arguments"),
        ({"method": "dps", "threshold": math.nan}, "threshold is nan"),
        ({"method": "dps", "threshold": "half"}, "threshold is half; give a finite number"),
        ({"method": "dps", "threshold": None}, "threshold is None; give a finite number"),
        ({"method": 5}, "data.jaxsel.method is 5; give the name of a method"),
        ({"method": "dps", "arguments": None}, "data.jaxsel.arguments is None; give names and values"),
        ({"method": "dps", "arguments": [1]}, r"data.jaxsel.arguments is \[1\]; give names and values"),
        ({"method": "dps", "key": 5}, "data.jaxsel.key is 5; give the name of a column, or null"),
    ],
)
def test_wrong_options_are_refused(unchecked_types, given, message):
    with pytest.raises(ValueError, match=message):
        read_options(given)


def test_options_are_read():
    assert read_options({"method": "dps", "key": None}) == Options(method="dps", key=None)


# Keys


def test_sources_that_each_count_from_0_have_different_keys():
    rows = Table(data_source=["a", "a", "b"], extra_info=[{"index": 0}, {"index": 1}, {"index": 0}])
    assert pool_keys(rows, "extra_info.index") == ["a/0", "a/1", "b/0"]
    assert pool_keys(rows, None) is None
    assert pool_keys(Table(name=["p", "q"]), "name") == ["p", "q"]


@pytest.mark.parametrize(
    ("rows", "key", "message"),
    [
        (
            Table(extra_info=[{"index": 0}, {}]),
            "extra_info.index",
            "row 1 .* verl would give all such rows the index 0",
        ),
        (Table(extra_info=[None, {"index": 0}]), "extra_info.index", "row 0 of data.train_files has no extra_info.ind"),
        (Table(prompt=["a"]), "extra_info.index", r"row 0 .*\+data.jaxsel.key=COLUMN, .*\+data.jaxsel.key=null"),
        (Table(prompt=["a"]), "name", "row 0 of data.train_files has no name; number the rows in the file"),
        (Table(name=["a", "a"]), "name", r"name in data.train_files does not identify .* 'a' 2 times.*key=null"),
        (Table(extra_info=[{"index": 3}] * 2), "extra_info.index", "does not identify the prompts: .* 3 2 times"),
        (Table(name=[0.5, 1.5]), "name", "does not identify the prompts"),
    ],
)
def test_missing_and_repeated_keys_are_refused(rows, key, message):
    with pytest.raises(ValueError, match=message):
        pool_keys(rows, key)


def test_conversations_become_texts():
    rows = Table(prompt=["2+2=", [{"role": "user", "content": "é"}]])
    assert prompt_texts(rows, "prompt") == ["2+2=", '[{"content": "é", "role": "user"}]']


# The selector


def made(**pool):
    return jaxsel.PromptSelector(jaxsel.mopps(), track_in_flight=True, **pool)


def test_a_method_is_made_with_its_arguments():
    options = Options("mopps", {"decay": 0.7}, seed=5, candidate_ratio=2)
    selector = prompt_selector(options, N, None)
    alone = jaxsel.PromptSelector(jaxsel.mopps(decay=0.7), num_prompts=N, seed=5, candidate_ratio=2)
    assert selector.spec == alone.spec
    assert selector.select(2).tolist() == alone.select(2).tolist()
    assert selector.in_flight is not None


def test_a_function_may_make_a_method_or_a_selector():
    own = Options("jaxsel.methods:dps", {"decay": 0.6})
    assert prompt_selector(own, N, None).spec == jaxsel.PromptSelector(jaxsel.dps(decay=0.6), num_prompts=N).spec
    selector = prompt_selector(Options(f"{__name__}:made", {"num_prompts": N}), N, None)
    assert selector.num_prompts == N


@pytest.mark.parametrize(
    ("options", "keys", "message"),
    [
        (Options("grpo"), None, "data.jaxsel.method is 'grpo'; give one of 'adaptive', 'arcus', 'dps', 'mopps'"),
        (Options("mopps", {"decays": 1}), None, "data.jaxsel.arguments is {'decays': 1}: .*unexpected keyword"),
        (Options(f"{__name__}:made", {"num_prompts": N + 1}), None, "has 7 prompts and data.train_files 6"),
        (Options(f"{__name__}:made", {"num_prompts": N}), list("abcdef"), "has other keys .*give it .'a', 'b'"),
        (Options("builtins:dict"), None, "data.jaxsel.method is {}, which is not a PromptSelector"),
    ],
)
def test_a_wrong_method_or_selector_is_refused(options, keys, message):
    with pytest.raises(ValueError, match=message):
        prompt_selector(options, N, keys)


# Outcomes


def test_a_group_is_collected_once_however_often_verl_looks():
    mine = outcomes()
    assert mine.unseen({"a"}) == {"a"}
    assert mine.unseen({"a", "b"}) == {"b"}
    resumed = outcomes()
    resumed.load_state_dict(mine.state_dict())
    assert resumed.unseen({"a", "b", "c"}) == {"c"}
    assert mine.unseen({"b"}) == set()


def test_collected_groups_are_observed_together_also_after_a_checkpoint():
    mine, alone = outcomes(), jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0, track_in_flight=True)
    ids = mine.edge.next_batch(3)
    assert ids.tolist() == alone.select(3).tolist()
    for row, rewards in zip(ids.tolist(), ([1.0, 0.0], [None, 1.0, math.nan], [0.0]), strict=True):
        mine.add(f"group of {row}", row, rewards)
    resumed = outcomes()
    resumed.load_state_dict(mine.state_dict())
    alone.observe(ids, [1, 1, 0], [2, 1, 1])
    for one in (mine, resumed):
        one.tell(1, drained=False)
        one.edge.end_step()
        np.testing.assert_array_equal(one.edge.selector.visits, alone.visits)
        np.testing.assert_array_equal(one.edge.selector.predict().success_rate, alone.predict().success_rate)
        assert one.edge.metrics()["selector/observes"] == 1
        one.tell(2, drained=False)  # nothing is left to observe
        assert one.edge.metrics()["selector/observes"] == 1


def test_prompts_without_a_finished_group_are_given_back_when_nothing_is_generated():
    mine = outcomes(draw_size=4)
    ids = [mine.edge.next_prompt() for _ in range(3)]  # 4 are drawn, and the fourth waits
    mine.add("a", ids[0], [1.0])
    mine.tell(1, drained=False)
    assert mine.edge.handed_out.tolist() == sorted(ids[1:])
    mine.tell(1, drained=True)
    assert mine.edge.handed_out.tolist() == []
    assert mine.edge.selector.visits.sum() == 1
    assert mine.edge.next_prompt() not in ids  # the fourth prompt is still there


def test_outcomes_are_told_early_when_the_pool_runs_out():
    mine = outcomes()
    ids = mine.edge.next_batch(N - 1)
    for row in ids.tolist():
        mine.add(f"{row}", row, [1.0, 0.0])
    mine.make_room(1, 1)
    assert len(mine.edge.handed_out) == N - 1
    mine.make_room(2, 1)
    assert len(mine.edge.handed_out) == 0
    assert len(mine.edge.next_batch(2)) == 2


def test_the_named_reward_is_read():
    extra = {"reward_extra_info": {"acc": 0.0, "format": 1.0}}
    assert reward_of(extra, "format") == 1.0
    assert reward_of(SimpleNamespace(data=extra), "acc") == 0.0
    for unjudged in ({}, {"reward_extra_info": {}}, {"reward_extra_info": None}, None):
        assert reward_of(unjudged, "acc") is None
    for mark in ({"timeout": True}, {"error": "no answer from the judge"}):  # of verl's rate-limited manager
        assert reward_of({"reward_extra_info": {"acc": 0.0} | mark}, "acc") is None
    assert reward_of({"reward_extra_info": {"acc": 1.0, "timeout": 0.0, "error": None}}, "acc") == 1.0
    with pytest.raises(ValueError, match=r"returned 'acc', 'format'; set \+data.jaxsel.success to the name"):
        reward_of(extra, "correct")


def test_sessions_with_several_trajectories_count_once():
    keys = ["a-1_0_0", "a-1_0_1", "b_0_0", "a-1_1_0"]
    assert one_per_session(keys, {"a-1"}) == {("a-1", "0"): "a-1_0_0", ("a-1", "1"): "a-1_1_0"}
