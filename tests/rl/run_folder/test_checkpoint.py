"""Checkpoints of runs: their content, their refusals, full disks and damaged files."""

import errno
import os
from dataclasses import replace
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch

import rl.run_folder.checkpoint
from rl.ranks import Ranks
from rl.run_folder.checkpoint import DamagedError, load_checkpoint, load_latest, save_checkpoint
from rl.run_log import read_metrics
from tests.support.runs import CONFIG, assert_same_run, start, until_killed

ME = {"train": {"steps": 4, "learning_rate": 0.1}, "curriculum": {"method": "dps", "counts": (1, 2)}}


class Pair(NamedTuple):
    left: torch.Tensor
    right: list[str | None]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_everything_that_a_run_keeps_comes_back(tmp_path):
    path = tmp_path / "checkpoint.pt"
    arrays = {
        "int": np.arange(6, dtype=np.int32).reshape(2, 3),
        "empty": np.zeros((0, 2), np.float64),
        "half": np.array([1.5, 2], ml_dtypes.bfloat16),
        "bool": np.array([True, False]),
        "text": np.array(["a", "bc"]),
        "none": np.array(3, np.uint32),
    }
    plain = {
        "a": [1, 2.5, None, True, "\ud800", 1 << 200],
        3: (1, (2,)),
        "scalar": np.float32(0.5),
        "inf": float("-inf"),
    }
    save_checkpoint(path, ME, arrays=arrays, plain=plain, pair=Pair(torch.ones(2, dtype=torch.bfloat16), ["x", None]))
    found = load_checkpoint(path, ME)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found["arrays"][name], array)
        assert found["arrays"][name].dtype == array.dtype
    assert found["plain"] == plain
    assert isinstance(found["plain"]["scalar"], np.floating)  # pyright: ignore[reportArgumentType]
    assert torch.equal(found["pair"][0], torch.ones(2, dtype=torch.bfloat16))
    assert found["pair"][1] == ["x", None]
    found["arrays"]["int"][0] = 7  # loaded arrays are writable
    assert torch.load(path, weights_only=True)["plain"]["a"][0] == 1


def test_an_object_that_a_checkpoint_cannot_hold_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"state.0.thing is a Evil, which a checkpoint cannot hold"):
        save_checkpoint(tmp_path / "checkpoint.pt", ME, state=[{"thing": Evil()}])
    assert not list(tmp_path.iterdir())


def test_loading_runs_no_code_from_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"identity": ME, "format": 1, "step": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(DamagedError, match=r"checkpoint.pt cannot be read: .* put back a copy"):
        load_checkpoint(tmp_path / "checkpoint.pt", ME)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["policy", "optimizer"])
def test_non_finite_weights_do_not_replace_a_checkpoint(tmp_path, bad, where):
    path = tmp_path / "checkpoint.pt"
    learner = {"policy": {"w": torch.ones(3)}, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    save_checkpoint(path, ME, learner=learner, step=1)
    (learner["policy"]["w"] if where == "policy" else learner["optimizer"]["state"][0]["exp_avg"])[1] = bad
    with pytest.raises(ValueError, match=f"learner.{where}.* is NaN or infinite .* stays as it was"):
        save_checkpoint(path, ME, learner=learner, step=2)
    assert load_checkpoint(path, ME)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_changed_setting_is_named_unless_it_may_change(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, ME, step=1)
    assert load_checkpoint(path, ME | {"train": {"steps": 9, "learning_rate": 0.1, "probe_every": 2}})["step"] == 1
    for other in ({"train": {"steps": 4, "learning_rate": 0.2}}, {"curriculum": {"method": "dps", "counts": (1, 3)}}):
        with pytest.raises(
            ValueError, match=r"of another run: (train.learning_rate was 0.1 and is 0.2|curriculum.counts)"
        ):
            load_checkpoint(path, ME | other)


def test_a_setting_that_an_earlier_version_lacked_has_its_default(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, ME, step=1)
    default = {"policy_loss": "ppo", "dual_clip": 0.0, "lr_schedule": "constant"}
    assert load_checkpoint(path, ME | {"train": ME["train"] | default})["step"] == 1
    with pytest.raises(ValueError, match=r"of another run: train.policy_loss was 'ppo' and is 'gspo'"):
        load_checkpoint(path, ME | {"train": ME["train"] | {"policy_loss": "gspo"}})


def test_the_number_of_steps_may_not_change_if_the_learning_rate_decays(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for schedule in ("linear", "cosine"):
        train = ME["train"] | {"lr_schedule": schedule}
        save_checkpoint(path, ME | {"train": train}, step=1)
        assert load_checkpoint(path, ME | {"train": train | {"probe_every": 3}})["step"] == 1
        with pytest.raises(ValueError, match=r"of another run: train.steps was 4 and is 9"):
            load_checkpoint(path, ME | {"train": train | {"steps": 9}})


def _flip(path, share):
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, damage):
    path = tmp_path / "checkpoint.pt"
    for step in (1, 2):
        save_checkpoint(path, ME, step=step, weights=torch.arange(4000.0) + step)
    if damage == "flipped":
        _flip(path, 0.5)
    else:
        path.write_bytes(path.read_bytes()[: 3000 if damage == "truncated" else 0])
    with pytest.raises(DamagedError, match=r"checkpoint.pt"):
        load_checkpoint(path, ME)
    assert (load_latest(tmp_path, ME, Ranks()) or {})["step"] == 1
    assert f"goes on from {tmp_path}/checkpoint-previous.pt, after step 1" in capsys.readouterr().err
    assert (tmp_path / "checkpoint-damaged.pt").exists()  # nothing is deleted
    save_checkpoint(path, ME, step=2)
    assert (load_latest(tmp_path, ME, Ranks()) or {})["step"] == 2


def test_no_flipped_bit_goes_unseen(tmp_path):
    """After the flip of a bit, either the file is refused, or its content equals what was written."""
    path = tmp_path / "checkpoint.pt"
    weights = torch.arange(300.0)
    save_checkpoint(path, ME, step=1, weights=weights, books={"n": np.arange(20)})
    whole = path.read_bytes()
    refused = 0
    for share in np.linspace(0, 0.999, 120):
        path.write_bytes(whole)
        _flip(path, share)
        try:
            found = load_checkpoint(path, ME)
        except DamagedError:
            refused += 1
            continue
        assert found["step"] == 1
        assert torch.equal(found["weights"], weights)
        np.testing.assert_array_equal(found["books"]["n"], np.arange(20))
    assert refused > 30


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), PermissionError(13, "denied"), MemoryError()]
)
def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_not_damaged(tmp_path, monkeypatch, error):
    for step in (2, 4):
        save_checkpoint(tmp_path / "checkpoint.pt", ME, step=step)
    before = sorted(tmp_path.iterdir())

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(type(error)):
            load_latest(tmp_path, ME, Ranks())
    assert sorted(tmp_path.iterdir()) == before
    found = load_latest(tmp_path, ME, Ranks())
    assert found is not None
    assert found["step"] == 4


def test_when_both_are_damaged_the_error_names_file_and_cure(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for step in (1, 2):
        save_checkpoint(path, ME, step=step)
    for file in tmp_path.iterdir():
        file.write_bytes(b"PK")
    with pytest.raises(DamagedError, match=r"checkpoint-previous.pt cannot be read.*put back a copy of it, or delete"):
        load_latest(tmp_path, ME, Ranks())
    assert (tmp_path / "checkpoint.pt").exists()


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, ME, step=1)
    os.replace(path, tmp_path / "checkpoint-previous.pt")
    assert (load_latest(tmp_path, ME, Ranks()) or {})["step"] == 1
    assert load_latest(tmp_path / "nowhere", ME, Ranks()) is None


class FullDisk:
    """A file that fails as on a full disk, after `room` bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_leaves_the_checkpoint_and_is_named(tmp_path, monkeypatch, room):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, ME, step=1)
    open_ = type(path).open
    monkeypatch.setattr(type(path), "open", lambda self, mode="r": FullDisk(open_(self, mode), room))
    with pytest.raises(OSError, match=r"cannot write .*checkpoint.pt: No space left.*free some space") as error:
        save_checkpoint(path, ME, step=2, weights=torch.zeros(5000))
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert load_checkpoint(path, ME)["step"] == 1


@pytest.mark.slow
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(task, tmp_path):
    whole = start(task, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "cut", progress=until_killed(7))
    _flip(tmp_path / "cut" / "checkpoint.pt", 0.5)
    assert_same_run(whole, start(task, tmp_path / "cut", resume=True))


def test_a_run_whose_weights_are_lost_ends_and_keeps_its_checkpoint(task, tmp_path, monkeypatch):
    from rl.learner import Learner

    update = Learner.update

    def poisoned(self, groups, step):
        record = update(self, groups, step)
        if step == 5:  # a checkpoint is due after this step
            with torch.no_grad():
                self._parameters[0][0, 0] = torch.nan
        return record

    monkeypatch.setattr(Learner, "update", poisoned)
    with pytest.raises(ValueError, match=r"is NaN or infinite in places, so .*checkpoint.pt is not written"):
        start(task, tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 3
    assert all(weight.isfinite().all() for weight in saved["learner"]["policy"].values())


def test_a_finished_run_with_more_steps_equals_an_uninterrupted_run(task, tmp_path):
    """A resumed run may change settings that affect no number it has written."""
    whole = start(task, tmp_path / "whole", replace(CONFIG, steps=8, history=True))
    short = replace(CONFIG, steps=5, checkpoint_every=2, micro_batch_size=64, history=True)
    start(task, tmp_path / "longer", short)
    longer = start(task, tmp_path / "longer", replace(short, steps=8, checkpoint_every=3), resume=True)
    assert_same_run(whole, longer)
    assert read_metrics(tmp_path / "longer" / "metrics.jsonl") == longer[0]
    with pytest.raises(ValueError, match=r"steps is 7, but the run in .* has done 8; give at least 8"):
        start(task, tmp_path / "longer", replace(short, steps=7), resume=True)
    with pytest.raises(ValueError, match=r"train.history was True and is False"):
        start(task, tmp_path / "longer", replace(short, steps=9, history=False), resume=True)


def test_a_finished_run_without_checkpoints_is_not_overwritten(task, tmp_path):
    start(task, tmp_path, replace(CONFIG, steps=2, checkpoint_every=0))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="has no checkpoint"):
        start(task, tmp_path, replace(CONFIG, steps=4, checkpoint_every=50), resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_checksum_tells_values_and_types_apart():
    values = [[1], ["1"], [1.0], (1,), [[1]], {"a": 1}, {"a": "1"}, [torch.ones(1)], [torch.ones(1, dtype=torch.int32)]]
    assert len({rl.run_folder.checkpoint._checksum({"x": value}) for value in values}) == len(values)


def test_a_run_is_not_resumed_with_other_answers(task, tmp_path):
    def other(number, seed):
        pool = task.pool(number, seed)
        return replace(pool, answers=["x", *pool.answers[1:]])

    start(task, tmp_path, replace(CONFIG, steps=2))
    longer = replace(CONFIG, steps=3)
    with pytest.raises(ValueError, match=r"of another run: texts and answers was 'sha256:\w+' and is 'sha256:"):
        start(task._replace(pool=other), tmp_path, longer, resume=True)
    with pytest.raises(ValueError, match=r"of another run: probe.held-out texts and answers was"):
        start(task._replace(held_out=lambda number: other(number, -1)), tmp_path, longer, resume=True)
    start(task, tmp_path, longer, resume=True)


def test_an_earlier_checkpoint_does_not_know_its_texts_and_answers(tmp_path):
    path, here = tmp_path / "checkpoint.pt", ME | {"texts and answers": "sha256:1"}
    save_checkpoint(path, ME, step=1)
    assert load_checkpoint(path, here)["step"] == 1
    save_checkpoint(path, here, step=1)
    with pytest.raises(ValueError, match="texts and answers was 'sha256:1' and is 'sha256:2'"):
        load_checkpoint(path, ME | {"texts and answers": "sha256:2"})
