"""Warnings of our own code fail the tests, and warnings of other packages do not."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WARNING = """
import pytest

@pytest.mark.parametrize("module", {modules})
def test_warning(module):
    exec("import warnings; warnings.warn('old', DeprecationWarning)", {{"__name__": module}})
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Return the output of pytest, under this project's settings, for tests that warn once from each module."""
    file = tmp_path_factory.mktemp("warnings") / "test_warnings_of_others.py"
    modules = ["jaxsel", "jaxsel.beta", "rl.train", "experiments.demo", "tests.x", "jax", "rlax.base", "somebody"]
    file.write_text(WARNING.format(modules=modules))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        ROOT / "pyproject.toml",
        "--rootdir",
        ROOT,
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run([*command, file], capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("module", ["jaxsel", "jaxsel.beta", "rl.train", "experiments.demo", "tests.x"])
def test_a_warning_of_our_own_fails(outcome, module):
    assert f"test_warning[{module}] - DeprecationWarning: old" in outcome


@pytest.mark.parametrize("module", ["jax", "rlax.base", "somebody"])
def test_a_warning_of_a_third_party_does_not(outcome, module):
    assert f"test_warning[{module}] - " not in outcome
    assert "5 failed, 3 passed" in outcome
