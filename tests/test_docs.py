"""The documentation's code runs, and its API pages name every public object. `make docs` checks the links."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import jaxsel

ROOT = Path(__file__).parents[1]
SOURCES = [path.relative_to(ROOT) for path in sorted((ROOT / "docs").rglob("*.md"))]
PAGES = ("CONTRIBUTING.md", *(str(path) for path in SOURCES if "_build" not in path.parts))
NEEDS_A_MODEL = ("docs/guides/ray.md", "docs/guides/trl.md", "docs/guides/vllm.md")  # or a cluster


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in NEEDS_A_MODEL and snippets(page)])
def test_snippets_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")  # a snippet reads a stored history
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "snippets"}
    for snippet in snippets(page):
        exec(compile(snippet, page, "exec"), names)
    for name, value in names.items():
        if name.startswith("test_"):
            value()


def test_snippets_are_found():
    assert len(snippets("docs/quickstart.md")) > 1
    assert len(snippets("CONTRIBUTING.md")) > 1


def test_api_page_names_every_public_object():
    text = (ROOT / "docs/api/jaxsel.md").read_text() + (ROOT / "docs/api/index.md").read_text()
    public = [name for name, value in vars(jaxsel).items() if not (name.startswith("_") or inspect.ismodule(value))]
    assert not [name for name in public if f"jaxsel.{name}" not in text]
