"""Tests of the selector for Trinity-RFT, on stubs of Trinity's classes, and on the real ones where installed."""

import importlib.util
import itertools
import json
import sys
import types
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import jaxsel
from jaxsel.integrations import trinity

pytestmark = pytest.mark.slow

N, K, G = 24, 4, 8


class Columns(dict):
    column_names = ("question", "key")


def source(size=N):
    return SimpleNamespace(dataset_size=size, dataset=Columns(key=[f"p{row}" for row in range(size)]))


def config(seed=0, **kwargs):
    return SimpleNamespace(seed=seed, feature_keys=[], kwargs={"method": "mopps", "group_size": G} | kwargs)


def made(seed=0, size=N, **kwargs):
    return trinity.TrinitySelector(source(size), config(seed, **kwargs))


def shares(indices):
    """Return for each row a fixed share of successes among G rollouts, which looks random."""
    return [min(G, (7 * row + row**2) % (G + 1)) / G for row in indices]


def played(selector, steps):
    """Let the selector choose and get feedback for some steps; return its choices."""
    chosen = []
    for _ in range(steps):
        chosen.append(selector.get_indices(K))
        selector.feedback(chosen[-1], shares(chosen[-1]))
    return chosen


@pytest.fixture
def registry(monkeypatch):
    """Replace trinity.buffer.selector by a stub. Like Trinity, its registry refuses a second class of one name."""

    class Registry:
        def __init__(self):
            self.modules = {}
            self.get = self.modules.__getitem__

        def register_module(self, module_name, module_cls):
            if module_name in self.modules:
                raise KeyError(module_name)
            self.modules[module_name] = module_cls

    class BaseSelector:
        def __init__(self, data_source, config):
            raise AssertionError("not called, because TrinitySelector sets the same attributes")

    module = types.ModuleType("trinity.buffer.selector")
    module.__dict__.update(SELECTORS=Registry(), BaseSelector=BaseSelector)
    for name in ("trinity", "trinity.buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "trinity.buffer.selector", module)
    return module


@pytest.mark.parametrize("method", sorted(trinity.METHODS))
def test_a_configured_method_chooses_like_a_plain_selector(method):
    alone = jaxsel.PromptSelector(trinity.METHODS[method](group_size=G), num_prompts=N, seed=3)
    for chosen in played(made(3, method=method), 3):
        assert chosen == alone.select(K).tolist()
        alone.observe(chosen, [round(G * share) for share in shares(chosen)], G)


def test_indices_are_plain_integers_and_extra_info_has_predictions():
    selector = made()
    assert {type(row) for row in selector.get_indices(K)} == {int}
    chosen, about = selector.get_indices(K, return_extra_info=True)
    assert about["indices"] == chosen
    assert len(about["success_rate"]) == K
    json.dumps(about)


def test_prompts_without_feedback_are_free_again_after_some_batches():
    selector = made(size=12, in_flight_steps=2)
    first, second = selector.get_indices(4), selector.get_indices(4)
    third = selector.get_indices(4)
    assert sorted(first + second + third) == list(range(12))
    assert sorted(selector.get_indices(4)) == sorted(first)


def test_a_small_taskset_without_feedback_goes_round():
    selector = made(size=10)
    batches = [selector.get_indices(4) for _ in range(9)]
    assert all(len(set(batch)) == 4 for batch in batches)
    assert all(not set(one) & set(two) for one, two in itertools.pairwise(batches))
    with pytest.raises(ValueError, match="11"):
        selector.get_indices(11)
    with pytest.raises(ValueError, match="batch_size is 0"):
        selector.get_indices(0)


@pytest.mark.parametrize(
    ("mean", "expected"),
    [(0.0, (0, 8)), (1.0, (8, 8)), (0.5, (4, 8)), (2 / 7, (2, 7)), (1 / 3, (2, 6)), (np.nan, (0, 0)), (None, (0, 0))],
)
def test_a_mean_becomes_the_largest_group_with_this_mean(monkeypatch, mean, expected):
    """If rollouts fail, Trinity's mean is over fewer than G = 8. A mean over no rollouts (NaN, None) is no failure."""
    selector, seen = made(), []
    monkeypatch.setattr(selector.edge.selector, "observe", lambda ids, s, n, **_: seen.append((s.tolist(), n.tolist())))
    selector.feedback([5], [mean if mean is None else float(np.float32(mean))])
    assert seen == [([expected[0]], [expected[1]])]


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        (
            [1],
            [0.55],
            "values holds 0.55, which is no share of at most 8 rollouts; give group_size Trinity's repeat_times",
        ),
        ([1], [13 / 21], "and a rollout one experience"),  # 21 turns of 8 rollouts
        ([1], [1.5], "values holds 1.5, which is no share"),
        ([1], [-0.125], "values holds -0.125, which is no share"),
        ([1, 2], [0.5], "there are 2 indices and 1 values"),
        ([N], [0.5], "indices"),
    ],
)
def test_wrong_feedback_is_refused_and_changes_nothing(indices, values, message):
    selector = made()
    before = selector.state_dict()
    with pytest.raises(ValueError, match=message):
        selector.feedback(indices, values)
    assert selector.state_dict() == before


@pytest.mark.parametrize("method", ["mopps", "dps", "adaptive"])
def test_the_state_keeps_the_posterior_through_trinitys_json_file(method):
    through = made(method=method, key_column="key")
    played(through, 2)
    text = json.dumps(through.state_dict(), indent=2)
    expected = played(through, 3)
    resumed = made(method=method, key_column="key")
    resumed.load_state_dict(json.loads(text))
    assert played(resumed, 3) == expected
    assert resumed.state_dict() == through.state_dict()


def test_prompts_whose_rollouts_were_lost_are_free_after_a_resume():
    selector = made()
    played(selector, 1)
    selector.get_indices(K)
    resumed = made()
    resumed.load_state_dict(json.loads(json.dumps(selector.state_dict())))
    assert len(resumed.get_indices(N)) == N


def test_the_state_of_a_new_run_changes_nothing():
    selector = made()
    selector.load_state_dict({"current_index": 0})
    assert played(selector, 2) == played(made(), 2)


def test_other_states_are_refused(unchecked_types):
    with pytest.raises(ValueError, match="which another selector wrote; keep the selector_type of that run"):
        made().load_state_dict({"current_index": 96})
    with pytest.raises(ValueError, match="which another selector wrote"):
        made().load_state_dict(cast("Any", None))
    without = json.loads(json.dumps(made().state_dict()))
    del without["jaxsel"]["selector"]["metadata"]["counters"]["observes"]
    with pytest.raises(ValueError, match="give what PromptSelector wrote"):
        made().load_state_dict(without)
    state = json.loads(json.dumps(made(key_column="key").state_dict()))
    with pytest.raises(ValueError, match="the checkpoint is of another"):
        made(size=N + 1, key_column="key").load_state_dict(state)
    next(iter(state["jaxsel"]["selector"]["arrays"].values()))["data"] = "%"
    with pytest.raises(ValueError, match="the selector's state is damaged"):
        made(key_column="key").load_state_dict(state)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"method": "mops"},
            "method is 'mops'; give one of 'adaptive', 'arcus', 'dps', 'mopps', 'threshold', 'uniform'",
        ),
        ({"method": None}, "method is None; give one of"),
        ({"group_size": None}, "group_size is None; give an integer of at least 1"),
        ({"lambda": 1}, "kwargs has 'lambda', which mopps does not take; give some of"),
        ({"decay": 2.0}, "decay is 2.0"),
        ({"key_column": "id"}, r"key_column is 'id', which the taskset lacks; give one of \['question', 'key'\]"),
    ],
)
def test_a_wrong_configuration_is_refused_before_training(unchecked_types, kwargs, message):
    with pytest.raises(ValueError, match=message):
        made(**kwargs)


def test_a_configuration_without_a_group_size_is_refused():
    with pytest.raises(ValueError, match="kwargs has no group_size; give the number of rollouts per prompt"):
        trinity.TrinitySelector(source(), SimpleNamespace(seed=0, kwargs={"method": "mopps"}))


def test_registering_twice_gives_one_class(registry):
    kind = trinity.register()
    assert trinity.register() is kind
    assert issubclass(kind, registry.BaseSelector)
    assert kind(source(), config()).get_indices(K) == made().get_indices(K)


def test_a_missing_trinity_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trinity", None)
    with pytest.raises(ImportError, match=r"trinity.* is not installed; pip install trinity-rft"):
        trinity.register()


# With Trinity's own classes: plugin loader, registry, reader, scheduler, operator and state file


def scheduler(folder, explorer_state, steps=6):
    from trinity.buffer.task_scheduler import get_taskset_scheduler  # pyright: ignore[reportMissingImports]
    from trinity.common.config import DataSelectorConfig, FormatConfig, TasksetConfig  # pyright: ignore

    data = folder / "data"
    data.mkdir(exist_ok=True)
    rows = [json.dumps({"question": f"{row}=", "answer": str(row), "key": f"p{row}"}) for row in range(N)]
    (data / "train.jsonl").write_text("\n".join(rows))
    kwargs = {"method": "dps", "group_size": G, "key_column": "key"}
    taskset = TasksetConfig(
        name="sums",
        path=str(data),
        default_workflow_type="math_workflow",
        format=FormatConfig(prompt_key="question", response_key="answer"),
        data_selector=DataSelectorConfig(selector_type="jaxsel", seed=5, kwargs=kwargs),
        batch_size=K,
        total_steps=steps,
    )
    buffer = SimpleNamespace(
        batch_size=K, total_steps=steps, total_epochs=1, explorer_input=SimpleNamespace(tasksets=[taskset])
    )
    return get_taskset_scheduler(explorer_state, SimpleNamespace(buffer=buffer))


def explored(tasks):
    """Return what Trinity's operator reports about G rollouts of each task."""
    from trinity.buffer.operators.mappers.pass_rate_calculator import (  # pyright: ignore[reportMissingImports]
        PassRateCalculator,
    )

    found = []
    for task in tasks:
        successes = round(G * shares([task.index["index"]])[0])
        for run in range(G):
            found.append(SimpleNamespace(info={"task_index": task.index}, reward=float(run < successes)))
    return PassRateCalculator().process(found)[1]


def read(tasksets, steps):
    import asyncio

    chosen = []
    for _ in range(steps):
        tasks = asyncio.run(tasksets.read())
        chosen.append([task.index["index"] for task in tasks])
        tasksets.feedback(explored(tasks))
    return chosen


@pytest.mark.trinity
@pytest.mark.skipif(importlib.util.find_spec("trinity") is None, reason="no Trinity-RFT here; see `make trinity`")
def test_trinity_loads_the_plugin_reads_feeds_back_and_resumes(tmp_path, monkeypatch):
    from trinity.buffer.selector import SELECTORS, BaseSelector  # pyright: ignore[reportMissingImports]
    from trinity.manager.state_manager import StateManager  # pyright: ignore[reportMissingImports]
    from trinity.utils import plugin_loader  # pyright: ignore[reportMissingImports]

    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "select_prompts.py").write_text("from jaxsel.integrations.trinity import register\n\nregister()\n")
    monkeypatch.setenv(plugin_loader.PLUGIN_DIRS_ENV_VAR, str(plugins))
    monkeypatch.setattr(plugin_loader.shutil, "copy2", lambda *paths: None)  # no copy into Trinity's own folder
    plugin_loader.load_plugins()
    assert issubclass(SELECTORS.get("jaxsel"), BaseSelector)

    through = scheduler(tmp_path, {})
    first = read(through, 3)
    alone = jaxsel.PromptSelector(jaxsel.dps(group_size=G), keys=[f"p{row}" for row in range(N)], seed=5)
    for chosen in first:
        assert chosen == alone.select(K).tolist()
        alone.observe(chosen, [round(G * share) for share in shares(chosen)], G)
    StateManager(str(tmp_path / "state"), explorer_name="explorer").save_explorer(3, through.state_dict())
    state = StateManager(str(tmp_path / "state"), explorer_name="explorer").load_explorer()
    resumed = scheduler(tmp_path, state)
    assert read(resumed, 3) == read(through, 3)
    assert resumed.state_dict() == through.state_dict()
