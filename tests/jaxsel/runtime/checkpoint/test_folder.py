"""A checkpoint survives any failure while the next version is written."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxsel import PromptSelector
from jaxsel.runtime.checkpoint import folder
from tests.support.checkpoints import METHOD, load, observed

ARRAYS = {"state.x": np.arange(4.0), "visits": np.arange(3, dtype=np.int32)}


def test_arrays_and_metadata_come_back(tmp_path):
    folder.save(tmp_path / "c", ARRAYS, {"name": "é", "value": [1, 0.1, None]})
    assert folder.read_metadata(tmp_path / "c") == {"name": "é", "value": [1, 0.1, None]}
    restored = folder.restore(tmp_path / "c", {name: np.zeros_like(a) for name, a in ARRAYS.items()})
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(restored[name], array)
        assert restored[name].dtype == array.dtype


def test_only_the_last_version_remains(tmp_path):
    for value in range(12):
        folder.save(str(tmp_path), ARRAYS, {"value": value})
    assert folder.read_metadata(str(tmp_path)) == {"value": 11}
    assert [folder.name for folder in tmp_path.iterdir()] == ["12"]


@pytest.mark.parametrize("like", [{"visits": np.zeros(3, np.int32)}, ARRAYS | {"visits": np.zeros(5, np.int32)}])
def test_arrays_of_another_structure_or_shape_are_an_error(like, tmp_path):
    folder.save(tmp_path, ARRAYS, {})
    with pytest.raises(ValueError):  # noqa: PT011  (the messages differ)
        folder.restore(tmp_path, like)


def nothing(path):
    pass


def a_file(path):
    path.write_text("not a checkpoint")


def an_empty_folder(path):
    path.mkdir()


def a_folder_of_numbers(path):
    (path / "1" / "sub").mkdir(parents=True)


def a_partial_version(path):
    (path / "1.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)


@pytest.mark.parametrize("prepare", [nothing, a_file, an_empty_folder, a_folder_of_numbers, a_partial_version])
def test_paths_without_a_checkpoint_are_named(prepare, tmp_path):
    prepare(tmp_path / "c")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"(there is no .*checkpoint|is a file).*; give (a|the) folder"):
        load(tmp_path / "c")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("stray", ["7", "3.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-12", "notes"])
def test_stray_folders_do_not_matter(stray, tmp_path):
    observed(2).save(tmp_path)
    (tmp_path / stray / "arrays").mkdir(parents=True)
    assert load(tmp_path).visits[3] == 2
    observed(5).save(tmp_path)
    assert load(tmp_path).visits[3] == 5


def test_the_next_save_removes_partial_versions(tmp_path):
    observed(1).save(tmp_path)
    (tmp_path / "2.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)
    observed(2).save(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir() if "tmp" in folder.name] == []


def test_a_file_is_not_overwritten(tmp_path):
    a_file(tmp_path / "c")
    with pytest.raises(ValueError, match="c is a file; give the folder of a checkpoint"):
        observed(0).save(tmp_path / "c")
    assert (tmp_path / "c").read_text() == "not a checkpoint"


class InterruptionError(Exception):
    pass


# `save` makes the folders of a version and its arrays (mkdir), fills them and gives them their final names (rename).
# Then it renames the previous version (the third rename) and removes it (rmtree).
@pytest.mark.parametrize(
    ("owner", "function", "calls_before"),
    [*((os, function, k) for function in ("mkdir", "rename") for k in range(3)), (shutil, "rmtree", 0)],
)
def test_an_interrupted_save_leaves_a_checkpoint(owner, function, calls_before, tmp_path, monkeypatch):
    observed(1).save(tmp_path)
    original, calls = getattr(owner, function), 0

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > calls_before:
            raise InterruptionError
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, interrupted)
        with pytest.raises(Exception):  # noqa: B017, PT011  (`save` wraps some errors)
            observed(2).save(tmp_path)
    assert calls > calls_before
    complete = function == "rmtree" or (function, calls_before) == ("rename", 2)
    assert load(tmp_path).visits[3] == (2 if complete else 1)
    observed(3).save(tmp_path)
    assert load(tmp_path).visits[3] == 3


CHILD = """
import sys, jaxsel
selector = jaxsel.PromptSelector(jaxsel.dps(), num_prompts=500_000)
while True:
    selector.observe([3], [4], 8)
    selector.save(sys.argv[1])
    print(selector.visits[3], flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.07, 0.19, 0.4])
def test_a_killed_save_leaves_the_version_before_it(seconds, tmp_path):
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = int(child.stdout.readline())
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        finished = [first, *map(int, child.stdout.read().split())]
    selector = PromptSelector.load(tmp_path, METHOD, num_prompts=500_000)
    assert selector.visits[3] in (finished[-1], finished[-1] + 1)
    assert selector.metrics()["selector/observes"] == selector.visits[3]
    selector.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
