"""The report page: its HTML, and how Chromium shows it on a laptop and on a phone."""

import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments.reporting.drawing import plt
from experiments.reporting.page import Drawing, Section, write_page
from experiments.reporting.provenance import provenance
from experiments.reporting.tables import PageTable
from jaxsel import metrics, plotting
from tests.support.browser import Shown, chromium

pytestmark = pytest.mark.slow  # starting a browser takes seconds

LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
METRICS = ("rows", "rank correlation", "mean absolute error", "Brier score", "log score", "calibration error", "F1")
METHODS = ("uniform", "mopps", "dps", "gps")


def drawing(kind, size=(4, 3.6)):
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    rng = np.random.default_rng(0)
    if kind == "reliability":
        for method, power in (("mopps", 1.0), ("dps", 0.7)):
            p = rng.beta(1.2, 1, 600).astype(np.float32)
            table = metrics.reliability(p, rng.uniform(size=600) < p**power, num_bins=10)
            plotting.reliability_diagram(axes, table, label=method, event="a mixed group")
        axes.legend(frameon=False)
    elif kind == "points":  # larger as SVG than as PNG
        axes.scatter(*rng.normal(size=(2, 5000)), s=2, rasterized=False)
    else:
        plotting.pit_histogram(axes, rng.multinomial(400, np.full(20, 0.05)) / 400, num_rows=400, label="mopps")
    return figure


def demo(path):
    rows = [
        [f"{method}, with the settings of its paper", 12800, *np.linspace(0.1, 0.9, len(METRICS) - 1)]
        for method in METHODS
    ]
    rows.append(["ridge", None, *[np.nan] * 5, -0.25])
    some = "Predictions of `mopps` say how often a group will be mixed. " * 4
    sections = [
        Section(
            "How reliable the predictions are",
            f"{some}\n\n{some} `jaxsel.metrics.{'long_' * 12}name` and {'without' * 12}",
            [
                Drawing(drawing("reliability"), "Both methods lie near the diagonal.", "Predicted against observed."),
                Drawing(drawing("pit"), "All bars but two are in the band.", "Probability integral transforms. " * 4),
                Drawing(drawing("points", (8, 3.2)), "A cloud of points.", "A figure that is wide."),
            ],
        ),
        Section(
            "What they are worth <script>alert('no')</script> & \"more\"",
            some,
            tables=[
                PageTable(("method", *METRICS), rows, "Every metric of every method, on prompts never visited."),
                PageTable(("part", "error"), [("all", "0.12 (0.01)"), ("unseen", "0.20 (0.02)")], "By part."),
            ],
        ),
    ]
    lead = "A demonstration of the page: predictions before any rollout, against the outcomes <b>afterwards</b>."
    command = "python -m experiments.calibration --seeds 0 1 2 --steps 200 --output runs/calibration"
    footer = {"command": command, **provenance({"pool": 4096, "steps": 200, "tasks": ["parity", "copy"]}, [0, 1, 2])}
    return write_page(path, title="Are the predictions calibrated?", lead=lead, sections=sections, footer=footer)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("page") / "report" / "index.html")


class Outline(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page.read_text(encoding="utf-8"))


def test_the_page_loads_nothing_from_outside(page, outline):
    addresses = [a[name] for _, a in outline.tags for name in ("src", "href", "srcset", "action", "data") if name in a]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"url\(|@import|https?:", page.read_text(encoding="utf-8"))
    assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _ in outline.tags}
    (policy,) = (a["content"] for a in outline.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_figure_has_a_text_alternative_and_a_caption(outline):
    images = outline.all("img")
    assert [image["alt"] for image in images] == [
        "Both methods lie near the diagonal.",
        "All bars but two are in the band.",
        "A cloud of points.",
    ]
    assert len(outline.all("figcaption")) == len(images) + 2
    assert not outline.all("svg")


def test_figures_take_the_smaller_format_and_keep_their_size(outline):
    images = outline.all("img")
    kinds = [image["src"].partition(";base64,")[0].removeprefix("data:image/") for image in images]
    assert kinds[2] == "png"
    assert "svg+xml" in kinds
    assert (images[2]["width"], images[2]["height"]) == ("768", "307")


def test_text_is_escaped(outline):
    text = "".join(outline.text)
    assert "What they are worth <script>alert('no')</script> & \"more\"" in text
    assert "<b>afterwards</b>" in text
    assert "code" in {tag for tag, _ in outline.tags}
    assert not outline.all("b")


def test_ids_are_unique_and_links_of_the_contents_find_their_sections(outline):
    ids = Counter(attributes["id"] for _, attributes in outline.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    referred = [a["href"][1:] for a in outline.all("a")]
    assert referred == ["section-1", "section-2"]
    labelled = [attributes["aria-labelledby"] for _, attributes in outline.tags if "aria-labelledby" in attributes]
    assert {*referred, *labelled} <= set(ids)
    assert outline.all("html") == [{"lang": "en"}]


def test_the_numbers_of_a_column_have_one_precision(outline):
    cells = [text for text in outline.text if text.strip()]
    start = cells.index("ridge")
    assert cells[start : start + 8] == ["ridge", *["\N{EN DASH}"] * 6, "\N{MINUS SIGN}0.250"]
    assert cells[cells.index("mopps, with the settings of its paper") + 1] == "12,800"
    numbers = [a.get("class") == "number" for a in outline.all("th") if a.get("scope") == "col"]
    assert numbers == [False, *[True] * 7, False, True]


def test_the_footer_names_the_command_and_versions(outline):
    text = "".join(outline.text)
    for said in ("python -m experiments.calibration --seeds 0 1 2", "4096", "parity, copy", "jaxlib", "git"):
        assert said in text


def test_the_same_content_is_the_same_file(page, tmp_path):
    assert demo(tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_an_error_leaves_the_page_as_it_was(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    short = Section("a", tables=[PageTable(("x", "y"), [(1, 2), (1,)], "made up")])
    with pytest.raises(ValueError, match=r"a row of 'made up' is \(1,\); give 2 cells"):
        write_page(path, title="t", lead="", sections=[short], footer={})
    silent = Section("a", figures=[Drawing(drawing("pit"), " ", "made up")])
    with pytest.raises(ValueError, match="alt of a figure in 'a'"):
        write_page(path, title="t", lead="", sections=[silent], footer={})
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    plt.close("all")


def test_figures_are_closed(tmp_path):
    before = plt.get_fignums()
    demo(tmp_path / "page.html")
    assert plt.get_fignums() == before


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module", params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def shown(browser, page, request):
    with Shown(browser, page, request.param) as shown:
        yield shown


def test_the_page_loads_without_errors_or_requests(shown, page):
    assert shown.errors == []
    assert {url for url in shown.requests if not url.startswith("data:")} == {page.as_uri()}


def test_the_page_does_not_scroll_sideways(shown):
    shown.window.evaluate("scrollTo(1000, 0)")
    assert shown.run("scrollX") == 0
    assert shown.run("document.documentElement.scrollWidth <= innerWidth")


def test_figures_are_decoded_and_in_the_window(shown):
    boxes = shown.run(
        """Array.from(document.images, image => {
            const box = image.getBoundingClientRect()
            const padding = 2 * parseFloat(getComputedStyle(image).padding)
            return [image.complete && image.naturalWidth > 0, box.left, box.right,
                    (image.clientWidth - padding) / (image.clientHeight - padding),
                    image.getAttribute('width') / image.getAttribute('height')]
        })"""
    )
    assert len(boxes) == 3
    for decoded, left, right, shape, expected in boxes:
        assert decoded
        assert 0 <= left < right <= shown.window.viewport_size["width"]
        assert shape == pytest.approx(expected, rel=0.02)


def test_text_is_large_enough(shown):
    sizes = shown.run(
        """Array.from(document.querySelectorAll('body *'))
            .filter(e => Array.from(e.childNodes).some(n => n.nodeType === 3 && n.data.trim()))
            .map(e => [parseFloat(getComputedStyle(e).fontSize), e.tagName])"""
    )
    assert len(sizes) > 50
    assert min(sizes)[0] >= 14


def test_lines_of_text_are_of_a_readable_length(shown):
    longest = shown.run(
        """Math.max(...Array.from(document.querySelectorAll('main p'), p => {
            const range = document.createRange()
            range.selectNodeContents(p)
            const lines = new Set(Array.from(range.getClientRects(), box => Math.round(box.bottom / 10)))
            return p.textContent.length / lines.size
        }))"""
    )
    assert 20 < longest < 80


def test_wide_tables_scroll_in_their_box_and_their_first_column_stays(shown):
    inner, outer, moved, first = shown.run(
        """(() => {
            const box = document.querySelector('.scroll')
            const sizes = [box.scrollWidth, box.clientWidth]
            box.scrollLeft = 200
            const left = e => e.getBoundingClientRect().left - box.getBoundingClientRect().left
            return [...sizes, box.scrollLeft, left(box.querySelector('tbody th'))]
        })()"""
    )
    assert inner > outer
    assert moved > 0
    assert first == pytest.approx(0, abs=1)


def test_numbers_are_aligned_right(shown):
    assert shown.run("getComputedStyle(document.querySelector('td.number')).textAlign") == "right"
    assert "tabular-nums" in shown.run("getComputedStyle(document.querySelector('td.number')).fontVariantNumeric")


def luminance(colour):
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser, page, tmp_path, scheme, size):
    with Shown(browser, page, size, scheme) as shown:
        colours = "['body', 'figcaption', 'a', '.lead'].map(s => getComputedStyle(document.querySelector(s)).color)"
        ground = luminance(shown.run("getComputedStyle(document.body).backgroundColor"))
        assert (ground < 0.1) == (scheme == "dark")
        for colour in map(luminance, shown.run(colours)):
            # the ratio that WCAG 2 asks for
            assert (max(colour, ground) + 0.05) / (min(colour, ground) + 0.05) >= 4.5
        assert shown.window.screenshot(path=tmp_path / "page.png", full_page=True).startswith(b"\x89PNG")
