"""A run that is asked to stop stops between two steps, and goes on to the same numbers."""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rl.preemption import SIGNALS, PreemptedError, Preemption
from rl.run_log import read_metrics
from tests.support.runs import CONFIG, SCRIPT, assert_same_run, start


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_once_and_then_does_what_it_did(number):
    came = []
    before = signal.signal(number, lambda *_: came.append(number))
    try:
        with Preemption() as preemption:
            assert not preemption.asked
            os.kill(os.getpid(), number)
            assert preemption.asked
            assert not came
            os.kill(os.getpid(), number)
            assert came == [number]
        os.kill(os.getpid(), number)
        assert came == [number, number]
    finally:
        signal.signal(number, before)


def test_before_training_a_signal_stops_at_once():
    with pytest.raises(PreemptedError, match="before it trained"), Preemption(at_once=True):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_ctrl_c_stops_as_a_scheduler_does(task, tmp_path):
    def pressed(steps):
        for step in steps:
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    with pytest.raises(PreemptedError, match="stopped after step 3"):
        start(task, tmp_path, progress=pressed)
    assert (tmp_path / "checkpoint.pt").exists()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_in_another_thread_nothing_is_caught():
    entered = []
    thread = threading.Thread(target=lambda: entered.append(Preemption().__enter__()))
    handlers = [signal.getsignal(number) for number in SIGNALS]
    thread.start()
    thread.join()
    assert not entered[0].asked
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def asked_at(at: int):
    def steps_until(steps):
        for step in steps:
            if step == at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step

    return steps_until


@pytest.mark.parametrize("at", [0, 5])
def test_the_step_is_finished_and_a_checkpoint_written_though_none_was_due(task, tmp_path, at):
    config = replace(CONFIG, checkpoint_every=0, history=True)
    whole = start(task, tmp_path / "whole", config)
    with pytest.raises(PreemptedError, match=f"stopped after step {at + 1}, as it was asked to") as error:
        start(task, tmp_path / "cut", config, progress=asked_at(at))
    assert error.value.step == at + 1
    assert len(read_metrics(tmp_path / "cut" / "metrics.jsonl")) == at + 1
    assert_same_run(whole, start(task, tmp_path / "cut", config, resume=True))


def test_in_the_last_step_the_run_ends_as_it_would_have(task, tmp_path):
    whole = start(task, tmp_path / "whole")
    assert_same_run(whole, start(task, tmp_path / "asked", progress=asked_at(CONFIG.steps - 1)))


@pytest.mark.slow
def test_terminated_and_killed_at_random_moments(task, tmp_path):
    """SIGTERM, SIGKILL, Ctrl-C and SIGUSR1, wherever they come; the numbers are those of an undisturbed run."""
    config = replace(CONFIG, steps=200, checkpoint_every=5)
    whole = start(task, tmp_path / "whole", config)
    run_dir, rng = tmp_path / "cut", random.Random(0)
    script = SCRIPT.format(run_dir=str(run_dir), steps=200)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1):
        done = len(read_metrics(run_dir / "metrics.jsonl"))
        target = done + rng.randint(5, 30)
        process = subprocess.Popen(
            [sys.executable, "-c", script], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE
        )
        while process.poll() is None and len(read_metrics(run_dir / "metrics.jsonl")) < target:
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate()
        assert (b"PreemptedError" in said) == (number != signal.SIGKILL)
    assert 10 < len(read_metrics(run_dir / "metrics.jsonl")) < 200
    assert_same_run(whole, start(task, run_dir, config, resume=True))


def test_the_error_says_the_same_in_another_process():
    error = pickle.loads(pickle.dumps(PreemptedError(7)))
    assert (error.step, str(error)) == (7, "stopped after step 7, as it was asked to; resume to go on")
