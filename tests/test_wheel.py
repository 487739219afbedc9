"""The wheel holds jaxsel alone, and README's first snippet runs with nothing else of the clone on the path."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

try:
    importlib.metadata.version("pip")  # not `import pip`: it disables setuptools here, which vLLM imports
except importlib.metadata.PackageNotFoundError:
    pytest.skip("no pip in this environment", allow_module_level=True)
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
# If hatchling is missing, pip downloads it for the build.
BUILDS_OFFLINE = importlib.util.find_spec("hatchling") is not None


def call(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-build-isolation",) if BUILDS_OFFLINE else ()
    call(*PIP, "wheel", "--no-deps", *options, "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python with the wheel installed, which finds the dependencies in the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # folders named in a .pth file do not have their own .pth files read, so the clone stays off the path
    (site / "dependencies.pth").write_text("\n".join(paths))
    call(*PIP, "--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    return folder / "bin" / "python"


def test_the_wheel_is_small_and_holds_one_package(wheel):
    assert wheel.stat().st_size < 450_000  # source alone: no data, figures or compiled code
    names = zipfile.ZipFile(wheel).namelist()
    top_levels = {name.partition("/")[0] for name in names}
    assert {name for name in top_levels if not name.endswith(".dist-info")} == {"jaxsel"}
    assert "jaxsel/py.typed" in names
    assert not [name for name in names if "results" in name]
    for name in names:
        if not name.partition("/")[0].endswith(".dist-info"):
            assert Path(name).suffix in (".py", ".typed", ".css", ".html", ".js"), name


def test_the_version_is_that_of_the_package(python, tmp_path):
    code = "import importlib.metadata as m, jaxsel; print(m.version('jaxsel') == jaxsel.__version__, jaxsel.__file__)"
    same, file = call(python, "-c", code, cwd=tmp_path).split()
    assert same == "True"
    assert Path(file).is_relative_to(python.parents[1])


@pytest.mark.parametrize("name", ["rl", "experiments", "tests"])
def test_nothing_else_of_the_clone_can_be_imported(python, tmp_path, name):
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert call(python, "-c", code, cwd=tmp_path) == "None\n"


def test_the_first_snippet_of_readme_runs(python, tmp_path):
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippet
    assert call(python, "-c", snippet[1], cwd=tmp_path).strip()
