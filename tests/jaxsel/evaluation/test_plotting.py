import itertools
import math
import subprocess
import sys

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from scipy import stats

from jaxsel import metrics, plotting
from jaxsel.evaluation.plotting.looks import CYCLE

mpl.use("Agg")
from matplotlib import pyplot as plt

TABLE = metrics.Reliability(
    jnp.array([0.1, jnp.nan, 0.5, 0.9]),
    jnp.array([0.2, jnp.nan, 0.5, 0.8]),
    jnp.array([10.0, 0.0, 40.0, 20.0]),
    jnp.array([0.05, jnp.nan, 0.02, 0.03]),
)
LEVELS, COVERED, ERRORS = [0.5, 0.8, 0.95], [0.4, 0.7, 0.9], [0.01, 0.02, 0.03]
SOFT = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.0, 0.25, 0.75]])


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    figure.canvas.draw()  # drawing must not warn
    plt.close(figure)


def bars_of(container):
    """Return the ends of the error bars as an array of shape [points, 2 ends, 2 coordinates]."""
    return np.array(container.lines[2][0].get_segments())


def labels(axes):
    return axes.get_xlabel(), axes.get_ylabel()


def legend(axes):
    return axes.get_legend_handles_labels()[1]


def test_reliability_shows_the_bins_with_rows(axes):
    assert plotting.reliability_diagram(axes, TABLE, label="dps", event="a mixed group") is axes
    points, (container,) = axes.collections[-1], axes.containers
    np.testing.assert_allclose(points.get_offsets(), [[0.1, 0.2], [0.5, 0.5], [0.9, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(points.get_sizes() / points.get_sizes().max(), [0.25, 1, 0.5])
    np.testing.assert_allclose(bars_of(container)[:, :, 1], [[0.15, 0.25], [0.48, 0.52], [0.77, 0.83]], rtol=1e-6)
    assert labels(axes) == ("predicted probability of a mixed group", "observed share")
    assert legend(axes) == ["dps"]
    assert to_hex(points.get_facecolors()[0]) == plotting.COLOURS["vermilion"].lower()


def test_reliability_of_no_rows_is_an_empty_figure(axes):
    nothing = metrics.Reliability(*jnp.full((4, 3), jnp.nan))._replace(size=jnp.zeros(3))
    plotting.reliability_diagram(axes, nothing, label="dps")
    assert len(axes.collections[-1].get_offsets()) == 0


def test_the_reliability_diagram_takes_the_result_of_the_metric(axes):
    predicted = np.array([0.2, 0.2, 0.7, 0.7], np.float32)
    plotting.reliability_diagram(axes, metrics.reliability(predicted, np.array([0, 1, 1, 1]), num_bins=2), label="gps")
    np.testing.assert_allclose(axes.collections[-1].get_offsets(), [[0.2, 0.5], [0.7, 1]], rtol=1e-6)


def test_coverage_shows_levels_and_errors(axes):
    plotting.coverage_curve(axes, LEVELS, jnp.array(COVERED), standard_error=ERRORS, label="mopps")
    (container,) = axes.containers
    np.testing.assert_allclose(container.lines[0].get_xydata(), np.transpose([LEVELS, COVERED]), rtol=1e-6)
    expected = np.transpose([np.subtract(COVERED, ERRORS), np.add(COVERED, ERRORS)])
    np.testing.assert_allclose(bars_of(container)[:, :, 1], expected, rtol=1e-6)
    assert labels(axes) == ("nominal level of the central interval", "share of intervals that held the truth")


def test_coverage_without_errors_has_no_bars(axes):
    plotting.coverage_curve(axes, LEVELS, COVERED, label="mopps")
    assert not axes.containers[0].has_yerr


def test_the_diagonal_is_drawn_once_and_has_no_legend_entry(axes):
    plotting.coverage_curve(axes, LEVELS, COVERED, label="mopps")
    plotting.coverage_curve(axes, LEVELS, COVERED, label="dps")
    (diagonal,) = (line for line in axes.lines if line.get_gid() == "diagonal")
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    assert legend(axes) == ["mopps", "dps"]


def test_pit_histogram_shows_shares_and_the_band_of_chance(axes):
    shares = np.array([0.1, 0.3, 0.2, 0.4])
    plotting.pit_histogram(axes, shares, num_rows=100, label="gps")
    (bars,) = axes.containers
    np.testing.assert_allclose([bar.get_height() for bar in bars], shares)
    np.testing.assert_allclose([(bar.get_x(), bar.get_width()) for bar in bars], [(x / 4, 0.25) for x in range(4)])
    band, (line,) = axes.patches[0], axes.lines
    edges = [band.get_y(), band.get_y() + band.get_height()]
    np.testing.assert_allclose(edges, stats.binom(100, 0.25).ppf([0.025, 0.975]) / 100)
    np.testing.assert_allclose(line.get_ydata(), 0.25)
    assert legend(axes) == ["95% by chance", "gps"]
    assert labels(axes) == ("probability integral transform", "share of rows")


def test_the_band_holds_95_of_100_by_enumeration(axes):
    plotting.pit_histogram(axes, [0.5, 0.5], num_rows=20, label="gps")
    band = axes.patches[0]
    low, high = (round(20 * edge) for edge in (band.get_y(), band.get_y() + band.get_height()))
    probability = [math.comb(20, count) / 2**20 for count in range(21)]
    assert sum(probability[low : high + 1]) >= 0.95
    assert sum(probability[low + 1 : high]) < 0.95


def test_pit_histogram_without_rows_has_no_band(axes):
    plotting.pit_histogram(axes, [0.5, 0.5], label="gps")
    assert len(axes.patches) == 2


def test_parts_stand_side_by_side(axes):
    names = ["all", "unseen"]
    for position, label in enumerate(["mopps", "gps"]):
        plotting.by_part(
            axes, names, [0.2, 0.3], [0.01, 0.02], label=label, metric="MAE", position=position, num_positions=2
        )
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names
    assert axes.yaxis_inverted()
    first, second = (container.lines[0].get_xydata() for container in axes.containers)
    np.testing.assert_allclose(first, [[0.2, -0.15], [0.3, 0.85]])
    np.testing.assert_allclose(second, [[0.2, 0.15], [0.3, 1.15]])
    np.testing.assert_allclose(bars_of(axes.containers[1])[:, :, 0], [[0.19, 0.21], [0.28, 0.32]])
    assert labels(axes) == ("MAE", "part of the pool")


def test_over_steps_draws_a_line_in_a_band(axes):
    steps, values, error = [0, 5, 10], [0.1, np.nan, 0.4], [0.05, 0.05, 0.1]
    plotting.over_steps(axes, steps, values, standard_error=error, label="uniform", metric="accuracy")
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.transpose([steps, values]))
    corners = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    for corner in ([0, 0.05], [0, 0.15], [10, 0.3], [10, 0.5]):
        assert np.isclose(corners, corner).all(axis=1).any()
    assert labels(axes) == ("training step", "accuracy")


def test_beta_densities(axes):
    plotting.beta_densities(axes, [1, 2, 2], jnp.array([1, 1, 2]), labels=["flat", "slope", "hill"])
    flat, slope, hill = (line.get_ydata() for line in axes.lines)
    p = axes.lines[0].get_xdata()
    np.testing.assert_allclose(flat, 1)
    np.testing.assert_allclose(slope, 2 * p)
    np.testing.assert_allclose(hill, 6 * p * (1 - p))
    assert 0 < p[0] < p[-1] < 1
    assert legend(axes) == ["flat", "slope", "hill"]
    assert labels(axes) == ("success rate p", "posterior density")


def test_belief_areas_are_stacked(axes):
    plotting.belief_areas(axes, [0, 10, 20], SOFT)
    edges = np.concatenate([np.zeros((3, 1)), SOFT.cumsum(axis=1)], axis=1)
    for state, area in enumerate(axes.collections):
        corners = area.get_paths()[0].vertices
        for step, low, high in zip([0, 10, 20], edges[:, state], edges[:, state + 1], strict=True):
            at_step = corners[np.isclose(corners[:, 0], step), 1]
            np.testing.assert_allclose([at_step.min(), at_step.max()], [low, high], atol=1e-12)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["SOLVED", "MIXED", "UNSOLVED"]
    assert labels(axes) == ("training step", "believed probability")


@pytest.mark.parametrize(
    "draw",
    [
        lambda axes, name: plotting.reliability_diagram(axes, TABLE, label=name, event=name),
        lambda axes, name: plotting.coverage_curve(axes, LEVELS, COVERED, label=name),
        lambda axes, name: plotting.pit_histogram(axes, [0.5, 0.5], label=name),
        lambda axes, name: plotting.by_part(axes, [name], [1], [0], label=name, metric=name),
        lambda axes, name: plotting.over_steps(axes, [1], [1], label=name, metric=name),
        lambda axes, name: plotting.beta_densities(axes, [1], [1], labels=[name]),
    ],
)
@pytest.mark.parametrize("name", ["price_$5_$6", "$", r"\$a_$$"])
def test_texts_are_drawn_as_they_are(axes, draw, name):
    draw(axes, name)
    texts = [*axes.legend().get_texts(), axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels()]
    for text in texts:
        shown, is_formula = text._preprocess_math(text.get_text())
        assert not is_formula
        assert "$" not in shown or shown.endswith(name)
    axes.figure.canvas.draw()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda axes: plotting.reliability_diagram(axes, TABLE._replace(size=jnp.ones(3)), label="a"),
            r"size has .*3,",
        ),
        (lambda axes: plotting.coverage_curve(axes, LEVELS, COVERED[:2], label="a"), r"coverage has shape \(2,\)"),
        (
            lambda axes: plotting.coverage_curve(axes, LEVELS, COVERED, standard_error=[0.1], label="a"),
            r"standard_error has shape \(1,\)",
        ),
        (lambda axes: plotting.pit_histogram(axes, np.ones((2, 2)), label="a"), r"shares has shape \(2, 2\)"),
        (lambda axes: plotting.pit_histogram(axes, [0.5, 0.5], num_rows=0, label="a"), "num_rows is 0"),
        (lambda axes: plotting.by_part(axes, ["all"], [1, 2], [0, 0], label="a", metric="b"), r"names has shape \(1,"),
        (lambda axes: plotting.by_part(axes, [], [], [], label="a", metric="b", position=1), "position is 1"),
        (lambda axes: plotting.over_steps(axes, [1, 2], [1], label="a", metric="b"), r"values has shape \(1,\)"),
        (lambda axes: plotting.beta_densities(axes, [1], [1, 2], labels=["a"]), r"beta has shape \(2,\)"),
        (lambda axes: plotting.beta_densities(axes, [1], [1], labels=["a", "b"]), r"labels has shape \(2,\)"),
        (lambda axes: plotting.beta_densities(axes, [0], [1], labels=["a"]), "alpha is 0.0"),
        (lambda axes: plotting.beta_densities(axes, [1, 1], [1, -2], labels=["a", "b"]), r"beta is -2.0"),
        (lambda axes: plotting.belief_areas(axes, [0, 1], SOFT), r"beliefs has shape \(3, 3\); give \(2, 3\)"),
        (lambda axes: plotting.belief_areas(axes, [0, 1, 2], 2 * SOFT), r"beliefs\[0\] sums to 2"),
        (lambda axes: plotting.belief_areas(axes, [0, 1, 2], SOFT * np.nan), r"beliefs\[0\] sums to nan"),
    ],
)
def test_errors_name_the_argument(axes, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(axes)
    assert not axes.has_data()


def test_an_unknown_look_is_an_error():
    with pytest.raises(ValueError, match=r"look is 'mops'; give one of .*'mopps'.*, or a number"):
        plotting.style("mops")


def test_looks_differ_in_grey_and_are_not_pale():
    looks = [*plotting.METHODS.values(), *CYCLE]
    assert len({(line, marker) for _, line, marker in looks}) == len(looks)
    assert len({(colour, line) for colour, line, _ in looks}) == len(looks)
    for colour, *_ in looks:
        assert np.dot(to_rgb(plotting.COLOURS[colour]), [0.299, 0.587, 0.114]) < 0.75


def test_the_cycle_repeats_no_look_for_long():
    looks = [tuple(plotting.style(number).values()) for number in range(len(CYCLE) ** 2)]
    assert looks[: len(CYCLE)] == [(plotting.COLOURS[colour], line, marker) for colour, line, marker in CYCLE]
    assert len(set(looks)) == len(looks)


def test_labels_without_a_look_go_through_the_cycle(axes):
    for label in ("mopps", "mine", "yours"):
        plotting.over_steps(axes, [0, 1], [0, 1], label=label, metric="accuracy")
    plotting.over_steps(axes, [0, 1], [0, 1], label="decay 0.7", look="dps", metric="accuracy")
    styles = [plotting.style(look) for look in ("mopps", 1, 2, "dps")]
    assert [line.get_color() for line in axes.lines] == [style["color"] for style in styles]
    assert [line.get_marker() for line in axes.lines] == [style["marker"] for style in styles]
    assert all(a != b for a, b in itertools.pairwise(styles))


def test_importing_jaxsel_does_not_import_matplotlib():
    said = "import sys, jaxsel; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], check=False).returncode == 0
