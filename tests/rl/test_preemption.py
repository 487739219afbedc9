"""A signal stops a run between two steps, and the resumed run gives the same numbers."""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxsel.integrations.history import read_history
from rl.engines.hf import HFEngine
from rl.evaluation import Evaluation, EvaluationSet
from rl.policy import build_policy
from rl.preemption import SIGNALS, PreemptedError, Preemption
from rl.run_log import read_metrics
from tests.support import warm_processes
from tests.support.runs import CONFIG, LONG, SCRIPT, assert_same_run, start


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_asks_to_stop_and_the_next_has_its_former_effect(number):
    received = []
    before = signal.signal(number, lambda *_: received.append(number))
    try:
        with Preemption() as preemption:
            assert not preemption.asked
            os.kill(os.getpid(), number)
            assert preemption.asked
            assert not received
            os.kill(os.getpid(), number)
            assert received == [number]
        os.kill(os.getpid(), number)
        assert received == [number, number]
    finally:
        signal.signal(number, before)


def asked_and_caught(caught, replacement=None):
    """Receive a signal as a library may do it: catch the error, and go on or raise another one."""
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    except caught:
        if replacement is not None:
            raise replacement from None


@pytest.mark.parametrize("caught", [(), Exception, BaseException])
@pytest.mark.parametrize("replacement", [None, RuntimeError("of a library")])
def test_before_training_a_signal_stops_at_once_though_a_library_catches_the_error(caught, replacement):
    preemption = Preemption()
    with preemption, pytest.raises(PreemptedError, match="before it trained"), preemption.interrupting():
        asked_and_caught(caught, replacement)
    assert preemption.asked
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGUSR1)


def asked_in_a_destructor(done):
    Dying()
    for _ in range(1000):
        time.sleep(0.01)
    done.append("all of the work")


def test_a_signal_during_a_destructor_stops_at_once_too():
    """Python ignores errors of destructors and of callbacks of the garbage collection."""
    done, before = [], sys.unraisablehook
    with Preemption() as preemption, pytest.raises(PreemptedError), preemption.interrupting():
        asked_in_a_destructor(done)
    assert not done
    assert sys.unraisablehook == before


def test_a_signal_that_was_handled_ends_no_process_later():
    """The thread that watches for signals may wake up only after training."""
    command = [sys.executable, "-c", HANDLED]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout, child.stderr) == (0, "20\n", "")


HANDLED = """
import os, signal, sys, time
from rl.preemption import Preemption, exit_when_asked

sys.setswitchinterval(0.5)  # the watching thread gets its turn late
exit_when_asked()
handled = 0
for _ in range(20):
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        handled += preemption.asked
time.sleep(0.2)
print(handled)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_arrives_after_the_ranks_have_agreed_to_stop_changes_nothing(number):
    """The ranks stop together when one of them is asked; the others may get their signals while they end."""
    command = [sys.executable, "-c", LATE, str(int(number))]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert child.stdout == "stopped after step 3, as it was asked to; resume to go on\nthe end\n", child.stderr
    again = "stopped before it trained, as it was asked to; resume to go on\n"
    assert (child.returncode, child.stderr) == (os.EX_TEMPFAIL, again)


LATE = """
import os, sys, time
from rl.preemption import PreemptedError, Preemption, exit_when_asked

exit_when_asked()
try:
    with Preemption():
        with Preemption():  # one that is within another gives its handlers back
            raise PreemptedError(3)
except PreemptedError as stopped:
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(0.2)  # for the thread that watches
    print(stopped)
print("the end", flush=True)
os.kill(os.getpid(), int(sys.argv[1]))
"""


def test_outside_a_command_an_error_without_a_signal_gives_the_signals_back():
    """A notebook goes on after `PreemptedError`, and Ctrl-C must end what it runs next."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(PreemptedError), Preemption():
        raise PreemptedError(3)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_before_interruptible_work_stops_it_and_other_errors_stay():
    with Preemption() as preemption:
        with pytest.raises(RuntimeError, match="of a library"), preemption.interrupting():
            raise RuntimeError("of a library")
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(PreemptedError), preemption.interrupting():
            pytest.fail("the work started")


def test_a_second_ctrl_c_ends_interruptible_work():
    with Preemption() as preemption, pytest.raises(KeyboardInterrupt), preemption.interrupting():
        asked_and_caught(PreemptedError, KeyboardInterrupt())


BLOCKED = """
import hashlib, os, sys
from rl.preemption import Preemption, exit_when_asked

exit_when_asked()
child = os.fork() if sys.argv[1] == "child" else None
if child == 0:
    os.kill(os.getpid(), 15)
if sys.argv[1] == "open":
    with Preemption() as preemption:
        print("ready", flush=True)
        while not preemption.asked:
            hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[2]))
    print(preemption.asked)
    sys.exit()
print("ready", flush=True)
if sys.argv[1] == "child":
    print(os.waitstatus_to_exitcode(os.wait()[1]))
else:
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[2]))
"""
"""A program whose main thread computes inside of a library, where Python calls no handler."""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_process_that_is_blocked_in_a_library(number):
    command = [sys.executable, "-c", BLOCKED, "starting", str(10**9)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == os.EX_TEMPFAIL
    assert said == b"stopped before it trained, as it was asked to; resume to go on\n"


def test_a_signal_in_training_and_a_signal_of_a_child_end_no_process():
    command = [sys.executable, "-c", BLOCKED, "open", str(10**5)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "True\n"
    assert process.returncode == 0
    child = subprocess.run([sys.executable, "-c", BLOCKED, "child"], capture_output=True, text=True, timeout=10)
    assert (child.returncode, child.stdout.split()) == (0, ["ready", "75"])


def test_ctrl_c_stops_as_a_scheduler_does(task, tmp_path):
    def pressed(steps):
        for step in steps:
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    before = signal.getsignal(signal.SIGINT)  # SIG_IGN where the tests run in the background of a shell
    with pytest.raises(PreemptedError, match="stopped after step 3"):
        start(task, tmp_path, progress=pressed)
    assert (tmp_path / "checkpoint.pt").exists()
    assert signal.getsignal(signal.SIGINT) == before


def test_in_another_thread_no_signal_is_caught():
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


@pytest.mark.parametrize("at", [1, 5])
def test_the_step_is_finished_and_a_checkpoint_written_though_none_was_due(task, tmp_path, at):
    config = replace(CONFIG, checkpoint_every=0, history=True)
    whole = start(task, tmp_path / "whole", config)
    with pytest.raises(PreemptedError, match=f"stopped after step {at + 1}, as it was asked to") as error:
        start(task, tmp_path / "cut", config, progress=asked_at(at))
    assert error.value.step == at + 1
    assert len(read_metrics(tmp_path / "cut" / "metrics.jsonl")) == at + 1
    assert_same_run(whole, start(task, tmp_path / "cut", config, resume=True))


class AskedIn:
    """An engine that gets a signal inside of one call of `generate`."""

    def __init__(self, engine, call):
        self._engine, self._left, self.update_weights = engine, call, engine.update_weights

    def generate(self, *arguments, **options):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._engine.generate(*arguments, **options)


@pytest.mark.parametrize(
    ("call", "done"),
    [(1, 0), (7, 4), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((2, 0), (8, 4), (9, 5)))],
)
def test_a_probe_is_ended_at_once_and_done_again(task, tmp_path, call, done):
    """Calls 1, 2, 7 and 8 generate the rollouts of a probe; every other call generates the rollouts of a step."""
    config = replace(CONFIG, checkpoint_every=0, history=True, probe_every=4)
    whole = start(task, tmp_path / "whole", config)
    policy = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)
    with pytest.raises(PreemptedError, match=f"after step {done}," if done else "before it trained"):
        start(task, tmp_path / "cut", config, policy=policy, engine=AskedIn(HFEngine(policy), call))
    assert len(read_metrics(tmp_path / "cut" / "metrics.jsonl")) == done
    assert_same_run(whole, start(task, tmp_path / "cut", config, resume=True))
    one, other = (read_history(tmp_path / name / "history") for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


class SlowFrom:
    """A verifier that gets a signal in one call, and that takes long in this call and in all later ones."""

    def __init__(self, first, verify, *, catches):
        self._first, self._verify, self._catches, self.calls = first, verify, catches, 0

    def __call__(self, completion, answer):
        self.calls += 1
        try:
            if self.calls == self._first:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.calls >= self._first:
                time.sleep(0.5)
        except BaseException:
            if not self._catches:
                raise
        return self._verify(completion, answer)


@pytest.mark.parametrize("catches", [False, True])
@pytest.mark.parametrize("kind", ["probe", "evaluation", "last probe"])
def test_a_slow_verifier_does_not_delay_the_end_of_a_measurement(task, tmp_path, kind, catches):
    """A verifier may catch all exceptions, also the one that ends the measurement."""
    config = replace(CONFIG, steps=2, checkpoint_every=0, probe_every=0, history=True)
    evaluation = Evaluation([EvaluationSet("copy", task, task.held_out(3))], k=2)
    whole = start(task, tmp_path / "whole", config, evaluation=evaluation)
    last = whole[0][-1]
    first = 2 + (int(last["probe/rollouts"] + last["rollouts"]) if kind == "last probe" else 0)
    slow = SlowFrom(first, task.verify, catches=catches)
    slow_task = task._replace(verify=slow)
    sets = [EvaluationSet("copy", slow_task if kind == "evaluation" else task, task.held_out(3))]
    begun = task if kind == "evaluation" else slow_task
    done = config.steps if kind == "last probe" else 0
    with pytest.raises(PreemptedError, match=f"after step {done}," if done else "before it trained"):
        start(begun, tmp_path / "cut", config, evaluation=Evaluation(sets, k=2))
    assert slow.calls == first
    assert_same_run(whole, start(task, tmp_path / "cut", config, evaluation=evaluation, resume=True))
    one, other = (read_history(tmp_path / name / "history") for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize(("checkpoint_every", "calls"), [(0, (13, 16)), (3, (14, 15))])
def test_a_signal_in_the_last_step_or_in_the_final_measurement_leaves_the_last_to_the_resumed_run(
    task, tmp_path, checkpoint_every, calls
):
    """Call 13 belongs to the last step, calls 14 and 15 to the final probe, and call 16 to the final evaluation."""
    config = replace(CONFIG, checkpoint_every=checkpoint_every, history=True)
    evaluation = Evaluation([EvaluationSet("copy", task, task.held_out(3))], k=2)
    whole = start(task, tmp_path / "whole", config, evaluation=evaluation)
    assert "eval/copy/mean@2" in whole[0][-1]
    for call in calls:
        policy = build_policy(task.alphabet, hidden_size=32, num_layers=1, feed_forward_size=32, seed=0)
        engine, cut = AskedIn(HFEngine(policy), call), tmp_path / f"{call}"
        with pytest.raises(PreemptedError, match="stopped after step 8, as it was asked to; resume"):
            start(task, cut, config, policy=policy, engine=engine, evaluation=evaluation)
        assert len(read_metrics(cut / "metrics.jsonl")) == CONFIG.steps
        assert_same_run(whole, start(task, cut, config, evaluation=evaluation, resume=True))
        one, other = (read_history(folder / "history") for folder in (tmp_path / "whole", cut))
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_terminated_and_killed_at_random_moments(task, tmp_path):
    """Two processes, one after the other, get signals and SIGKILL in training. The resumed run equals a whole one."""
    whole = start(task, tmp_path / "whole", LONG)
    run_dir, log, rng = tmp_path / "cut", tmp_path / "stderr", random.Random(0)
    stopped = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    for numbers in ((*stopped, signal.SIGKILL), (signal.SIGKILL,)):
        command = [sys.executable, "-c", SCRIPT.format(run_dir=str(run_dir))]
        process = warm_processes.start(command, log, log)
        assert process.pid is not None
        try:
            for count, number in enumerate(numbers, 1):
                target = len(read_metrics(run_dir / "metrics.jsonl")) + rng.randint(5, 10)
                wait_until(process, lambda target=target: len(read_metrics(run_dir / "metrics.jsonl")) >= target)
                os.kill(process.pid, number)
                if number != signal.SIGKILL:
                    wait_until(process, lambda count=count: log.read_bytes().count(b"PreemptedError: ") == count)
            process.join()
            assert process.exitcode == -signal.SIGKILL
        finally:
            process.kill()
            process.join()
        assert log.read_bytes().count(b"PreemptedError: ") == len(numbers) - 1
    assert 20 < len(read_metrics(run_dir / "metrics.jsonl")) < LONG.steps
    assert_same_run(whole, start(task, run_dir, LONG, resume=True))


def wait_until(process, is_done):
    while not is_done():
        assert process.exitcode is None, "the run ended too early"
        time.sleep(0.005)  # leave the cores to the run


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(PreemptedError(7)))
    assert (error.step, str(error)) == (7, "stopped after step 7, as it was asked to; resume to go on")
