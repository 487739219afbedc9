"""Checks of every notebook without running it; `make notebooks` runs the notebooks."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from experiments.notebooks import complaints

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
ALLOWED = {"experiments", "jax", "jaxsel", "matplotlib", "numpy", "pandas", "pyarrow", "rl"} | sys.stdlib_module_names
MACHINE = re.compile(r"(?<![\w.])/(home|root|Users|tmp|private|var|opt|usr|mnt|work|workspace)/|[A-Z]:\\\\?\w")


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def texts(path):
    """Return all visible text of the notebook."""
    for cell in json.loads(path.read_text())["cells"]:
        yield source(cell)
        for output in cell.get("outputs", []):
            yield "".join(output.get("text", []))
            data = output.get("data", {})
            yield from ("".join(value) for name, value in data.items() if name.startswith("text/"))


def nodes(path, *kinds):
    for cell in cells(path, "code"):
        yield from (node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, kinds))


def test_there_are_notebooks():
    names = [path.name for path in NOTEBOOKS]
    assert names
    assert all(re.fullmatch(r"\d\d_[a-z_]+\.ipynb", name) for name in names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_opens_with_what_the_reader_learns(self, path):
        document = json.loads(path.read_text())
        assert document["nbformat"] == 4
        first = document["cells"][0]
        assert first["cell_type"] == "markdown"
        assert source(first).startswith("# ")
        assert "**You will learn**" in source(first)

    def test_was_executed_from_top_to_bottom(self, path):
        found = cells(path, "code")
        assert [cell["execution_count"] for cell in found] == list(range(1, len(found) + 1))
        assert any(cell["outputs"] for cell in found)

    def test_has_figures(self, path):
        outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2

    def test_has_no_errors_warnings_or_progress_bars(self, path):
        found = cells(path, "code")
        assert not [output for cell in found for output in cell["outputs"] if output["output_type"] == "error"]
        assert not complaints(found)

    def test_names_no_path_of_a_machine(self, path):
        assert not [text for text in texts(path) if MACHINE.search(text)]

    def test_has_no_times(self, path):
        document = json.loads(path.read_text())
        assert not [cell for cell in document["cells"] if cell["metadata"]]
        assert "version" not in document["metadata"]["language_info"]

    def test_imports_the_library_and_little_else(self, path):
        names = {alias.name for node in nodes(path, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in nodes(path, ast.ImportFrom)}
        assert {name.partition(".")[0] for name in names} <= ALLOWED

    def test_holds_no_library_code(self, path):
        assert not list(nodes(path, ast.ClassDef))
        for function in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
            assert ast.unparse(function).count("\n") < 4, f"{function.name} belongs in a module"

    def test_its_cells_are_short(self, path):
        for cell in cells(path, "code"):
            assert source(cell).count("\n") < 25


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/home/me/x", True),
        ("in /tmp/abc", True),
        ("C:\\Users", True),
        ("experiments/results/demo.png", False),
        ("s/n, rl/tmp/x", False),
        ("MIXED: 0 < s < n", False),
    ],
)
def test_paths_of_a_machine_are_found(text, found):
    assert bool(MACHINE.search(text)) == found


def test_complaints_are_found():
    quiet = {"outputs": [{"output_type": "stream", "name": "stdout", "text": ["a table\n"]}]}
    loud = {"outputs": [{"output_type": "stream", "name": "stderr", "text": ["a ", "warning\n"]}]}
    assert complaints([quiet, {"cell_type": "markdown"}, loud]) == ["a warning\n"]
