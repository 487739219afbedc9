"""A run's folder, with its lock, its metrics and its policy; and progress bars in a log."""

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl import progress
from rl.policy import load_policy
from rl.ranks import Ranks
from rl.run_folder.contents import COMPLETIONS, DAMAGED, HISTORY, POLICY, PREVIOUS
from rl.run_folder.lock import alone_in
from rl.run_log import RunLog, read_metrics
from tests.support.folders_in_use import assert_refused_while_in_use, contents
from tests.support.runs import CONFIG, assert_same_run, start, until_killed

HOLDER = """
import sys, time
from pathlib import Path
from rl.run_folder.lock import alone_in
from rl.ranks import Ranks
with alone_in(Path(sys.argv[1]), Ranks()):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_folder_belongs_to_one_run_until_its_process_is_gone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
            said = (
                rf"run_dir {tmp_path} is in use by another run \(process {holder.pid} on .*\); wait .* another folder"
            )
            with pytest.raises(ValueError, match=said), alone_in(tmp_path, Ranks()):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
    with alone_in(tmp_path, Ranks()):
        pass


def test_a_second_thread_is_refused_but_the_holder_may_enter_again(tmp_path):
    said = []

    def other():
        try:
            with alone_in(tmp_path, Ranks()):
                said.append("in")
        except ValueError as error:
            said.append(str(error))

    with alone_in(tmp_path, Ranks()), alone_in(tmp_path, Ranks()):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "is in use by another run" in said[0]
    other()
    assert said[1] == "in"


def test_a_second_run_is_refused_and_changes_nothing(task, tmp_path):
    assert_refused_while_in_use(tmp_path, lambda: start(task, tmp_path))


@pytest.mark.parametrize("call", ["ftruncate", "write"])
def test_a_full_disk_is_named_by_the_lock_and_leaves_the_folder_free(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"cannot write .*run\.lock: No space left.*; free some space"):
        alone_in(tmp_path, Ranks()).__enter__()
    monkeypatch.undo()
    with alone_in(tmp_path, Ranks()):
        assert (tmp_path / "run.lock").read_text().startswith("process ")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/run.lock: .*; give a path in a folder that exists"):
        alone_in(tmp_path / "file", Ranks()).__enter__()


@pytest.mark.parametrize("torn", [b'{"step": 1, "lo', b"0.25}", b"\xff\xfe\x00", b""])
def test_a_torn_line_is_named(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + torn + b'\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl is damaged: .*; put back a copy of the file, or"):
        read_metrics(path)
    path.write_bytes(b'{"step": 0}\n' + torn)  # a crash leaves such a last line
    assert read_metrics(path) == [{"step": 0}]


def test_a_full_disk_is_named_by_the_metrics(tmp_path):
    named = r"cannot write .*metrics.jsonl: No space left.*resume=true"
    log = RunLog(tmp_path, first_step=0, resume=False)
    log.write({"step": 0})
    log._file.close()
    with open("/dev/full", "a") as full:
        log._file = full
        with pytest.raises(OSError, match=named) as error:
            log.write({"step": 1})
        with pytest.raises(OSError, match=named):
            log.__exit__()
    log._tensorboard.close()
    assert error.value.errno == errno.ENOSPC


def test_the_metrics_of_a_checkpoint_are_on_disk_before_it(task, tmp_path, monkeypatch):
    """A power cut takes what was written but not synchronised."""
    synced, fsync = [], os.fsync

    def recorded(number):
        synced.append(os.readlink(f"/proc/self/fd/{number}").rpartition("/")[2])
        fsync(number)

    monkeypatch.setattr(os, "fsync", recorded)
    start(task, tmp_path, replace(CONFIG, steps=4, checkpoint_every=2, save_policy=False))
    assert synced[1:] == ["metrics.jsonl", ".checkpoint.pt.jaxsel-partial"] * 2  # after the empty file of a new run


def test_a_resumed_run_says_which_metrics_are_lost(task, tmp_path, caplog):
    start(task, tmp_path, replace(CONFIG, steps=6))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    start(task, tmp_path, replace(CONFIG, steps=7), resume=True)
    assert not caplog.messages
    path.write_text("".join(lines[:3]))
    records, _ = start(task, tmp_path, replace(CONFIG, steps=8), resume=True)
    assert [record["step"] for record in records] == [0, 1, 2, 7, 8]
    said = f"{path} lacks 4 steps, the first of them 3, that the checkpoint has done; their metrics are lost unless"
    assert [message.startswith(said) for message in caplog.messages] == [True]


def test_a_finished_run_leaves_its_policy(task, tmp_path):
    _, policy = start(task, tmp_path, replace(CONFIG, steps=2))
    loaded, model = load_policy(tmp_path / "policy"), AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight)
        assert torch.equal(model.state_dict()[name], weight)
    assert loaded.encode(["012="])[0].tolist() == policy.encode(["012="])[0].tolist()
    written = (tmp_path / "policy" / "model.safetensors").stat().st_mtime_ns
    start(task, tmp_path, replace(CONFIG, steps=2), resume=True)
    assert (tmp_path / "policy" / "model.safetensors").stat().st_mtime_ns == written
    assert not [file.name for file in tmp_path.iterdir() if file.name.endswith(("-partial", "-old"))]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", [PREVIOUS, DAMAGED, POLICY, HISTORY, COMPLETIONS])
def test_a_new_run_replaces_nothing_that_no_run_wrote(task, tmp_path, name, resume):
    if name.endswith(".pt"):
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-000000.parquet").write_text("mine")
    before = contents(tmp_path)
    resume = resume and name != PREVIOUS  # which `load_latest` refuses as damaged
    with pytest.raises(ValueError, match=f"run_dir .* holds {name}, which no run wrote there; give another folder"):
        start(task, tmp_path, replace(CONFIG, history=True, keep_completions=1), resume=resume)
    assert contents(tmp_path) == before


def test_a_new_run_does_not_replace_a_checkpoint_of_another_origin(task, tmp_path):
    (tmp_path / "checkpoint.pt").write_text("weights of a model")
    before = contents(tmp_path)
    for resume, said in ((False, "holds checkpoint.pt, which no run wrote there"), (True, "cannot be read")):
        with pytest.raises(ValueError, match=said):
            start(task, tmp_path, resume=resume)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("lines", ['{"step": 0, "loss": 1.0}\n{"step": 1, "loss": 0.5}\n', '["step", 0]\n'])
def test_metrics_of_another_origin_are_not_resumed(task, tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / POLICY).mkdir()
    (tmp_path / POLICY / "model.safetensors").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"holds metrics\.jsonl, which no run wrote there|is damaged"):
        start(task, tmp_path, replace(CONFIG, steps=1), resume=True)
    assert contents(tmp_path) == before


def test_a_file_of_the_name_of_the_lock_is_kept(task, tmp_path):
    (tmp_path / "run.lock").write_text("versions that I locked")
    with pytest.raises(ValueError, match=r"holds run\.lock, which no run wrote there"):
        start(task, tmp_path, replace(CONFIG, steps=1))
    assert (tmp_path / "run.lock").read_text() == "versions that I locked"


def test_a_run_that_ends_earlier_than_its_crash_still_has_its_final_probe(task, tmp_path):
    config = replace(CONFIG, steps=5, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "crashed", config, progress=until_killed(3))
    config = replace(config, steps=2)
    resumed = start(task, tmp_path / "crashed", config, resume=True)
    assert_same_run(resumed, start(task, tmp_path / "whole", config))
    assert "probe/held_out_accuracy" in resumed[0][-1]


def test_files_that_no_run_replaces_may_lie_in_its_folder(task, tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    start(task, tmp_path, replace(CONFIG, steps=1))
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_save_policy_false_writes_no_policy(task, tmp_path):
    start(task, tmp_path, replace(CONFIG, steps=1, save_policy=False))
    assert not (tmp_path / "policy").exists()


def test_a_run_that_goes_on_keeps_what_the_user_added_to_its_policy(task, tmp_path):
    _, first = start(task, tmp_path, replace(CONFIG, steps=1))
    old = first.model.state_dict()
    folder = tmp_path / "policy"
    added = {"README.md": "model card", "model.gguf": "weights", "sub/eval.json": "{}"}
    (folder / "sub").mkdir()
    for name, text in added.items():
        (folder / name).write_text(text)
    (folder / "model-00001-of-00002.safetensors").write_text("a part of the old weights")
    _, policy = start(task, tmp_path, replace(CONFIG, steps=2), resume=True)
    assert {name: (folder / name).read_text() for name in added} == added
    assert not list(folder.glob("model-*"))
    loaded = load_policy(folder).model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in policy.model.state_dict().items())
    assert any(not torch.equal(loaded[name], weight) for name, weight in old.items())


class Stream:
    def __init__(self, *, terminal: bool):
        self.text, self._terminal = "", terminal

    def isatty(self):
        return self._terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_log_gets_only_a_few_lines(monkeypatch):
    log = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", log)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for _ in progress.bar(range(300), desc="steps", unit="step"):
        now[0] += 0.001
    lines = log.text.splitlines()
    assert len(lines) == 2  # the first estimate and the last
    assert lines[-1].startswith("steps: step 300 of 300, done in 0:00:0")
    assert "\r" not in log.text
    assert "\x1b" not in log.text
    for _ in progress.bar(range(60), position=1):
        now[0] += progress.SECONDS / 10
    assert 2 < len(log.text.splitlines()) - len(lines) < 10


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (range(40, 100), ["step 45 of 100, 10 s per step, about 0:09:10 left", "step 100 of 100, done in 0:16:30"]),
        (range(3), ["step 3 of 3, done in 0:07:00"]),
        (iter(range(7)), ["step 5, 10 s per step", "step 7, done in 0:07:40"]),
        (range(9, 9), []),
    ],
)
def test_a_log_estimates_the_time_that_is_left(monkeypatch, items, expected):
    """The first item, which compiles, takes 400 seconds, and every other item 10 seconds."""
    log, clock = Stream(terminal=False), (400.0 + 10 * i for i in range(100))
    now = [0.0]
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "SECONDS", 1e9)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for _ in progress.bar(items, unit="step"):
        now[0] = next(clock)
    assert log.text.splitlines() == expected


def test_a_bar_in_a_terminal_moves(monkeypatch):
    terminal = Stream(terminal=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in progress.bar(range(3)):
        pass
    assert "\r" in terminal.text
