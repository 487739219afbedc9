"""Weights & Biases and trackio, replaced by modules with the same interface."""

import sys
import types

import pytest

from rl.names import TRACKERS
from rl.run_folder.trackers import Tracker
from rl.run_log import RunLog, read_metrics


class Fake(types.ModuleType):
    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def log(self, metrics, step=None):
        self.calls.append(("log", metrics, step))

    def finish(self):
        self.calls.append(("finish",))


class Wandb(Fake):
    """A module that accepts the arguments of `wandb` 0.31."""

    def init(self, *, project, name, id, config, resume, dir):
        self.calls.append(("init", {"project": project, "name": name, "id": id, "config": config, "resume": resume}))
        self.dir = dir


class Trackio(Fake):
    """A module that accepts the arguments of `trackio` 0.43."""

    def init(self, project, name=None, config=None, resume="never"):
        self.calls.append(("init", {"project": project, "name": name, "config": config, "resume": resume}))


@pytest.fixture
def modules(monkeypatch):
    found = {"wandb": Wandb("wandb"), "trackio": Trackio("trackio")}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


def write(tracker, run_dir, steps, *, first_step=0, resume=False):
    with tracker, RunLog(run_dir, first_step=first_step, resume=resume, tracker=tracker) as log:
        for step in steps:
            log.write({"step": step, "a": step / 2, "b": float("nan")})


@pytest.mark.parametrize("name", TRACKERS)
def test_a_resumed_run_stays_one_run_in_the_tracker(modules, tmp_path, name):
    run_dir = tmp_path / "mine"
    calls = modules[name].calls
    write(Tracker(name, run_dir, {"seed": 3}), run_dir, [0, 1, 2])
    (_, options), *logged = calls
    assert logged == [("log", {"a": step / 2}, step) for step in range(3)] + [("finish",)]
    assert options["config"] == {"seed": 3}
    assert options["resume"] == "allow"
    assert options["name"].startswith("mine-")
    calls.clear()
    write(Tracker(name, run_dir, {"seed": 3}), run_dir, [1, 2, 3, 4], first_step=1, resume=True)
    assert calls == [("init", options), ("log", {"a": 1.5}, 3), ("log", {"a": 2.0}, 4), ("finish",)]
    calls.clear()
    Tracker(name, tmp_path / "other/mine", {"seed": 3})
    assert calls[0][1]["name"] != options["name"]


@pytest.mark.parametrize("name", TRACKERS)
def test_more_metrics_of_a_finished_run_reach_the_tracker(modules, tmp_path, name):
    with Tracker(name, tmp_path, {}) as tracker, RunLog(tmp_path, first_step=0, resume=False, tracker=tracker) as log:
        log.write({"step": 0, "a": 1.0})
        log.write({"step": 1, "probe/x": 0.5})
    modules[name].calls.clear()
    with Tracker(name, tmp_path, {}) as tracker, RunLog(tmp_path, first_step=2, resume=True, tracker=tracker) as log:
        log.write({"step": 1, "eval/y": 0.25})
    assert modules[name].calls[1:] == [("log", {"eval/y": 0.25}, 1), ("finish",)]
    assert read_metrics(tmp_path / "metrics.jsonl")[1] == {"step": 1, "probe/x": 0.5, "eval/y": 0.25}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_fails_does_not_end_the_run(modules, tmp_path, monkeypatch, caplog, name):
    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(modules[name], "log", fail)
    monkeypatch.setattr(modules[name], "finish", fail)
    write(Tracker(name, tmp_path, {}), tmp_path, range(4))
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    assert [record.message for record in caplog.records] == [
        "the tracker failed at step 0 (no network); the run goes on",
        "the tracker failed at the end of the run (no network)",
    ]


def test_wandb_writes_to_the_folder_of_the_run(modules, tmp_path):
    Tracker("wandb", tmp_path / "mine", {})
    assert modules["wandb"].dir == str(tmp_path / "mine")
    assert modules["wandb"].calls[0][1]["id"] == (tmp_path / "mine/wandb_id").read_text()


def test_without_a_tracker_nothing_is_sent(modules, tmp_path):
    write(Tracker("", tmp_path / "mine", {}), tmp_path / "mine", [0, 1])
    assert not any(module.calls for module in modules.values())
    assert not list((tmp_path / "mine").glob("*_id"))


@pytest.mark.parametrize("name", TRACKERS)
def test_missing_packages_and_unknown_trackers_are_named(monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"tracker is '{name}', which is not installed; pip install {name}"):
        Tracker(name, tmp_path / "mine", {})
    with pytest.raises(ValueError, match="tracker is 'comet'; give one of wandb, trackio, or nothing"):
        Tracker("comet", tmp_path / "mine", {})
    assert not (tmp_path / "mine").exists()
