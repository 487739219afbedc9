"""Scores of the predictions for a small recorded run, and the page about them."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxsel
from experiments.calibration import scoring
from experiments.calibration.__main__ import labelled, main, read_settings
from experiments.calibration.evaluate import WITHOUT_PROBES, averaged, evaluate, pooled
from experiments.simulated_history import record
from jaxsel import metrics
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.integrations.history import HistoryLog, Recorded, read_history
from tests.support import reports

pytestmark = pytest.mark.slow

SMALL = {"num_prompts": 150, "batch_size": 24, "steps": 20, "probe_every": 4}
# The scores compile for seconds for every number of rows. The tests share the numbers of rows of the whole history and
# of its second half, which the page scores.
HALF = SMALL["steps"] // 2
NO_PROBES = {name: np.zeros(0, np.int32) for name in ("clock", "prompt_id", "successes", "group_size")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Record two seeds and delete the embeddings: without them gps, which compiles for half a minute, is left out."""
    root = tmp_path_factory.mktemp("histories")
    made = [record(root / str(seed), method="uniform", seed=seed, **SMALL) for seed in (0, 1)]
    for folder in made:
        (folder / "pool.parquet").unlink()
    return made


@pytest.fixture(scope="module")
def without_probes(tmp_path_factory):
    """Record a run of a trainer with an adapter, with as many rows as in `folders`."""
    folder = tmp_path_factory.mktemp("adapter") / "history"
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=SMALL["num_prompts"], seed=0, track_in_flight=True)
    edge, rng, size = TrainerEdge(selector, history=folder), np.random.default_rng(0), SMALL["batch_size"]
    for _ in range(SMALL["steps"]):
        edge.observe(edge.next_batch(size), rng.integers(0, 2, (size, 8)).astype(float))
        edge.metrics()
    edge.state_dict()  # writes the history
    return folder


@pytest.fixture(scope="module")
def seen(folders):
    return scoring.replayed(read_history(folders[0]), jaxsel.beta_bernoulli())


def test_probes_carry_the_visits_before_their_step(folders, seen):
    recorded = read_history(folders[0])
    assert np.unique(seen.probes.step).tolist() == [0, 4, 8, 12, 16, 20]
    np.testing.assert_array_equal(seen.probes.successes, recorded.probes["successes"])
    history = recorded.history
    rows = np.flatnonzero(seen.probes.step == 12)
    for row in rows[:40]:
        steps = history.step[(history.prompt_ids == seen.probes.prompt_ids[row]) & (history.step < 12)]
        assert seen.probes.visits[row] == len(steps)
        assert seen.probes.waiting[row] == (12 - steps[-1] if len(steps) else -1)
    assert (seen.probes.visits[seen.probes.step == 0] == 0).all()


@pytest.mark.parametrize("method", ["isotonic", "beta"])
def test_recalibration_afterwards_equals_the_recalibrated_predictor(folders, seen, method):
    recorded = read_history(folders[0])
    live = scoring.replayed(
        recorded, jaxsel.recalibrated(jaxsel.beta_bernoulli(), method=method, window=scoring.WINDOW)
    )
    afterwards = scoring.recalibrated(seen, method=method)
    for name in ("unsolved", "mixed", "solved"):
        expected = getattr(live.probes.prediction, name)
        np.testing.assert_allclose(getattr(afterwards.prediction, name), expected, atol=1e-5)
    assert not np.allclose(afterwards.prediction.mixed, seen.probes.prediction.mixed, atol=0.05)


def test_recalibration_on_probes_uses_only_earlier_probes(seen):
    corrected = scoring.recalibrated(seen, on="probes")
    first = seen.probes.step == 0
    np.testing.assert_allclose(corrected.prediction.mixed[first], seen.probes.prediction.mixed[first], atol=0.05)
    late = seen.probes.step >= HALF
    errors = [scoring.scores(rows.taken(late))["calibration error"]["mean"] for rows in (seen.probes, corrected)]
    assert errors[1] < 0.6 * errors[0]


def test_scores_of_a_part_equal_the_metrics_of_its_rows(seen):
    rows = seen.probes
    np.testing.assert_array_equal(scoring.parts_of(rows)["visits 1"], rows.visits == 1)
    part = rows.step >= HALF
    few = rows.taken(part)
    found, alone = scoring.scores(rows, part), scoring.scores(few)
    for name in ("spearman", "error", "log score", "state log score", "Brier", "calibration error", "mixed, excess"):
        for key in ("mean", "standard_error"):
            assert found[name][key] == pytest.approx(alone[name][key], rel=2e-3, abs=1e-5), name
    expected = metrics.beta_binomial_log_score(few.prediction, few.successes, few.group_size)
    assert found["log score"]["mean"] == pytest.approx(float(expected), rel=1e-4)


def test_the_gain_of_a_better_predictor_is_the_difference_of_the_scores(folders, seen):
    fitted = jaxsel.beta_bernoulli(decay=0.9, prior_alpha=0.3, prior_beta=0.3)
    late, other = (
        replayed.ahead.taken(replayed.ahead.step >= HALF)
        for replayed in (seen, scoring.replayed(read_history(folders[0]), fitted))
    )
    gain = scoring.gain(other, late, "counts")
    scores = [scoring.scores(rows)["log score"]["mean"] for rows in (other, late)]
    assert gain["mean"] == pytest.approx(scores[0] - scores[1], abs=1e-4)
    assert gain["mean"] > 2 * gain["standard_error"] > 0


def test_pooled_rows_keep_prompts_of_other_histories_apart(seen):
    late = seen.probes.taken(seen.probes.step >= HALF)
    both = pooled([late, late])
    assert len(np.unique(both.prompt_ids)) == 2 * len(np.unique(late.prompt_ids))
    one, two = (scoring.scores(rows)["error"] for rows in (late, both))
    assert two["mean"] == pytest.approx(one["mean"], rel=1e-5)
    assert two["standard_error"] == pytest.approx(one["standard_error"] / np.sqrt(2), rel=0.01)


def test_averages_are_over_histories():
    numbers = [{"a": {"mean": m, "standard_error": 9.0}, "chosen_by": "uniform"} for m in (1.0, 3.0)]
    assert averaged(numbers) == {"a": {"mean": 2.0, "standard_error": 1.0}, "chosen_by": None}
    assert averaged(numbers[:1]) == numbers[0]


@pytest.mark.slow
def test_a_page_and_a_result(folders, tmp_path, capsys):
    out = tmp_path / f"[seed] {'of a sweep' * 9}"
    main([f"$5_$6 [new]={folders[0]}", "--out", str(out)])
    said = capsys.readouterr().out
    assert "fitted" in said
    assert f"page: {out / 'calibration.html'}    figure: {out / 'calibration.png'}\n" in said
    assert "$5_$6 [new]: " in said
    setting = json.loads((out / "calibration.json").read_text())["settings"]["$5_$6 [new]"]
    (found,) = setting["histories"]
    assert set(found["probe"]) == {"mopps", "mopps, fitted", "dps", "dps, fitted", "arcus", "state_space"}
    mean = setting["mean"]
    assert {m: s["mean"] for m, s in mean["probe"]["dps"].items()} == found["probe"]["dps"]
    for method in ("mopps", "dps"):
        assert found["fitted"][method]["gain"]["mean"] > 0
        assert mean["recalibrated"]["isotonic"][method]["mean"] < found["probe"][method]["calibration error"]
    html = (out / "calibration.html").read_text()
    for text in ("Are the predictions any good?", "$5_$6 [new]", "prior_counts from UNSOLVED"):
        assert text in html
    assert "experiments.calibration" in html
    assert html.count("<img") == 6
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_prompt_ids_above_the_number_of_rows_are_valid_clusters(seen):
    """Standard errors group rows by prompt id. An id may exceed the number of rows, because the pool is larger."""
    few = seen.ahead.taken(seen.ahead.step >= HALF)
    large = few._replace(prompt_ids=few.prompt_ids + 10**6)
    for name, score in scoring.scores(few).items():
        assert scoring.scores(large)[name] == pytest.approx(score, rel=1e-5, nan_ok=True), name


def test_averages_leave_out_methods_that_some_histories_lack():
    number = {"mean": 1.0, "standard_error": 0.1}
    assert list(averaged([{"mopps": number, "gps": number}, {"mopps": number}])) == ["mopps"]


def test_probes_after_an_unjudged_batch_are_replayed(folders):
    recorded = read_history(folders[0])
    late = {**recorded.probes, "clock": np.where(recorded.probes["clock"] == 20, 21, recorded.probes["clock"])}
    found = scoring.replayed(recorded._replace(probes=late), jaxsel.beta_bernoulli())
    assert found.probes.step.max() == 20


def test_a_folder_name_may_contain_equals_signs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "task=a,seed=1", method="uniform", seed=0, **SMALL | {"steps": 1})
    (label,) = labelled(["task=a,seed=1"])
    assert label == "chosen by uniform, 150 prompts"
    assert labelled(["mine=task=a,seed=1"]) == {"mine": [Path("task=a,seed=1")]}


def test_labels():
    assert [str(path) for path in labelled(["a b=x/y", "a b=z", "c=d"])["a b"]] == ["x/y", "z"]


def test_a_folder_without_a_label_is_labelled_by_its_history(folders):
    assert [*labelled([str(folders[0])])] == ["chosen by uniform, 150 prompts"]


def test_a_history_without_late_probes_is_refused(tmp_path):
    folder = record(tmp_path, method="uniform", seed=0, **SMALL | {"steps": 4, "probe_every": 4})
    recorded = read_history(folder)
    early = recorded._replace(probes=jax.tree.map(lambda column: column[:150], recorded.probes))
    with pytest.raises(ValueError, match="has no probe after step 2"):
        evaluate(early, name="this")


def test_a_history_without_probes_is_scored_on_its_batches(without_probes, tmp_path, capsys):
    main([f"adapter={without_probes}", "--out", str(tmp_path)])
    assert WITHOUT_PROBES in " ".join(capsys.readouterr().out.split())
    setting = json.loads((tmp_path / "calibration.json").read_text())["settings"]["adapter"]
    mean, (found,) = setting["mean"], setting["histories"]
    assert setting["note"] == WITHOUT_PROBES
    assert "probe" not in found
    assert (mean["probe"], mean["ceiling"], mean["probes"], mean["probe_rollouts"]) == (None, None, 0, 0)
    assert set(mean["recalibrated"]) == {"isotonic", "beta"}
    html = (tmp_path / "calibration.html").read_text()
    assert WITHOUT_PROBES in html
    assert "On probes of the whole pool" not in html
    assert html.count("<img") == 6

    recorded = read_history(without_probes)
    late = recorded.history.step >= HALF
    s, n = recorded.history.successes[late], recorded.history.group_size[late]
    # mopps chose the batches, so that its replay repeats the predictions that the adapter recorded
    probability = recorded.rollouts["mixed"][late]
    expected = metrics.expected_calibration_error(probability, (s > 0) & (s < n))
    assert found["ahead"]["mopps"]["calibration error"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("method", ["isotonic", "beta"])
def test_without_probes_recalibration_equals_the_recalibrated_predictor_one_step_ahead(without_probes, method):
    recorded, mopps = read_history(without_probes), jaxsel.beta_bernoulli()
    live = scoring.replayed(recorded, jaxsel.recalibrated(mopps, method=method, window=scoring.WINDOW))
    afterwards = scoring.recalibrated(scoring.replayed(recorded, mopps), method=method)
    np.testing.assert_array_equal(afterwards.step, recorded.history.step)
    np.testing.assert_allclose(afterwards.prediction.mixed, live.ahead.prediction.mixed, atol=1e-5)


def test_groups_of_one_rollout_teach_a_recalibration_nothing():
    rng = np.random.default_rng(0)
    n = rng.choice([1, 8], (SMALL["steps"], SMALL["batch_size"]))
    ids = [rng.choice(SMALL["num_prompts"], SMALL["batch_size"], replace=False) for _ in n]
    steps = np.repeat(np.arange(len(n)), SMALL["batch_size"])
    s = rng.binomial(n.ravel(), 0.5)
    history = jaxsel.make_history(steps, np.concatenate(ids), s, n.ravel(), num_prompts=SMALL["num_prompts"])
    recorded = Recorded(SMALL["num_prompts"], {}, history, {}, NO_PROBES, None, None)
    mopps = jaxsel.beta_bernoulli()
    live = scoring.replayed(recorded, jaxsel.recalibrated(mopps, window=scoring.WINDOW))
    afterwards = scoring.recalibrated(scoring.replayed(recorded, mopps))
    np.testing.assert_allclose(afterwards.prediction.mixed, live.ahead.prediction.mixed, atol=1e-5)


def test_histories_with_and_without_probes_need_different_labels(folders, without_probes):
    settings = read_settings([f"a={folders[0]}", f"b={without_probes}"])
    assert {label: [path for path, _ in found] for label, found in settings.items()} == {
        "a": [folders[0]],
        "b": [without_probes],
    }
    with pytest.raises(ValueError, match=f"{without_probes} has no probes, but other histories of the label 'a' have"):
        read_settings([f"a={folders[0]}", f"a={without_probes}"])


def test_a_folder_without_a_long_history_ends_the_command_with_one_line(tmp_path):
    with pytest.raises(SystemExit, match="holds no history"):
        main([str(tmp_path), "--out", str(tmp_path)])
    log = HistoryLog(tmp_path / "short", num_prompts=60, spec={"method": "uniform"})
    log.observed(0, (np.arange(9), np.arange(9) % 5, np.full(9, 4)), reports.prediction(np.full(9, 0.5)))
    log.flush()
    with pytest.raises(
        SystemExit, match="short has no judged rollouts in its first half; give the history of a longer"
    ):
        main([str(tmp_path / "short"), "--out", str(tmp_path)])


def test_a_history_of_one_step_is_refused(without_probes):
    recorded = read_history(without_probes)
    with pytest.raises(ValueError, match="this has no judged rollouts in its first half"):
        evaluate(recorded._replace(history=recorded.history.before(1)), name="this")
