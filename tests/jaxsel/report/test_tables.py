"""The data of a report: sums of cells, judgements, maps and the prompts that are followed, against plain loops."""

import numpy as np
import pytest
from scipy import stats

from jaxsel import make_history, metrics
from jaxsel.evaluation.reference_models import grid
from jaxsel.evaluation.replay import earlier_visits
from jaxsel.report import gold, maps
from jaxsel.report.cells import LEVELS, NUM_BINS, PARTS, SCORES, cells, merged, parts_of, scored, step_bins
from jaxsel.report.followed import groups, mispredicted
from jaxsel.report.judgement import best_of, corp, judged
from jaxsel.report.rows import Rows, at_own_sizes, is_mixed
from jaxsel.report.tables import tables
from tests.support import reports
from tests.support.grid_filter import believed, mean_and_interval


@pytest.fixture(scope="module")
def run():
    return reports.material()


@pytest.fixture(scope="module")
def rows(run):
    return run.seen["bad"].probes


@pytest.fixture(scope="module")
def scores(rows):
    return scored(rows)


@pytest.fixture(scope="module")
def found(run):
    return tables(run)


def test_earlier_visits_match_a_loop(run):
    history = run.history
    ids, step = np.array([0, 3, 3, 59, 7]), np.array([0, 5, 12, 12, 4])
    visits, waiting = earlier_visits(history, ids, step)
    for i, t, number, wait in zip(ids, step, visits, waiting, strict=True):
        before = history.step[(history.prompt_ids == i) & (history.step < t)]
        assert number == len(before)
        assert wait == (t - before.max() if len(before) else -1)


def test_a_cell_has_the_sums_of_its_groups():
    p = np.array([0.21, 0.27, 0.27, 0.95], np.float32)
    columns = [np.full(4, 0.5, np.float32), np.full(4, 0.05, np.float32), p, (1 - p) / 2, p, (1 - p) / 2]
    rows = Rows(
        reports.Prediction(*columns), np.array([0, 0, 3, 0]), np.arange(4), np.array([1, 4, 0, 2]), np.full(4, 4),
        np.array([0, 0, 0, 7]), np.array([-1, -1, -1, 2]),
    )  # fmt: skip
    found = cells(rows, scored(rows))
    assert list(zip(found["bin"], found["part"], found["step"], strict=True)) == [(2, 0, 0), (9, 3, 0), (2, 0, 3)]
    assert found["groups"].tolist() == [2, 1, 1]
    assert found["mixed"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(found["predicted"], [0.48, 0.95, 0.27], rtol=1e-6)
    np.testing.assert_allclose(found["chance"], [0.21 * 0.79 + 0.27 * 0.73, 0.95 * 0.05, 0.27 * 0.73], rtol=1e-5)
    np.testing.assert_allclose(found["brier"], [0.79**2 + 0.27**2, 0.05**2, 0.27**2], rtol=1e-5)
    np.testing.assert_allclose(found["states"], [np.log(0.21 * 0.365), np.log(0.95), np.log(0.365)], rtol=1e-5)
    np.testing.assert_allclose(found["error"], [0.25 + 0.5, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(found["error2"], [0.25**2 + 0.5**2, 0, 0.5**2], atol=1e-6)
    assert np.sum([found[f"pit{k}"] for k in range(NUM_BINS)], axis=0).tolist() == [2, 1, 1]


def test_cells_by_belief_split_the_cells_and_add_up_to_them(rows, scores):
    whole, found = cells(rows, scores), cells(rows, scores, by_belief=True)
    rate, deviation = rows.prediction.success_rate, rows.prediction.variance**0.5
    for low, wide in ((2, 0), (5, 1)):
        inside = (found["rate_bin"] == low) & (found["deviation_bin"] == wide)
        expected = (10 * rate >= low) & (10 * rate < low + 1) & (10 * deviation >= wide) & (10 * deviation < wide + 1)
        assert found["groups"][inside].sum() == expected.sum()
    merged_again = merged([{name: column for name, column in found.items() if not name.endswith("_bin")}])
    for name in ("step", "part", "bin", "groups", "mixed", "states2", "cover3"):
        np.testing.assert_allclose(merged_again[name], merged([whole])[name], rtol=1e-6)
    assert merged([found])["groups"].tolist() == found["groups"].tolist()


def test_an_outcome_that_was_held_impossible_has_a_finite_score(rows):
    never = rows.prediction._replace(unsolved=rows.prediction.unsolved + rows.prediction.mixed)
    found = scored(rows._replace(prediction=never._replace(mixed=np.zeros_like(never.mixed))))
    assert is_mixed(rows).any()
    np.testing.assert_allclose(found.states[is_mixed(rows)], np.log(1e-9), rtol=1e-6)


def test_sums_over_all_cells_are_the_metrics_of_all_groups(rows, scores):
    found = cells(rows, scores)
    number, p, s, n = len(rows.step), rows.prediction, rows.successes, rows.group_size
    expected = {
        "states": metrics.solve_state_log_score(p, s, n),
        "counts": metrics.beta_binomial_log_score(p, s, n),
        "brier": metrics.brier_score(p.mixed, is_mixed(rows)),
        "error": metrics.mean_absolute_error(p.success_rate, s / n),
    }
    for name in SCORES:
        assert found[name].sum() / number == pytest.approx(float(expected[name]), rel=1e-5)
    coverage = [found[f"cover{k}"].sum() / number for k in range(len(LEVELS))]
    np.testing.assert_allclose(coverage, metrics.success_coverage(p, s, n, LEVELS), rtol=1e-4)
    table = metrics.reliability(p.mixed, is_mixed(rows), num_bins=NUM_BINS)
    for column, size in (("groups", 1), ("predicted", table.prediction), ("mixed", table.outcome)):
        sums = np.bincount(found["bin"], found[column], NUM_BINS)
        np.testing.assert_allclose(sums, np.nan_to_num(table.size * size), rtol=1e-5)


def test_cells_of_parts_add_up_to_those_of_the_whole(rows, scores):
    whole = cells(rows, scores, rows.step // 6)
    halves = [
        cells(rows.taken(half), scored(rows.taken(half)), rows.step[half] // 6)
        for half in (rows.step < 6, rows.step >= 6)
    ]
    found = merged([halves[1], halves[0]])
    assert sorted(set(found["step"])) == [0, 1, 2]
    for name in ("step", "part", "bin", "groups", "mixed", "states", "cover3"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-6)
    wider = merged([found | {"step": found["step"] // 2}])
    assert sorted(set(wider["step"])) == [0, 1]
    assert wider["groups"].sum() == len(rows.step)


def test_parts_are_those_of_slices():
    visits = np.array([0, 1, 2, 4, 5, 6, 1000])
    masks = metrics.slices(visits, visits, 0)
    assert parts_of(visits).tolist() == [0, 1, 2, 2, 3, 3, 3]
    assert all(np.asarray(masks[name])[parts_of(visits) == k].all() for k, name in enumerate(PARTS))


def test_many_steps_are_binned_and_few_are_not():
    assert step_bins(np.array([0, 40, 80])).tolist() == [0, 40, 80]
    many = step_bins(np.arange(1000))
    assert len(np.unique(many)) == 24
    assert np.abs(many - np.arange(1000)).max() <= 21


def test_judgements_are_the_metrics_with_errors_clustered_by_prompt(run, rows, scores):
    best = scored(run.seen["good"].probes)
    found = judged(rows, scores, best)
    arrays = (rows.prediction, rows.successes, rows.group_size)
    estimate = metrics.estimate(metrics.solve_state_log_score, *arrays, clusters=rows.prompt_ids)
    assert found.numbers["states"] == pytest.approx((float(estimate.value), float(estimate.standard_error)), rel=1e-4)
    error = metrics.estimate(
        lambda p, y, weights: metrics.expected_calibration_error(p, y, num_bins=NUM_BINS, weights=weights),
        rows.prediction.mixed, is_mixed(rows), clusters=rows.prompt_ids,
    )  # fmt: skip
    assert found.numbers["calibration"] == pytest.approx((float(error.value), float(error.standard_error)), rel=1e-3)
    shares = metrics.mixed_shares(*arrays)
    assert found.numbers["excess"].value == pytest.approx(float(shares.excess), abs=1e-6)
    gain = best.states - scores.states
    assert found.numbers["states behind"].value == pytest.approx(gain.mean(), rel=1e-4)
    by_prompt = gain.reshape(3, -1).mean(axis=0)  # three probes of every prompt
    assert found.numbers["states behind"].error == pytest.approx(
        by_prompt.std(ddof=1) / len(by_prompt) ** 0.5, rel=1e-3
    )
    assert sum(groups for groups, _ in found.by_part.values()) == found.groups == len(rows.step)


def test_the_curve_increases_and_improves_the_brier_score(rows):
    found = corp(rows)
    assert (np.diff(found.predicted) > 0).all()
    assert (np.diff(found.observed) >= 0).all()
    assert 0 <= found.miscalibration < 0.25
    table = metrics.reliability(rows.prediction.mixed, is_mixed(rows), num_bins=NUM_BINS)
    np.testing.assert_allclose(found.bins.predicted, table.prediction, rtol=1e-5)
    np.testing.assert_allclose(found.bins.observed, table.outcome, rtol=1e-5)
    p = rows.prediction.mixed
    last = p >= 0.9  # by hand: the standard deviation of the share in the last bin
    assert found.bins.chance[9] == pytest.approx(np.sqrt((p * (1 - p))[last].sum()) / max(last.sum(), 1), rel=1e-3)


def test_the_best_method_is_first(found, run):
    assert best_of({name: scored(seen.probes) for name, seen in run.seen.items()}) == "good"
    assert found.methods == ["good", "bad"]
    assert found.kinds == ["probes", "ahead"]


def test_the_most_mispredicted_prompts_have_the_lowest_score_of_their_counts(rows, scores):
    found = mispredicted(rows, scores, 3)
    mean = scores.counts.reshape(3, -1).mean(axis=0)
    assert found.prompt_ids.tolist() == np.argsort(mean)[:3].tolist()
    worst = found.prompt_ids[0]
    assert found.observed[0] == pytest.approx(rows.successes[rows.prompt_ids == worst].sum() / 12)
    assert (found.groups[0], found.rollouts[0]) == (3, 12)


def test_maps_hold_every_prompt_once(found):
    for name in ("map", "meaning"):
        table = found.tables[name]
        for method in found.methods:
            of = table["method"] == method
            assert table["prompts"][of].sum() == reports.NUM_PROMPTS
            assert table["visits"][of].sum() == len(found.material.history.step)
        assert (table["left"] < table["right"]).all()
        assert (table["low"] < table["high"]).all()


@pytest.mark.parametrize(("embeddings", "tiles"), [(np.ones((60, 5)), 1), (1e-5 * np.arange(60.0)[:, None], 20)])
def test_tiles_of_a_map_have_a_size_in_the_page(run, embeddings, tiles):
    sure = run.pools["good"]._replace(prediction=run.pools["good"].prediction._replace(variance=np.zeros(60)))
    found = tables(run._replace(embeddings=embeddings.astype(np.float32), pools={"good": sure}))
    for name in ("map", "meaning"):
        tile = {at: found.tables[name][at].round(4) for at in ("left", "right", "low", "high")}
        assert (tile["left"] < tile["right"]).all()
        assert (tile["low"] < tile["high"]).all()
    assert len(set(found.tables["meaning"]["left"].round(4))) == tiles


def test_directions_of_embeddings_are_principal_components():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(500, 4)).astype(np.float32) * [1, 9, 1, 3]
    places = maps.flattened(embeddings)
    for column, source in enumerate((1, 3)):
        assert abs(np.corrcoef(places[:, column], embeddings[:, source])[0, 1]) > 0.99
    assert maps.flattened(embeddings[:, :1]).shape == (500, 2)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25, 3e38])
def test_embeddings_of_any_finite_size_have_a_map(run, size):
    rng = np.random.default_rng(0)
    embeddings = (rng.uniform(-1, 1, (60, 5)) * [1, 0.1, 0.5, 0.1, 0.1]).astype(np.float32)
    scaled = maps.flattened(embeddings * np.float32(size))
    np.testing.assert_allclose(np.abs(scaled), np.abs(maps.flattened(embeddings)), atol=1e-4)
    shown = tables(run._replace(embeddings=embeddings * np.float32(size))).tables["meaning"]
    assert shown["prompts"].sum() == 2 * 60


def test_rare_labels_are_gathered():
    labels, which = maps.numbered(["b", "a", "b", "c"])
    assert [labels[i] for i in which] == ["b", "a", "b", "c"]
    assert labels[0] == "b"
    labels, _ = maps.numbered(["other", *(str(i % 12) for i in range(100)), "other"] * 5)
    assert labels[0] == "0"
    assert labels[-1] == "other"
    labels, _ = maps.numbered(["other"] * 50 + [str(i % 12) for i in range(100)])
    assert labels[0] == "other"
    assert labels[-1] == "all other labels"
    labels, which = maps.numbered([str(i % 12) for i in range(100)])
    assert len(labels) == 9
    assert labels[-1] == "other"
    assert (which == 8).sum() == 4 * 8


def test_the_followed_prompts_are_few_and_hold_the_worst(found):
    ids = found.tables["prompts"]["prompt"]
    assert len(set(ids)) == len(ids) <= 240
    for worst in found.worst.values():
        assert set(worst.prompt_ids) <= set(ids)
    beliefs = found.tables["beliefs"]
    assert (beliefs["low"] <= beliefs["rate"]).all()
    assert (beliefs["rate"] <= beliefs["high"]).all()
    outcomes = found.tables["outcomes"]
    assert len(outcomes["prompt"]) == len(found.material.history.step) + 3 * reports.NUM_PROMPTS


def test_the_gold_standard_is_what_the_reference_model_believes_before_each_step(monkeypatch):
    theta = grid.Hyperparameters(0.3, 1.2, 0.1, 0.3)
    monkeypatch.setattr(grid, "fitted", lambda history, *, seed: theta)
    history = make_history([0, 0, 3, 5], [1, 2, 1, 1], [1, 4, 3, 4], 4, num_prompts=3)
    found = gold.gold_standard(history, np.array([2, 1]))
    assert sorted(set(found["prompt"])) == [1, 2]
    steps = found["step"][found["prompt"] == 1].tolist()
    assert steps == list(range(7))
    for prompt, step, *numbers in zip(*found.values(), strict=True):
        expected = mean_and_interval(believed(history, prompt, step, theta)[0], 0.9)
        np.testing.assert_allclose(numbers, expected, atol=0.002)


def test_the_gold_standard_of_many_visits_is_thinned_and_ends(monkeypatch):
    step, ids = np.repeat(np.arange(100), 3), np.tile(np.arange(3), 100)
    history = make_history(step, ids, ids % 3, 4, num_prompts=4)
    found = gold.gold_standard(history, np.arange(4))
    assert np.bincount(found["prompt"]).tolist() == [48, 48, 48, 9]
    assert set(found["step"][found["prompt"] == 1]) >= {0, 100}
    monkeypatch.setattr(gold, "_MOST_VISITS", 250)
    assert set(gold.gold_standard(history, np.arange(4))["prompt"]) == {0, 1}


def test_groups_of_followed_prompts_are_rows(rows, scores):
    table = groups(rows, scores, np.array([3, 5]))
    assert sorted(set(table["prompt"])) == [3, 5]
    assert len(table["prompt"]) == 6
    assert table["surprise"][0] == pytest.approx(-scores.states[rows.prompt_ids == 3][0])


def test_groups_of_other_sizes_have_the_probabilities_of_their_own(rows):
    sizes = np.array([1, 2, 4, 9, 40])[np.arange(len(rows.step)) % 5]
    found = at_own_sizes(rows._replace(group_size=sizes), reports.GROUP_SIZE).prediction
    p = rows.prediction
    same = sizes == reports.GROUP_SIZE
    for name in ("unsolved", "mixed", "solved"):
        assert (getattr(found, name)[same] == getattr(p, name)[same]).all()
    strength = p.success_rate * (1 - p.success_rate) / p.variance - 1
    a, b = p.success_rate * strength, (1 - p.success_rate) * strength
    none, every = (stats.betabinom.pmf(count, sizes, a, b) for count in (np.zeros_like(sizes), sizes))
    np.testing.assert_allclose(found.unsolved, none, atol=1e-4)
    np.testing.assert_allclose(found.solved, every, atol=1e-4)
    np.testing.assert_allclose(found.mixed, 1 - none - every, atol=1e-4)
    assert (found.mixed[sizes == 1] == 0).all()
    for unknown in (at_own_sizes(rows, None), at_own_sizes(rows, reports.GROUP_SIZE)):
        assert unknown is rows
