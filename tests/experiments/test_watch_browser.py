"""The page about running experiments in Chromium: it refreshes itself, runs are toggled, and it fits every window."""

import numpy as np
import pytest

from experiments.watch.runs import Watched
from jaxsel.integrations.history import HistoryLog
from tests.support.browser import Shown, assert_readable, chromium
from tests.support.growing import Growing
from tests.support.reports import prediction
from tests.support.watching import served

pytest.importorskip("altair", reason="Altair is not installed")
pytestmark = pytest.mark.slow  # starting a browser takes seconds

LAPTOP, PHONE = {"width": 1400, "height": 900}, {"width": 400, "height": 800}


class Address:
    """The address of a page, in place of a path."""

    def __init__(self, address):
        self._address = address

    def as_uri(self):
        return self._address


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def runs(tmp_path):
    name = "method.name=uniform,seed=0,train.learning_rate=2e-05,train.group_size=16-a4738c07"
    return Growing(tmp_path / "run").advance(12), Growing(tmp_path / name, history=False, seed=1).advance(20)


@pytest.fixture
def server(browser, runs):
    del browser  # without a browser there is no need for a server
    with served(Watched([run.folder for run in runs] + [runs[0].folder.parent / "later"]), every=60) as server:
        yield server


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def shown(browser, server, request):
    with Shown(browser, Address(server.address), request.param) as shown:
        shown.window.wait_for_selector("body[data-ready]")
        yield shown


def picture(shown, chart):
    return shown.run(f"document.querySelector('#{chart} canvas').toDataURL()")


def refreshed(shown):
    shown.run("watch.refresh()")
    return shown.window.inner_text("#runs li:first-child")


def test_a_refresh_shows_a_new_step_and_keeps_what_was_chosen(shown, runs):
    assert "last step 12 of 40" in shown.window.inner_text("#runs li:first-child")
    shown.window.select_option("#metric", "train/completion_length")
    shown.window.select_option("#kind", "ahead")
    canvas = shown.window.query_selector("#scores canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    y = box["y"] + box["height"] / 2
    shown.window.mouse.move(box["x"] + 0.4 * box["width"], y)
    shown.window.mouse.down()
    shown.window.mouse.move(box["x"] + 0.5 * box["width"], y)
    shown.window.mouse.move(box["x"] + 0.6 * box["width"], y)
    shown.window.mouse.up()
    shown.window.wait_for_timeout(100)
    chosen = shown.run("[watch.state.first_step, watch.state.last_step]")
    assert 0 < chosen[0] < chosen[1] < 12
    charts = ("training", "mixed", "scores", "coverage")
    before = [picture(shown, chart) for chart in charts]
    views = shown.run("window.oldViews = watch.views, Object.keys(watch.views).length")
    assert views == 8
    runs[0].advance(9)
    assert "last step 21 of 40" in refreshed(shown)
    assert all(old != picture(shown, chart) for old, chart in zip(before[:3], charts[:3], strict=True))
    assert picture(shown, "coverage") == before[3]  # these steps are not new
    assert shown.run("window.oldViews === watch.views")  # no chart was made anew
    assert shown.run("[watch.state.first_step, watch.state.last_step]") == chosen
    assert shown.run("document.getElementById('metric').value") == "train/completion_length"
    assert shown.window.inner_text("#status").endswith(f"steps {chosen[0]} to {chosen[1]}")
    assert shown.errors == []


def test_runs_are_toggled_and_appear(shown, runs):
    before = picture(shown, "training")
    shown.window.click("#runs li:nth-child(2) label")
    shown.window.wait_for_timeout(100)
    without = picture(shown, "training")
    assert without != before
    assert shown.run("[...watch.hidden]") == [runs[1].folder.name]
    Growing(runs[0].folder.parent / "later", seed=2).advance(16)
    refreshed(shown)
    assert "last step 16 of 40" in shown.window.inner_text("#runs li:nth-child(3)")
    assert picture(shown, "training") != without
    shown.window.select_option("#method", "later")
    shown.window.click("#nobody")
    shown.window.wait_for_timeout(100)
    assert shown.run("watch.hidden.size") == 3
    shown.window.click("#everyone")
    shown.window.wait_for_timeout(100)
    assert shown.run("document.querySelectorAll('#runs input:checked').length") == 3
    assert shown.errors == []


def test_the_page_fits_the_window_and_is_readable(shown):
    assert_readable(shown, charts=8)
    assert shown.errors == []


def test_the_page_says_that_the_server_has_ended(browser, server):
    with Shown(browser, Address(server.address), LAPTOP) as shown:
        shown.window.wait_for_selector("body[data-ready]")
        assert "and again every 60 s" in shown.window.inner_text("#said")
        server.shutdown()
        server.server_close()
        refreshed(shown)
        assert shown.window.inner_text("#said").startswith("The server has ended, or cannot be reached.")
        assert shown.window.inner_text("#now") == "Try again"
        assert [error for error in shown.errors if "ERR_CONNECTION_REFUSED" not in error] == [
            f"{server.address}data?since={shown.run('watch.version()')}"
        ]


def test_the_page_goes_on_after_a_failure_and_takes_a_late_history_without_probes(browser, tmp_path, monkeypatch):
    late = tmp_path / "constructor"  # a name that every object of JavaScript has
    with served(Watched([late]), every=0.1) as server, Shown(browser, Address(server.address), LAPTOP) as shown:
        shown.window.wait_for_selector("body[data-ready]")
        with monkeypatch.context() as broken:
            broken.setattr(server.watched, "update", lambda: 1 / 0)
            shown.window.wait_for_function("document.querySelector('#said').textContent.includes('could not read')")
            assert "ZeroDivisionError" in shown.window.inner_text("#said")
        shown.window.wait_for_function("document.querySelector('#said').textContent.startsWith('Read at')")
        log = HistoryLog(late, num_prompts=60, spec={"method": "mopps"})
        log.observed(0, (np.arange(12), np.arange(12) % 5, np.full(12, 4)), prediction(np.full(12, 0.5)))
        log.flush()
        shown.window.wait_for_function("document.querySelector('#status').textContent.startsWith('12 groups')")
        assert shown.window.input_value("#kind") == "ahead"
        assert shown.window.is_visible("#predictions")
        assert [error for error in shown.errors if "status of 500" not in error] == []
