"""Checkpoints beside files of other programs, under any name, on a bad disk, and with other writers."""

import concurrent.futures
import errno
import logging
import os
import pathlib
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxsel import PromptSelector
from jaxsel.runtime.checkpoint import disk, folder
from tests.support.checkpoints import METHOD, N, load, observed


def tree_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def steps_of_a_policy(folder):
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(create=True)) as manager:
        for step in (100, 200):
            manager.save(step, args=ocp.args.Composite(policy=ocp.args.StandardSave({"w": np.ones(4)})))


def weights(folder):
    (folder / "7").mkdir(parents=True)
    (folder / "7" / "model.safetensors").write_text("weights")


def items_named_as_in_a_version(folder):
    for item in ("arrays", "metadata"):
        (folder / "3" / item).mkdir(parents=True)
    (folder / "3" / "metadata" / "metadata").write_text('{"format": 1}')


def a_partial_step(folder):
    (folder / "3.orbax-checkpoint-tmp" / "policy").mkdir(parents=True)
    (folder / "3.orbax-checkpoint-tmp" / "policy" / "w").write_text("weights")


def an_empty_partial_step_beside_steps(folder):
    steps_of_a_policy(folder)
    (folder / "300.orbax-checkpoint-tmp").mkdir()


def a_partial_step_with_the_items_of_a_version(folder):
    (folder / "3.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)
    (folder / "3.orbax-checkpoint-tmp" / "arrays" / "w").write_text("weights")


def a_file_named_as_a_version(folder):
    folder.mkdir()
    (folder / "1").write_text("a file")


def a_run(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")


FOREIGN = [
    steps_of_a_policy,
    weights,
    items_named_as_in_a_version,
    a_partial_step,
    an_empty_partial_step_beside_steps,
    a_file_named_as_a_version,
    a_run,
]


@pytest.mark.parametrize("fill", [*FOREIGN, a_partial_step_with_the_items_of_a_version])
def test_a_folder_of_another_program_is_refused(fill, tmp_path):
    fill(tmp_path / "c")
    before = tree_of(tmp_path)
    with pytest.raises(ValueError, match=r"c holds .*, which PromptSelector.save did not write; give a new or empty"):
        observed(1).save(tmp_path / "c")
    with pytest.raises(ValueError, match=r"there is no complete checkpoint of jaxsel in .*; give the folder"):
        load(tmp_path / "c")
    assert tree_of(tmp_path) == before


@pytest.mark.parametrize("fill", FOREIGN)
def test_files_of_other_programs_beside_a_checkpoint_stay(fill, tmp_path):
    fill(tmp_path / "theirs")
    observed(1).save(tmp_path / "c")
    (tmp_path / "c" / "1").rename(tmp_path / "c" / "5")
    for entry in (tmp_path / "theirs").iterdir():
        entry.rename(tmp_path / "c" / entry.name)
    theirs = {name: content for name, content in tree_of(tmp_path / "c").items() if not name.startswith("5/")}
    for times in (2, 3):
        observed(times).save(tmp_path / "c")
        assert load(tmp_path / "c").visits[3] == times
        assert theirs.items() <= tree_of(tmp_path / "c").items()


def test_a_file_put_into_a_version_stays(tmp_path):
    observed(1).save(tmp_path)
    (tmp_path / "1" / "notes.txt").write_text("mine")
    observed(2).save(tmp_path)
    assert (tmp_path / "1" / "notes.txt").read_text() == "mine"
    assert load(tmp_path).visits[3] == 2


def test_a_folder_with_hidden_files_counts_as_empty(tmp_path):
    (tmp_path / ".gitkeep").touch()
    observed(1).save(tmp_path)
    assert load(tmp_path).visits[3] == 1
    assert (tmp_path / ".gitkeep").exists()


NAMES = ["method=[mopps],seed=1", "a[b", "a]b", "runs\\mine", "a*b?", "a b", "größe ☃", "a%20b#c", "a\nb", "a\udc80b"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder_can_be_saved_to_and_loaded(name, tmp_path):
    for times in (1, 2):
        observed(times).save(tmp_path / name / "selector")
        assert load(tmp_path / name / "selector").visits[3] == times
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    observed(2).save("~/selector")
    assert load(tmp_path / "home" / "selector").visits[3] == 2
    assert PromptSelector.load("~/selector", METHOD).visits[3] == 2
    assert os.listdir(tmp_path) == ["home"]


@pytest.mark.parametrize("path", ["s3://bucket/c", "gs://b/c", "file:///c", pathlib.Path("hdfs://a/b"), "", "a\0b"])
def test_paths_other_than_local_folders_are_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (observed(0).save, load):
        with pytest.raises(ValueError, match=r"path is .*; give (a local path|the path of a local)"):
            call(path)
    assert os.listdir(tmp_path) == []


def test_a_refused_path_ends_no_step():
    selector = observed(0)
    selector.observe([1], [3], 8, step=0)
    with pytest.raises(ValueError, match="is a file; give the folder of a checkpoint"):
        selector.save(__file__)
    assert selector.step_is_open


def damaged(file: pathlib.Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 2] if how == "truncated" else content)
    if how == "missing":
        file.unlink()


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_damage_is_found_in_every_file_and_named(how, tmp_path):
    observed(2).save(tmp_path / "good")
    for name in tree_of(tmp_path / "good"):
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        damaged(tmp_path / "bad" / name, how)
        alone = how == "missing" and name == "1/jaxsel.json"
        message = "no complete checkpoint" if alone else rf"{name} .*the checkpoint is damaged: restore .* or delete it"
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "bad")
        shutil.rmtree(tmp_path / "bad")


def test_a_full_disk_is_named_and_the_version_before_stays(tmp_path, monkeypatch):
    observed(1).save(tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, function in ((disk, "write_arrays"), (os, "fsync"), (pathlib.Path, "write_text")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, full)
            with pytest.raises(ValueError, match=r"no checkpoint was written to .*No space.*free some space"):
                observed(2).save(tmp_path)
        assert os.listdir(tmp_path) == ["1"]
        assert load(tmp_path).visits[3] == 1


@pytest.mark.parametrize("metadata", [{}, {"hello": 1}, {"format": 3, "spec": "x"}, {"format": 99}, [1], None])
@pytest.mark.usefixtures("unchecked_types")
def test_a_checkpoint_of_something_else_is_refused(metadata, tmp_path):
    folder.save(tmp_path, {"x": np.zeros(3)}, metadata)
    for arguments in ({}, {"selector": METHOD, "num_prompts": N}):
        with pytest.raises(ValueError, match=r"the checkpoint has .*; this version reads the formats .*: give what"):
            PromptSelector.load(tmp_path, **arguments)


def test_absl_logs_of_other_libraries_stay_visible(tmp_path):
    logger, heard = logging.getLogger("absl"), []
    before = logger.level, list(logger.filters)
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    try:
        observed(1).save(tmp_path)
        load(tmp_path)
        assert heard == []
        logger.warning("another library's")
        assert heard == ["another library's"]
    finally:
        logger.removeHandler(handler)
    assert (logger.level, logger.filters) == before


def test_writers_and_readers_at_the_same_time_take_turns(tmp_path):
    observed(1).save(tmp_path)
    selectors = [observed(times) for times in (2, 3, 4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        saving = [pool.submit(selector.save, tmp_path) for selector in selectors * 2]
        loading = [pool.submit(folder.restore, tmp_path, observed(0)._arrays()) for _ in range(4)]
        assert all(future.result() is None for future in saving)
        assert all(future.result()["visits"][3] in (1, 2, 3, 4) for future in loading)
    assert [folder.name for folder in tmp_path.iterdir()] == ["7"]


def test_a_lock_that_nobody_releases_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_PATIENCE", 0.05)
    observed(1).save(tmp_path)
    with (
        disk.locked(tmp_path, shared=True),
        pytest.raises(ValueError, match=r"another process reads or writes the checkpoint in .*; give another folder"),
    ):
        observed(2).save(tmp_path)
    assert load(tmp_path).visits[3] == 1
