"""Checks of every notebook without running it; `make notebooks` runs the notebooks."""

import ast
import base64
import io
import json
import re
import sys
from html import escape
from pathlib import Path

import pytest
from PIL import Image

from experiments.notebooks import complaints, smaller
from tests.support.browser import Shown, chromium

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

    def test_is_a_small_file(self, path):
        assert path.stat().st_size < 1_200_000

    def test_says_how_long_it_takes_and_ends_in_what_to_do(self, path):
        if path.stem < "04":
            pytest.skip("an explanation of one method")
        first, *_, last = cells(path, "markdown")
        assert re.search(r"runs in (less than|about) \w+ minutes?\.", source(first).replace("\n", " "))
        assert "## What to do\n" in source(last)
        assert "\n## " not in source(last).partition("## What to do\n")[2]

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


def test_the_stored_outputs_use_the_data_that_the_text_describes():
    (path,) = (path for path in NOTEBOOKS if path.stem == "03_amortised_predictor")
    assert "**The outputs stored here are of the MATH training set**" in "".join(texts(path))
    assert [text for text in texts(path) if text.startswith("data: a file named by JAXSEL_PROBLEMS\n")]


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


def test_pictures_get_smaller_and_stay_the_same():
    picture = Image.effect_noise((40, 40), 3).convert("RGBA")
    picture.save(written := io.BytesIO(), "PNG", compress_level=0)
    found = smaller(base64.b64encode(written.getvalue()).decode())
    assert len(found) < len(written.getvalue())
    assert Image.open(io.BytesIO(base64.b64decode(found))).tobytes() == picture.tobytes()


def stored(path):
    """Return a page with the report and the interactive charts that the notebook stores, as the documentation does."""
    shown, charts = "", 0
    for output in (output for cell in cells(path, "code") for output in cell["outputs"]):
        data = output.get("data", {})
        if "application/vnd.vegalite.v6+json" in data:
            spec = json.dumps(data["application/vnd.vegalite.v6+json"]).replace("</", "<\\/")
            shown += f'<div class="vega-chart"><script type="application/json">{spec}</script></div>'
            charts += 1
        elif "<iframe" in "".join(data.get("text/html", "")):
            shown += "".join(data["text/html"])
    return shown, charts


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
def test_a_stored_report_and_charts_show_themselves_in_a_browser(width, tmp_path):
    bundle = pytest.importorskip("jaxsel.report.pieces", reason="Altair is not installed").bundle
    static = Path(__file__).parents[1] / "docs" / "_static"
    scripts = f"<script>{bundle()}</script><script>{(static / 'charts.js').read_text()}</script>"
    body, charts = stored(NOTEBOOKS[3])
    assert charts
    page = tmp_path / "page.html"
    look = f"<meta charset=utf-8><title>{escape(NOTEBOOKS[3].stem)}</title><link rel=icon href='data:,'>"
    style = "<style>.vega-chart { width: 100%; max-width: 36rem }</style>"
    page.write_text(f"<!doctype html>{look}{style}{body}{scripts}", encoding="utf-8")
    with chromium() as browser, Shown(browser, page, {"width": width, "height": 900}) as shown:
        report = shown.window.frames[1]
        report.wait_for_selector("body[data-ready]")
        shown.window.wait_for_function(f"document.querySelectorAll('.vega-chart svg.marks').length === {charts}")
        assert shown.run("document.documentElement.scrollWidth <= innerWidth")
        assert report.evaluate("document.documentElement.scrollWidth <= innerWidth")
        before = report.inner_text("#status")
        report.select_option("#part", "0")
        report.wait_for_function("document.querySelector('#status').textContent.includes('never visited')")
        assert report.inner_text("#status") != before
        assert shown.errors == []
        assert not [url for url in shown.requests if url.startswith("http")]
