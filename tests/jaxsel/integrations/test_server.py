"""Tests of `Server`, the actor behind a server on Ray, without Ray: the lock of its folder, and its errors."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

from jaxsel.integrations import _server
from jaxsel.integrations._served import meaning
from jaxsel.integrations._server import LOCK_FILE, Server
from tests.support.served_calls import N, make

pytestmark = pytest.mark.slow

HOLD = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, 2); print('held', flush=True); input()"


def test_a_folder_in_use_is_refused_until_its_process_is_killed(tmp_path, monkeypatch):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / LOCK_FILE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setattr(_server, "_PATIENCE", 0.1)
        refused = Server("token", make, str(tmp_path), 10, {})
        process.kill()
    assert refused.has_failed()
    for _ in range(2):
        with pytest.raises(ValueError, match="is in use by another server; give each server its own"):
            refused.ask("metrics")
    assert not Server("token", make, str(tmp_path), 10, {}).has_failed()


def test_only_the_same_server_is_accepted(tmp_path):
    server = Server("token", make, str(tmp_path), 10, {})
    # the token tells that the call which made the server asks, so the server compares nothing
    server.accept("token", functools.partial(make, N + 1), str(tmp_path), {})
    server.accept("other", make, str(tmp_path), {})
    with pytest.raises(ValueError, match=rf"mopps for {N + 1} prompts.*, but the running server .* for {N} prompts"):
        server.accept("other", functools.partial(make, N + 1), str(tmp_path), {})
    with pytest.raises(ValueError, match="or other hyperparameters"):
        server.accept("other", functools.partial(make, candidate_ratio=2), str(tmp_path), {})
    with pytest.raises(ValueError, match="folder is /elsewhere, but the running server of this name uses"):
        server.accept("other", make, "/elsewhere", {})
    with pytest.raises(
        ValueError, match=r"options are .'threshold': 0.9., but the running .* give these, another name"
    ):
        server.accept("other", make, str(tmp_path), {"threshold": 0.9})


def test_the_meaning_of_calls_is_compared_as_it_is_stored():
    """Scalars of NumPy are numbers in JSON, and a default that is given equals one that is left out."""
    given = meaning({"threshold": np.float32(0.25), "draw_size": np.int64(4), "success": None, "texts": ["a"]})
    assert json.dumps(given, sort_keys=True) == '{"draw_size": 4, "threshold": 0.25}'
    assert meaning({"threshold": 0.5, "draw_size": None}) == {}


def test_only_methods_of_the_state_machine_can_be_asked(tmp_path):
    with pytest.raises(AssertionError):
        Server("token", make, str(tmp_path), 10, {}).ask("_write")
