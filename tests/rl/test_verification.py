import asyncio
import contextlib
import logging
import math
import operator
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from rl.preemption import PreemptedError, Preemption
from rl.prompts import Verdict
from rl.verification import OddVerdictError, Verifier, as_verdict
from tests.support.hanging_verifier import forking, interrupting, slow, unreliable

RIGHT, WRONG = Verdict(True, 1.0), Verdict(False, 0.0)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (Verdict(True, 0.3), Verdict(True, 0.3)),
        ((False, 0.2), Verdict(False, 0.2)),
        ([True, 1], RIGHT),
        (True, RIGHT),
        (False, WRONG),
        (1.0, RIGHT),
        (0, WRONG),
        (np.bool_(True), RIGHT),
        (np.float32(0.0), WRONG),
        (np.array(1), RIGHT),
        (torch.tensor(True), RIGHT),
        (torch.tensor(0.0, requires_grad=True), WRONG),
        (Verdict(np.bool_(False), np.float32(0.5)), Verdict(False, 0.5)),  # type: ignore[arg-type]
        (Verdict(torch.tensor(True), torch.tensor(2.0)), Verdict(True, 2.0)),  # type: ignore[arg-type]
        (Verdict(1, Fraction(1, 2)), Verdict(True, 0.5)),  # type: ignore[arg-type]
        (None, None),
        (math.nan, None),
        (Verdict(True, math.nan), None),
        (Verdict(True, np.float64("nan")), None),  # type: ignore[arg-type]
        (Verdict(True, None), None),  # type: ignore[arg-type]
        (np.ma.masked, None),
        ((True, np.ma.masked), None),
        (np.ma.array(1, mask=True), None),
        ((True, np.ma.array(1.0, mask=True)), None),
        (np.ma.array(1), RIGHT),
        (Decimal(1), RIGHT),
        ((Decimal(0), Decimal("0.25")), Verdict(False, 0.25)),
        (Decimal("NaN"), None),
    ],
)
def test_accepted_verdicts(said, verdict):
    result = as_verdict(said)
    assert result == verdict
    if result is not None:
        assert [type(field) for field in result] == [bool, float]


@pytest.mark.parametrize(
    "said",
    [
        *("True", "False", "1.0", b"1", {"success": True, "reward": 1.0}, object(), 1j),
        *(0.5, 7, -1.0, math.inf, 10**400),
        *((True,), (True, 1.0, "because"), [], np.array([1.0]), torch.ones(2)),
        *(("False", 0.0), (math.nan, 0.0), (None, 0.0), (0.5, 1.0), (2, 1.0)),
        *((True, "1.0"), (True, math.inf), (True, -math.inf), (True, 1e39), (True, 10**400), (True, np.array([1.0]))),
    ],
)
def test_odd_verdicts_are_not_judged(said, caplog):
    with pytest.raises(OddVerdictError, match=r"returned .*; return"):
        as_verdict(said)
    verifier = Verifier(lambda *_: said)
    assert verifier(["a", "b"], [0, 0], ["row 3", "row 4"]) == [None, None]
    assert verifier.take_counts() == {
        "train/verifier_errors": 0.0,
        "train/verifier_timeouts": 0.0,
        "train/verifier_odd": 2.0,
    }
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # one warning, which names the row
    assert "row 3, completion 'a'" in caplog.text


class _MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no message")


_ERRORS = [
    ValueError("boom"),
    ZeroDivisionError(),
    SystemExit(3),
    RecursionError(),
    asyncio.CancelledError(),
    _MuteError(),
]


@pytest.mark.parametrize("error", _ERRORS)
def test_a_verifier_that_raises_judges_the_others(error, caplog):
    def verify(text, answer):
        if text == "b":
            raise error
        return text == answer

    verifier = Verifier(verify)
    assert verifier(["a", "b", None, "c"], list("aacb"), list("wxyz")) == [RIGHT, None, None, WRONG]
    assert verifier.take_counts()["train/verifier_errors"] == 1
    assert verifier.take_counts()["train/verifier_errors"] == 0
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("asked", [KeyboardInterrupt(), PreemptedError(0)])
def test_ctrl_c_and_a_signal_to_stop_are_raised(asked):
    def verify(text, answer):
        raise asked

    with pytest.raises(type(asked)):
        Verifier(verify, timeout=1)(["a"], ["a"], ["row 0"])


def _sleep():
    time.sleep(60)


def _spin():
    while True:
        pass


def _stubborn():
    for _ in range(2):  # a verifier that catches every exception, also the one that interrupts it
        with contextlib.suppress(BaseException):
            time.sleep(60)


def _backtrack():
    re.match(r"(a+)+$", "a" * 40 + "b")


def _alarms():
    """Hang after an alarm of one's own, as the library math_verify sets one."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(5)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    time.sleep(60)


def _alarms_for_good():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.alarm(0)
    _spin()


@pytest.mark.parametrize("hang", [_sleep, _spin, _stubborn, _backtrack, _alarms, _alarms_for_good])
def test_a_verifier_that_hangs_is_interrupted(hang):
    def verify(text, answer):
        if text == "b":
            hang()
        return text == answer

    before, threads = signal.getsignal(signal.SIGALRM), threading.active_count()
    verifier = Verifier(verify, timeout=0.2)
    start = time.monotonic()
    assert verifier(list("abc"), list("aaa"), list("xyz")) == [RIGHT, None, WRONG]
    assert time.monotonic() - start < 10
    assert verifier.take_counts()["train/verifier_timeouts"] == 1
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert threading.active_count() == threads


def test_a_late_signal_does_not_interrupt_the_next_call():
    def verify(text, answer):
        signal.raise_signal(signal.SIGURG)
        signal.raise_signal(signal.SIGALRM)
        return True

    assert Verifier(verify, timeout=60)(["a"], ["a"], ["row 0"]) == [RIGHT]


def test_a_limit_outside_the_main_thread_is_warned_of_once(caplog):
    verifier = Verifier(lambda *_: True, timeout=1)
    for _ in range(2):
        thread = threading.Thread(target=lambda: verifier(["a", "b"], [0, 0], ["x", "y"]))
        thread.start()
        thread.join()
    said = "the time limit of 1 s for verifiers only works in the main thread; call it in the main thread, or in a"
    assert [message.startswith(said) for message in caplog.messages] == [True]


def test_an_alarm_of_the_caller_survives():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert Verifier(lambda *_: True, timeout=5)(["a"], ["a"], ["row 0"]) == [RIGHT]
        time.sleep(0.5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rang


def test_a_process_is_killed_and_started_anew():
    texts = ["a", "hang", "die", "raise", "odd", None, "b"]
    with Verifier(unreliable, timeout=1.0, own_process=True) as verifier:
        start = time.monotonic()
        assert verifier(texts, ["a"] * 7, ["row"] * 7) == [RIGHT, None, None, None, None, None, WRONG]
        assert time.monotonic() - start < 20
        assert list(verifier.take_counts().values()) == [2, 1, 1]
        assert verifier._process is not None
        process = verifier._process._process
    assert process is not None
    assert process.poll() is not None


def test_unpicklable_answers_and_killed_processes_are_counted_as_errors():
    with Verifier(unreliable, timeout=1.0, own_process=True) as verifier:
        assert verifier(["a", "a"], [lambda: "a", "a"], ["row"] * 2) == [None, RIGHT]
        assert verifier._process is not None
        assert verifier._process._process is not None
        verifier._process._process.kill()
        verifier._process._process.wait()
        assert verifier(["a", "a"], ["a", "b"], ["row"] * 2) == [None, WRONG]
        assert verifier.take_counts()["train/verifier_errors"] == 2


@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX; the child ends at once
@pytest.mark.parametrize("own_process", [False, True])
def test_a_verifier_that_forks_gives_one_verdict_per_completion(own_process):
    with Verifier(forking, timeout=30.0, own_process=own_process) as verifier:
        found = []
        for text, answer in (("fork", "x"), ("a", "a"), ("b", "a"), ("a", "a")):
            found += verifier([text], [answer], ["row"])
            time.sleep(0.1)  # the child has the time to reply too
        assert found == [WRONG, RIGHT, WRONG, RIGHT]


def test_an_interrupted_start_of_a_process_shifts_no_verdict(monkeypatch):
    with Verifier(operator.eq, timeout=30.0, own_process=True) as verifier:
        verifier.close()
        process = verifier._process
        assert process is not None
        monkeypatch.setattr(process, "_asked_for", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            verifier(["a"], ["a"], ["row"])
        monkeypatch.undo()
        assert verifier(["a", "b", "a"], ["a"] * 3, ["row"] * 3) == [RIGHT, WRONG, RIGHT]


def test_a_process_that_cannot_be_started_is_an_error_and_is_tried_again(monkeypatch):
    with Verifier(operator.eq, timeout=30.0, own_process=True) as verifier:
        verifier.close()
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(OSError("no memory")))
        assert verifier(["a"], ["a"], ["row"]) == [None]
        assert verifier.take_counts()["train/verifier_errors"] == 1
        monkeypatch.undo()
        assert verifier(["a"], ["a"], ["row"]) == [RIGHT]


def test_an_interrupt_that_a_verifier_raises_does_not_end_a_run():
    with Preemption(), Verifier(interrupting) as verifier:
        assert verifier(["a"], ["a"], ["row"]) == [None]
        assert verifier.take_counts()["train/verifier_errors"] == 1
    with Verifier(interrupting) as verifier, pytest.raises(KeyboardInterrupt):
        verifier(["a"], ["a"], ["row"])


def test_a_verifier_that_changes_its_answer_changes_its_own_copy():
    answer = ["b", "a"]
    with Verifier(lambda text, accepted: text == accepted.pop()) as verifier:
        assert verifier(["a", "a", "a"], [answer] * 3, ["row"] * 3) == [RIGHT] * 3
    assert answer == ["b", "a"]


def test_threads_get_their_own_verdicts_from_a_shared_process():
    with Verifier(unreliable, timeout=30.0, own_process=True) as verifier, ThreadPoolExecutor(4) as threads:
        texts = [[str(row) for row in range(40)], ["x"] * 40, ["raise"] * 40, [str(row) for row in range(40)]]
        answers = [str(row) for row in range(40)]
        found = list(threads.map(lambda some: verifier(some, answers, answers), texts))
        assert found == [[RIGHT] * 40, [WRONG] * 40, [None] * 40, [RIGHT] * 40]
        assert list(verifier.take_counts().values()) == [40, 0, 0]


def test_closing_ends_a_call_of_another_thread():
    with Verifier(slow, timeout=0.0, own_process=True) as verifier, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(verifier, ["hang"], ["a"], ["row"])
        time.sleep(0.5)
        verifier.close()
        assert waiting.result(timeout=10) == [None]


@pytest.mark.parametrize("verify", [lambda *_: True, type("Local", (), {})()])
def test_a_process_needs_a_verifier_that_it_can_import(verify):
    with pytest.raises(ValueError, match=r"another process cannot import the verifier.*at the top of a module"):
        Verifier(verify, timeout=1.0, own_process=True)


def test_a_process_leaves_out_entries_of_the_path_that_python_ignores_too(tmp_path, monkeypatch):
    (tmp_path / "operator.py").write_text("def eq(*_):\n    return False\n")
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])
    with Verifier(operator.eq, timeout=10.0, own_process=True) as verifier:
        assert verifier(["a"], ["a"], ["row 0"]) == [RIGHT]


@pytest.mark.parametrize("own_process", [False, True])
def test_a_very_long_limit_is_no_error(own_process):
    with Verifier(operator.eq, timeout=1e15, own_process=own_process) as verifier:
        assert verifier(["a"], ["a"], ["row 0"]) == [RIGHT]


def test_a_process_without_a_limit_waits_and_still_survives_a_verifier_that_dies():
    with Verifier(slow, timeout=0.0, own_process=True) as verifier:
        assert verifier(["a", "die", "b"], ["a"] * 3, ["row"] * 3) == [RIGHT, None, WRONG]
        assert list(verifier.take_counts().values()) == [1, 0, 0]


@pytest.mark.parametrize("timeout", [-1.0, math.nan, math.inf, None, "5"])
@pytest.mark.usefixtures("unchecked_types")
def test_a_limit_out_of_range_is_refused(timeout):
    with pytest.raises(ValueError, match=f"timeout is {timeout}; give"):
        Verifier(unreliable, timeout=timeout)


SCRIPT = """
import sys, time
from rl.preemption import Preemption
from rl.verification import Verifier
from tests.support.hanging_verifier import verify
with Preemption() as preemption, Verifier(verify, timeout=2.0, own_process={own_process}) as verifier:
    print("ready", flush=True)
    print(verifier(["hang", "a"], ["a", "a"], ["row 0", "row 1"]), preemption.asked)
"""


@pytest.mark.slow
@pytest.mark.parametrize("own_process", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stops_while_its_verifier_hangs(number, own_process):
    """SIGTERM and SIGINT only request a stop. The time limit ends the hanging verifier, and the rest is judged."""
    script = SCRIPT.format(own_process=own_process)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        time.sleep(0.3)
        run.send_signal(number)
        out, _ = run.communicate(timeout=30)
    assert (run.returncode, out) == (0, "[None, Verdict(success=True, reward=1.0)] True\n")
