"""The actor behind a server, without Ray: its folder's lock, and the error that kept it from starting."""

import functools
import subprocess
import sys

import pytest

from jaxsel.integrations import _server
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
    # the token is that of the call that made the server, so the other pool is not looked at
    server.accept("token", functools.partial(make, N + 1), str(tmp_path))
    server.accept("other", make, str(tmp_path))
    with pytest.raises(ValueError, match=rf"mopps for {N + 1} prompts.*, but the running server .* for {N} prompts"):
        server.accept("other", functools.partial(make, N + 1), str(tmp_path))
    with pytest.raises(ValueError, match="or other hyperparameters"):
        server.accept("other", functools.partial(make, candidate_ratio=2), str(tmp_path))
    with pytest.raises(ValueError, match="folder is /elsewhere, but the running server of this name uses"):
        server.accept("other", make, "/elsewhere")


def test_only_methods_of_the_state_machine_can_be_asked(tmp_path):
    with pytest.raises(AssertionError):
        Server("token", make, str(tmp_path), 10, {}).ask("_write")
