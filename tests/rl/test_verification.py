"""Verifiers that raise, hang, die or return oddities: the others' verdicts stay, and what went wrong is counted."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.prompts import Verdict
from rl.verdicts import OddVerdictError, read_verdict
from rl.verification import ERRORS, ODD, PROBLEMS, TIMEOUTS, Verifier

RIGHT, WRONG = Verdict(True, 1.0), Verdict(False, 0.0)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (RIGHT, RIGHT),
        (Verdict(False, 0.25), Verdict(False, 0.25)),
        ((True, 3.0), Verdict(True, 3.0)),
        ((np.bool_(False), np.float32(0.5)), Verdict(False, 0.5)),
        ((torch.tensor(True), torch.tensor([2.0])), Verdict(True, 2.0)),
        (True, RIGHT),
        (np.bool_(False), WRONG),
        (1, RIGHT),
        (0.0, WRONG),
        (np.float64(1.0), RIGHT),
        (torch.tensor(0), WRONG),
        (None, None),
        (math.nan, None),
        (math.inf, None),
        (Verdict(True, math.inf), None),
        (Verdict(False, math.nan), None),
        ((True, None), None),
    ],
)
def test_what_is_a_verdict(said, verdict):
    read = read_verdict(said)
    assert read == verdict
    assert read is None or (type(read.success), type(read.reward)) == (bool, float)


@pytest.mark.parametrize(
    "said",
    [
        *("True", "1", b"1", 0.5, 2, -1, (), (True,), (True, 1.0, 0), ("False", 1.0), (math.nan, 1.0), (0.5, 1.0)),
        *((True, "1"), {"success": True}, np.ones(2), torch.ones(2), object(), (None, 1.0)),
    ],
)
def test_what_is_none(said):
    with pytest.raises(OddVerdictError, match=r"the verifier returned .*; return"):
        read_verdict(said)


def behave(text: str, answer: float):
    """Does what the text says."""
    if text == "raise":
        raise RuntimeError("no such theorem")
    if text == "odd":
        return "True"
    if text == "die":
        os._exit(3)
    while text == "hang":
        pass
    if text == "print":
        print("x" * 100_000)
    return text == "right", answer


TEXTS = ["right", "raise", "wrong", "odd", None, "print", "right"]
VERDICTS = [Verdict(True, 0.5), None, Verdict(False, 0.5), None, None, Verdict(False, 0.5), Verdict(True, 0.5)]


@pytest.mark.parametrize("limit", [0.0, 30.0])
def test_a_verifier_that_raises_or_says_odd_things(limit, caplog):
    with Verifier(behave, limit=limit) as verifier:
        for _ in range(2):
            assert verifier(TEXTS, [0.5] * len(TEXTS)) == VERDICTS
        assert dict(verifier.problems) == {ERRORS: 2, ODD: 2}
        assert verifier.take_problems() == {f"train/{ERRORS}": 2, f"train/{ODD}": 2, f"train/{TIMEOUTS}": 0}
        assert not any(verifier.take_problems().values())
    assert sum(ERRORS in record.message for record in caplog.records) == 1, "said once"
    assert "no such theorem" in caplog.text


def test_a_verifier_that_hangs_or_dies_loses_one_completion():
    texts = ["right", "hang", "wrong", "die", "right"]
    with Verifier(behave, limit=1.0) as verifier:
        verdicts = verifier(texts, [1.0] * 5)
        assert verdicts == [RIGHT, None, Verdict(False, 1.0), None, RIGHT]
        assert dict(verifier.problems) == {TIMEOUTS: 2}
        assert verifier(["right"], [1.0]) == [RIGHT], "it goes on with the next batch"


def test_a_batch_waits_for_a_few_limits_only(monkeypatch):
    monkeypatch.setattr("rl.verification._PATIENCE", 2)
    with Verifier(behave, limit=0.3) as verifier:
        assert verifier(["right"] + ["hang"] * 50, [1.0] * 51) == [RIGHT] + [None] * 50
        assert verifier.problems[TIMEOUTS] == 50


def test_a_closure_is_sent_by_value():
    bonus = 0.25
    with Verifier(lambda text, answer: (text == answer, bonus), limit=30.0) as verifier:
        assert verifier(["a", "b"], ["a", "a"]) == [Verdict(True, 0.25), Verdict(False, 0.25)]


def test_a_verifier_that_cannot_be_sent_is_refused():
    handle = (i for i in range(3))
    with pytest.raises(ValueError, match=r"the verifier cannot be sent to a process .*; give one that can, or a limit"):
        Verifier(lambda text, answer: next(handle), limit=1.0)


@pytest.mark.parametrize("limit", [-1, math.inf, math.nan])
def test_limits_out_of_range(limit):
    with pytest.raises(ValueError, match=r"limit is .*; give a finite number of seconds"):
        Verifier(behave, limit=limit)


STOPPED = """
import signal, sys
from rl.verification import Verifier
from tests.rl.test_verification import behave
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
try:
    with Verifier(behave, limit=600) as verifier:
        verifier(["right"], [1.0])
        print(verifier._process._popen.pid, flush=True)
        verifier(["hang"], [1.0])
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_while_it_hangs_ends_both_processes(number, code):
    root = Path(__file__).parents[2]
    run = subprocess.Popen([sys.executable, "-c", STOPPED], cwd=root, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    time.sleep(0.3)
    run.send_signal(number)
    assert run.wait(30) == code
    run.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_problems_have_names_of_their_own():
    assert len(set(PROBLEMS)) == 3
