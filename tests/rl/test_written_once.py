"""Folders of a cache: of many processes that need one at once, one writes it and the others wait."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from rl import _written_once as module
from rl._written_once import written_once

WRITER = """
import os, sys, time
from pathlib import Path
from rl._written_once import written_once

folder, started = map(Path, sys.argv[1:3])
def write(partial):
    (started / str(os.getpid())).touch()
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end and not (started.parent / "go on").exists():
        time.sleep(0.01)
    (partial / "file").write_text("whole")
written_once(folder, write)
assert (folder / "file").read_text() == "whole"
"""


@pytest.fixture
def writers(tmp_path):
    """Return a function that starts a writing process, and a folder with a file per process that began to write."""
    (tmp_path / "started").mkdir()
    processes = []

    def start(seconds):
        arguments = [tmp_path / "cache/folder", tmp_path / "started", str(seconds)]
        with (tmp_path / f"said-{len(processes)}").open("w") as said:
            processes.append(subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stderr=said))
        return processes[-1]

    yield start, tmp_path / "started"
    for process in processes:
        process.kill()
        process.wait()


def wait_for(count, folder):
    while len(list(folder.iterdir())) < count:
        time.sleep(0.01)


def said(folder):
    return [path.read_text() for path in folder.glob("said-*")]


def test_of_many_processes_one_writes(writers, tmp_path):
    start, started = writers
    processes = [start(60) for _ in range(8)]
    while not any("another process writes folder; waiting for it" in text for text in said(tmp_path)):
        time.sleep(0.01)
    (tmp_path / "go on").touch()
    assert [process.wait() for process in processes] == [0] * 8
    assert len(list(started.iterdir())) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["folder"]


def test_after_the_death_of_the_writer_the_next_one_writes(writers, tmp_path):
    start, started = writers
    killed = start(600)
    wait_for(1, started)
    waiting = start(0)
    time.sleep(0.3)
    assert waiting.poll() is None
    killed.kill()
    assert waiting.wait(20) == 0
    assert (tmp_path / "cache/folder/file").read_text() == "whole"
    assert len(list(started.iterdir())) == 2


def test_a_signal_ends_the_wait(writers):
    start, started = writers
    start(600)
    wait_for(1, started)
    waiting = start(0)
    time.sleep(0.3)
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, caplog, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        written_once(tmp_path / "folder", lambda partial: (partial / "file").touch())
    assert (tmp_path / "folder/file").exists()
    assert "cannot be locked" in caplog.text


def test_the_lock_of_an_error_is_released(tmp_path):
    def fail(_):
        raise ValueError("no demonstrations")

    with pytest.raises(ValueError, match="no demonstrations"):
        written_once(tmp_path / "folder", fail)
    assert list(tmp_path.iterdir()) == []
    written_once(tmp_path / "folder", lambda partial: None)
