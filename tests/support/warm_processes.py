"""Processes that a server forks, after it has imported torch, Transformers and JAX once for all of them.

A process of its own imports them for four seconds. Tests of how a command starts use `subprocess` instead.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax

ROOT = Path(__file__).parents[2]


class WarmProcess(ForkServerProcess):
    """A forked process with the given environment variables, or those of the process that starts it."""

    def __init__(self, environment: dict[str, str] | None = None, **options: Any):
        super().__init__(**options)
        self._environment = dict(os.environ if environment is None else environment)

    def run(self) -> None:
        """Set the variables, and the settings that JAX has read from them already."""
        os.environ.clear()
        os.environ.update(self._environment)
        for name in ("jax_platforms", "jax_compilation_cache_dir"):
            jax.config.update(name, os.environ.get(name.upper()))
        super().run()


class _Context(ForkServerContext):
    Process = WarmProcess


CONTEXT = _Context()
CONTEXT.set_forkserver_preload(["tests.support.warm_imports"])

SPAWNING = SimpleNamespace(
    get_context=lambda method: CONTEXT if method == "spawn" else multiprocessing.get_context(method)
)
"""A stand-in for the module `multiprocessing` in code that starts its processes by `spawn`."""


def start(command: list[str], output: Path, error: Path, environment: dict[str, str] | None = None) -> WarmProcess:
    """Start the command, as `subprocess.Popen` in the root of the repository does.

    Args:
        command: The interpreter, then `-m`, a module and its arguments, or `-c` and a program.
        output: The file that gets the standard output.
        error: The file that gets the standard error. It may be the same file.
        environment: The environment variables; None: the variables of this process.
    """
    process = WarmProcess(environment, target=_run, args=(command[1:], output, error))
    process.start()
    return process


def run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as `subprocess.run` does, and return its output.

    Raises:
        subprocess.CalledProcessError: With `check`, the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "output"), Path(folder, "error")
        process = start(command, *files)
        process.join()
        said = [file.read_text() for file in files]
    assert process.exitcode is not None
    done = subprocess.CompletedProcess(command, process.exitcode, *said)
    if check:
        done.check_returncode()
    return done


def _run(command: list[str], output: Path, error: Path) -> None:
    os.chdir(ROOT)
    for descriptor, path in ((1, output), (2, error)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    kind, said, *sys.argv[1:] = command
    try:
        if kind == "-m":
            runpy.run_module(said, run_name="__main__", alter_sys=True)
        else:
            exec(compile(said, "-c", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
