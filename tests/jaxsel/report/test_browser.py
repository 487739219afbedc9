"""A report in Chromium: no error in the console, brushing changes what is shown, readable on a phone and a laptop."""

import pytest

from jaxsel.report.explore import Report
from jaxsel.report.tables import tables
from tests.support import reports
from tests.support.browser import Shown, assert_readable, chromium

pytest.importorskip("altair", reason="Altair is not installed")
pytestmark = pytest.mark.slow  # starting a browser takes seconds

LAPTOP, PHONE = {"width": 1400, "height": 900}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser):
    del browser  # without a browser there is no need for a page
    report = Report(tables(reports.material()), "Are they good?")
    return report.save(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def shown(browser, page, request):
    with Shown(browser, page, request.param) as shown:
        shown.window.wait_for_selector("body[data-ready]")
        yield shown
        assert shown.errors == []


def status(shown):
    shown.window.wait_for_timeout(150)  # one frame, and the redrawing
    return shown.window.inner_text("#status")


def drag(shown, chart, start, end):
    """Drag over a part of the chart, from one corner to the other in shares of its width and height."""
    canvas = shown.window.query_selector(f"#{chart} canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (start, end)]
    shown.window.mouse.move(*points[0])
    shown.window.mouse.down()
    shown.window.mouse.move(*[(a + b) / 2 for a, b in zip(*points, strict=True)])
    shown.window.mouse.move(*points[1])
    shown.window.mouse.up()


def marks(shown, chart):
    """Return the picture of the chart."""
    return shown.run(f"document.querySelector('#{chart} canvas').toDataURL()")


def test_the_page_loads_nothing_and_fits_the_window(shown, page):
    assert {url for url in shown.requests if not url.startswith("data:")} == {page.as_uri()}
    assert_readable(shown, charts=8)


def test_a_brush_over_predictions_changes_the_other_charts_and_the_table(shown):
    assert status(shown).startswith("180 groups; good expected")
    charts = ("shares", "scores", "pit", "coverage", "map")
    before = [marks(shown, chart) for chart in charts]
    drag(shown, "reliability", (0.5, 0.5), (0.8, 0.5))
    said = status(shown)
    assert not said.startswith("180 groups")
    assert "; predicted probability" in said
    assert all(old != marks(shown, chart) for old, chart in zip(before, charts, strict=True))
    low, high = shown.run("[report.state.first_bin, report.state.last_bin]")
    shares = shown.run(
        "Array.from(document.querySelectorAll('tbody td:nth-child(3)'), td => parseFloat(td.textContent))"
    )
    assert shares
    assert all(10 * low - 0.5 <= share <= 10 * high + 10.5 for share in shares)
    assert "by their own predictions in this range (" in said
    shown.window.click("#clear")
    assert status(shown).startswith("180 groups")
    assert shown.run("report.views.reliability.data('chosen_bins_store').length") == 0  # no grey rectangle is left


def test_a_brush_over_steps_and_a_click_choose_groups(shown):
    drag(shown, "scores", (0.35, 0.5), (0.75, 0.5))
    assert "; step 6" in status(shown)
    assert status(shown).startswith("60 groups")
    shown.window.click("#clear")
    canvas = shown.window.query_selector("#reliability canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    shown.window.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    status(shown)
    low, high = shown.run("[report.state.first_bin, report.state.last_bin]")
    assert low == high


def test_a_brush_on_the_map_filters_the_other_charts_and_a_press_follows_a_prompt(shown):
    status(shown)
    charts = ("reliability", "shares", "scores", "pit", "coverage", "meaning")
    pictures = [marks(shown, chart) for chart in charts]
    drag(shown, "map", (0.2, 0.2), (0.6, 0.8))
    said = status(shown)
    assert all(old != marks(shown, chart) for old, chart in zip(pictures, charts, strict=True))
    first, last = shown.run("report.state.rates")
    least, most = shown.run("report.state.deviations")
    assert f"; predicted success rate {10 * first} to {10 * last + 10}%" in said
    assert f"; its standard deviation {10 * least} to {10 * most + 10}%" in said
    rows = reports.material().seen["good"].probes
    rate, deviation = rows.prediction.success_rate, rows.prediction.variance**0.5
    groups = (10 * rate >= first) & (10 * rate < last + 1) & (10 * deviation >= least) & (10 * deviation < most + 1)
    assert said.startswith(f"{groups.sum()} groups")
    assert 0 < groups.sum() < len(rate)
    prompts = shown.run("Array.from(document.querySelectorAll('tbody button'), b => Number(b.textContent))")
    assert 0 < len(set(prompts)) < reports.NUM_PROMPTS
    assert set(prompts) <= set(rows.prompt_ids[groups].tolist())
    before = marks(shown, "trajectory")
    shown.window.click("tbody tr:last-child button")
    status(shown)
    chosen = shown.run("report.state.prompt")
    assert f"Prompt {chosen}: " in shown.window.inner_text("#trajectory-title")
    assert marks(shown, "trajectory") != before
    shown.window.click("#clear")
    status(shown)
    shown.window.fill("#search", "17 + 17")
    status(shown)
    found = shown.run("Array.from(document.querySelectorAll('tbody td.text'), td => td.textContent)")
    assert set(found) == {"What is 17 + 17?"}


def test_what_is_chosen_stays_in_sight(shown):
    for chart in ("reliability", "map", "trajectory"):
        shown.run(f"document.getElementById('{chart}').scrollIntoView({{block: 'center'}})")
        shown.window.wait_for_timeout(100)
        top, bottom = shown.run(
            "(({top, bottom}) => [top, bottom])(document.getElementById('status').getBoundingClientRect())"
        )
        assert 0 <= top < bottom < 250
        place = "innerWidth / 2, document.getElementById('status').getBoundingClientRect().top + 5"
        assert shown.run(f"document.elementFromPoint({place}).id") == "status"


def touch_drag(shown, chart, start, end):
    """Move a finger over a part of the chart, in shares of its width and height; return how far the page scrolled."""
    canvas = f"document.querySelector('#{chart} canvas')"
    shown.run(f"{canvas}.scrollIntoView({{block: 'center'}})")
    box = shown.run(f"{canvas}.getBoundingClientRect().toJSON()")
    before = shown.run("scrollY")
    client = shown.context.new_cdp_session(shown.window)
    ways = [[a + (b - a) * part / 8 for a, b in zip(start, end, strict=True)] for part in range(9)]
    for number, (x, y) in enumerate(ways):
        at = [{"x": box["x"] + box["width"] * x, "y": box["y"] + box["height"] * y}]
        client.send("Input.dispatchTouchEvent", {"type": "touchMove" if number else "touchStart", "touchPoints": at})
        shown.window.wait_for_timeout(20)
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    status(shown)
    return abs(shown.run("scrollY") - before)


def test_a_finger_chooses_sideways_and_scrolls_up_and_down(browser, page):
    with Shown(browser, page, PHONE, touch=True) as shown:
        shown.window.wait_for_selector("body[data-ready]")
        assert touch_drag(shown, "reliability", (0.4, 0.5), (0.8, 0.52)) == 0
        low, high = shown.run("[report.state.first_bin, report.state.last_bin]")
        assert 0 < low < high
        assert touch_drag(shown, "map", (0.3, 0.3), (0.7, 0.6)) == 0
        assert shown.run("report.state.rates") != [0, 9]
        shown.run("document.getElementById('clear').click()")
        assert touch_drag(shown, "scores", (0.5, 0.7), (0.5, 0.2)) > 50
        assert shown.errors == []


def test_the_followed_prompt_has_a_gold_standard(shown):
    status(shown)
    before = marks(shown, "trajectory")
    assert shown.run("report.views.trajectory.data('gold').some(row => row.prompt === report.state.prompt)")
    shown.run("report.views.trajectory.data('gold', []).runAsync().then(() => null)")
    shown.window.wait_for_timeout(150)
    assert marks(shown, "trajectory") != before


def test_menus_change_the_charts_and_texts_are_not_read_as_html(shown):
    before = marks(shown, "reliability")
    shown.window.select_option("#kind", "ahead")
    shown.window.select_option("#method", "bad")
    shown.window.select_option("#colour", "stratum")
    assert status(shown).startswith("120 groups; bad expected")
    assert marks(shown, "reliability") != before
    shown.window.select_option("#part", "0")
    assert "never visited before" in status(shown)
    assert shown.run("document.querySelectorAll('tbody b, #trajectory-title b').length") == 0
