"""A browser without a window, and a page in it with the errors and requests of its loading."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium or Chrome; without either, or without playwright, the test is skipped with a message."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip("no browser: neither Chromium nor Chrome is installed")
        browser = playwright.chromium.launch(executable_path=found, args=[f"--{argument}" for argument in QUIET])
        yield browser
        browser.close()


class Shown:
    """The page in a browser window, with the errors and requests of its loading."""

    def __init__(self, browser, path, size, scheme="light", *, touch=False):
        self.context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=touch)
        self.window = self.context.new_page()
        self.errors, self.requests = [], []
        self.window.on("console", lambda message: self.errors.append(message.text))
        self.window.on("pageerror", lambda error: self.errors.append(str(error)))
        self.window.on("requestfailed", lambda request: self.errors.append(request.url))
        self.window.on("request", lambda request: self.requests.append(request.url))
        self.window.goto(path.as_uri(), wait_until="load")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def run(self, script):
        return self.window.evaluate(script)


def assert_readable(shown: Shown, *, charts: int) -> None:
    """Assert that nothing is wider than the window, that all charts lie in it, and that no text is too small."""
    assert shown.run("document.documentElement.scrollWidth <= innerWidth")
    boxes = shown.run(
        "Array.from(document.querySelectorAll('canvas'), c => [c.getBoundingClientRect().left,"
        " c.getBoundingClientRect().right, c.clientHeight])"
    )
    assert len(boxes) == charts
    for left, right, height in boxes:
        assert 0 <= left < right <= shown.window.viewport_size["width"]
        assert height >= 280
    text = shown.run(
        """Math.min(...Array.from(document.querySelectorAll('body *'))
            .filter(e => Array.from(e.childNodes).some(n => n.nodeType === 3 && n.data.trim())
                         && e.getClientRects().length)
            .map(e => parseFloat(getComputedStyle(e).fontSize)))"""
    )
    assert text >= 13
