"""`jaxsel.explore`: what it accepts and refuses, what its verdict says, and what its page holds."""

import base64
import gzip
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxsel
from jaxsel.evaluation.plotting.looks import style
from jaxsel.report.cells import scored
from jaxsel.report.explore import Report
from jaxsel.report.followed import Mispredicted
from jaxsel.report.gaps import right_places
from jaxsel.report.judgement import Number, best_of
from jaxsel.report.material import default_methods
from jaxsel.report.pieces import as_columns, bundle
from jaxsel.report.tables import tables
from jaxsel.report.verdict import grade, verdict
from tests.support import reports

pytest.importorskip("altair", reason="Altair is not installed")
from jaxsel.report.charts.common import looks_of


@pytest.fixture(scope="module")
def report():
    return Report(tables(reports.material()), "A <title> & more")


@pytest.fixture(scope="module")
def data(report):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', report.html, re.DOTALL)
    return json.loads(text)


def test_the_verdict_answers_the_questions(report):
    found = {finding.question: finding for finding in report.verdict}
    trust, where, which, prompts, advice, limits = found.values()
    assert "good" in trust.answer
    assert "expected" in trust.details[0]
    assert where.answer.startswith("good is nowhere right for sure, with so few groups, and clearly wrong nowhere. ")
    assert where.details[-1].startswith("Right means within 5 percentage points")
    assert which.answer.startswith("good: on average it gave what happened 1.")
    assert "standard error" in which.details[0]
    assert "180 groups" in which.details[-1]
    assert "What is" in prompts.details[0]
    assert advice.answer == "Take good."
    assert "probes" in limits.answer
    assert "P(mixed)" not in str(report.verdict)
    assert repr(report).count("\n* ") == 6


def test_methods_of_equal_skill_cannot_be_told_apart():
    found = tables(reports.material())
    one = found.judged["bad"]
    unsure = one._replace(numbers=one.numbers | {"states behind": Number(0.01, 0.02)})
    which = verdict(found._replace(judged=found.judged | {"bad": unsure}))[2]
    assert which.answer == "good has the best score, but bad may be as good."
    assert "The order may be chance" in which.details[0]


@pytest.mark.parametrize(("times", "is_said"), [(1, False), (100, True)])
def test_what_chance_may_have_done_is_neither_a_gap_nor_a_cause_for_advice(times, is_said):
    found = tables(reports.material())
    one, groups = found.judged["good"], 4 * times * np.ones(3)
    part = one.by_part["unseen"][1] | {"excess": Number(0.12, 0.5 / times)}
    numbers = one.numbers | {"covers 90%": Number(0.8, 0.5 / times)}
    cells = {"method": ["good"] * 3, "kind": ["probes"] * 3, "step": np.arange(3), "groups": groups}
    cells |= {"predicted": groups / 2, "mixed": groups * [0.75, 0.5, 0.5], "chance": groups / 4}
    judged = {"good": one._replace(numbers=numbers, by_part={"unseen": (40 * times, part)})}
    _, where, _, _, advice, _ = verdict(found._replace(judged=judged, methods=["good"], tables={"cells": cells}))
    said = " ".join([*where.details, *advice.details])
    early = "Early in the run (steps 0 to 0), it expects 50%"
    for words in (early, "Where a prompt was never visited", "without a visit are predicted badly", "too narrow"):
        assert (words in said) == is_said


def test_places_where_predictions_came_true_are_joined():
    one = tables(reports.material()).judged["good"]
    said, groups = np.arange(0.05, 1, 0.1), np.full(10, 1e5)
    came = said + np.array([0.04, -0.04, 0.2, 0, 0.1, -0.3, 0, 0, 0, 0])
    groups[9] = 60
    bins = one.curve.bins._replace(groups=groups, predicted=said, observed=came)
    curve = one.curve._replace(bins=bins)
    assert right_places(one._replace(curve=curve)) == "right where it says 0 to 20%, 30 to 40% and 60 to 90%"
    wrong = bins._replace(observed=np.where(said < 0.8, said + 0.2, said - 0.2))
    assert right_places(one._replace(curve=curve._replace(bins=wrong))) == "nowhere right"  # one bin has few groups
    few = wrong._replace(groups=np.full(10, 5.0))
    assert right_places(one._replace(curve=curve._replace(bins=few))).startswith("nowhere right for sure")


def test_grades_depend_on_the_error_beyond_chance():
    one = tables(reports.material()).judged["good"]
    for error, expected in ((0.06, "yes"), (0.12, "roughly"), (0.3, "no")):
        numbers = one.numbers | {"calibration": Number(error, 0.01)}
        one = one._replace(groups=18_000)
        assert grade(one._replace(numbers=numbers, by_chance=0.04)) == expected
        few = "no" if expected == "no" else "unknown"  # the share of mixed groups may be off by more
        assert grade(one._replace(numbers=numbers, by_chance=0.04, groups=18)) == few
        hidden = "no" if expected == "no" else "unknown"  # by chance, right predictions would show an error as large
        assert grade(one._replace(numbers=numbers, by_chance=0.11)) == hidden


def test_the_page_loads_nothing(report):
    page = report.html.replace(bundle(), "")
    head, _, rest = page.partition("<script>")
    assert not re.search(r"https?:|url\(|@import", head.replace('"$schema"', ""))
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in head
    assert "await vegaEmbed(" in rest
    assert page.count("</script>") == 3  # no text of a prompt ends a script
    assert "<title>A &lt;title&gt; &amp; more</title>" in page
    assert len(report.html.encode()) < 2_000_000


def test_the_charts_are_valid_and_read_tables_that_exist(report, data):
    assert list(data["charts"]) == [
        "reliability", "shares", "scores", "pit", "coverage", "map", "meaning", "trajectory",
    ]  # fmt: skip
    for name, chart in report.charts.items():
        spec = chart.to_dict()  # Altair checks it against the schema of Vega-Lite
        used = {found for found in re.findall(r'"name": "(\w+)"', json.dumps(spec)) if found in data["tables"]}
        assert used, name
        assert used <= set(spec["datasets"]), name
        assert all(title for title in re.findall(r'"title": "([^"]*)"', json.dumps(spec)))
    assert json.loads(json.dumps(data)) == data


def test_the_page_holds_the_tables(report, data):
    for name, table in report.tables.items():
        assert data["tables"][name]["length"] == len(next(iter(table.values())))
    cells = data["tables"]["cells"]["columns"]
    levels = cells["method"]["levels"]
    assert [levels[i] for i in cells["method"]["values"]] == report.tables["cells"]["method"].tolist()
    assert data["tables"]["prompts"]["columns"]["text"]["levels"]


def test_columns_of_few_floats_are_held_as_levels():
    many = as_columns({"x": np.tile([0.12347, -2.0, np.nan], 30), "y": np.arange(90) / 7})["columns"]
    assert many["x"]["levels"] == [-2.0, 0.1235, None]
    assert [many["x"]["levels"][i] for i in many["x"]["values"][:3]] == [0.1235, -2.0, None]
    assert many["y"]["values"][:2] == [0.0, 0.1429]
    assert "levels" not in many["y"]


def test_the_report_shows_itself_in_a_frame(report):
    shown = report._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "<script" not in shown
    (packed,) = re.findall(r"id=&quot;packed&quot;&gt;([^&]*)&lt;", shown)
    assert gzip.decompress(base64.b64decode(packed)).decode() == report.html
    assert len(shown) < len(report.html) / 2
    assert shown == report._repr_html_()  # a notebook that is executed again keeps its bytes


def test_the_methods_side_by_side(report):
    found = report.comparison
    assert found["method"] == ["good", "bad"]
    assert found["groups"] == [180, 180]
    assert {len(column) for column in found.values()} == {2}
    numbers = report._found.judged["bad"].numbers
    assert found["behind_best"] == [0, numbers["states behind"].value]
    assert found["log_score"][0] - found["log_score"][1] == pytest.approx(found["behind_best"][1])
    assert found["brier_se"][1] == numbers["brier"].error
    assert found["calibration_by_chance"][1] == report._found.judged["bad"].by_chance


def test_methods_have_colours_of_their_own():
    names = ["adaptive with embeddings", "adaptive", "mopps fitted", "mopps", "dps"]
    colours = looks_of(names).colours
    assert list(colours) == names
    assert len(set(colours.values())) == len(names)
    assert colours["mopps"] == style("mopps")["color"]


@pytest.mark.slow  # the programs that draw take seconds to load
def test_a_chart_shows_itself_without_a_network(report):
    bundle = report.charts["coverage"]._repr_mimebundle_()
    spec = bundle["application/vnd.vegalite.v6+json"]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert set(bundle) == {"application/vnd.vegalite.v6+json", "image/png", "text/plain"}
    (rows,) = (rows for name, rows in spec["datasets"].items() if name == "cells")
    assert [(row["method"], row["groups"]) for row in rows] == [("good", 180), ("bad", 180)]  # sums
    assert "cover0" in rows[0]
    assert not {"pit0", "step", "bin"} & set(rows[0])  # the chart reads none of these columns


def test_the_page_is_saved(report, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = report.save("~/report.html")
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == report.html
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match=r"path is 'report'; give the name of an HTML file"):
        report.save("report")
    with pytest.raises(OSError, match=r"cannot write .*new/report.html: No such file .*; give a path in a folder that"):
        report.save(tmp_path / "new" / "report.html")
    with pytest.raises(ValueError, match=r"path is s3://bucket/report.html, which is not on this machine"):
        report.save("s3://bucket/report.html")


def test_a_text_that_utf_8_cannot_hold_is_saved_too(tmp_path):
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=2, seed=0)
    report = jaxsel.explore(selector, texts=["\ud800", "b"])
    report.save(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<iframe" in report._repr_html_()


@pytest.mark.slow
def test_labels_may_be_names_of_javascript_and_hold_characters_that_a_chart_cannot():
    labels = ["constructor", "__proto__", "", " a'\"\\\u2028", "\x01", "\ud800", "\ufffe"]
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=len(labels), seed=0)
    chart = jaxsel.explore(selector, strata=labels).charts["map"]
    shown = chart.to_dict()
    shown["params"] = [one | {"value": "stratum"} if one["name"] == "colour" else one for one in shown["params"]]
    assert chart.from_dict(shown)._repr_mimebundle_()["image/png"]
    drawn = re.findall(r'"domain": (\[[^]]*\]), "scheme": "tableau10"', json.dumps(shown))
    assert [json.loads(domain) for domain in drawn] == [[*labels[:4], *"\ufffd\ufffd\ufffd"]]


def test_a_selector_has_beliefs_alone():
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=40, seed=0)
    selector.observe([3, 5], [8, 0], 8)
    found = jaxsel.explore(selector, texts=[f"prompt {i}" for i in range(40)])
    assert list(found.charts) == ["map"]
    assert found.comparison["method"] == found.comparison["log_score"] == []
    (finding,) = found.verdict
    assert "no outcomes" in finding.answer
    assert "mopps has visited 2 of 40 prompts in 1 steps." in finding.details
    with pytest.raises(ValueError, match="methods cannot be replayed on a PromptSelector"):
        jaxsel.explore(selector, {"mopps": jaxsel.mopps()})


@pytest.mark.usefixtures("unchecked_types")
def test_columns_of_pandas_are_read_in_their_order_and_not_by_label():
    order = np.random.default_rng(0).permutation(60)
    pool = pd.DataFrame({"text": [f"prompt {row}" for row in range(60)], "kind": ["odd", "even"] * 30}, index=order)
    for one in (pool, pool.set_index(order + 100)):
        given: dict[str, Any] = {"texts": one["text"], "strata": one["kind"], "embeddings": one[["kind"]] == "odd"}
        found = jaxsel.explore(reports.material().history, [jaxsel.mopps(group_size=4)], **given)
        shown = found.tables["prompts"]
        assert shown["text"] == [f"prompt {row}" for row in shown["prompt"]]
        labels = found._found.strata or []
        assert [labels[at] for at in shown["stratum"]] == [pool["kind"].iloc[i] for i in shown["prompt"]]
        worst = found._found.worst["mopps"].prompt_ids[0]
        assert f"Prompt {worst} “prompt {worst}”" in found.verdict[3].details[0]


def test_a_history_is_replayed_with_methods():
    history = reports.material().history
    found = jaxsel.explore(history, [jaxsel.mopps(group_size=4)], num_prompts=70)
    (name,) = found._found.methods
    assert (name, found._found.kinds) == ("mopps", ["ahead"])
    assert found.verdict[0].details[0].startswith("A prediction is off by")
    assert "Record probes" in " ".join(found.verdict[4].details)
    with pytest.raises(ValueError, match="num_prompts is 5, but the history visits prompt 59; give at least 60"):
        jaxsel.explore(history, num_prompts=5)


def _constant(rate, *, wrong_from=None):
    """Return a predictor of one success rate, which predicts NaN for the prompts from `wrong_from` on."""

    def predict(key, state, prompt_ids, first_id: Any = 0):
        del key, first_id
        ids = jnp.arange(len(state)) if prompt_ids is None else prompt_ids
        x = jnp.where(ids >= (len(state) if wrong_from is None else wrong_from), jnp.nan, rate)
        return jaxsel.Prediction(x, x * (1 - x) / 3, x, (1 - x) / 2, x, (1 - x) / 2)

    def init(key, num_prompts):
        del key
        return jnp.zeros(num_prompts)

    return jaxsel.Predictor({"name": "constant"}, init, predict, lambda key, state, rollouts: state)


def test_predictions_that_are_not_finite_are_refused_and_never_rank_first():
    history = jaxsel.make_history([0, 0, 1, 1], [0, 1, 1, 2], [3, 8, 2, 0], 8, num_prompts=3)
    message = r"methods\['bad'\] predicts a success_rate of nan for prompt {} before step {}; give a method whose"
    with pytest.raises(ValueError, match=message.format(1, 0)):
        jaxsel.explore(history, {"bad": _constant(0.3, wrong_from=1), "mopps": jaxsel.mopps()})
    with pytest.raises(ValueError, match=message.format(3, 0)):  # a prompt that is never visited
        jaxsel.explore(history, {"bad": _constant(0.3, wrong_from=3)}, num_prompts=4)
    found = tables(reports.material())
    one = found.judged["good"]
    nothing = {name: Number(np.nan, np.nan) for name in one.numbers}
    assert grade(one._replace(numbers=nothing)) == "unknown"
    seen = {name: scored(of.probes) for name, of in reports.material().seen.items()}
    seen["good"] = seen["good"]._replace(states=np.full_like(seen["good"].states, np.nan))
    assert best_of(seen) == "bad"


def test_worst_prompts_may_be_as_believed():
    history = jaxsel.make_history([0], [0], [4], 8, num_prompts=1)
    assert (
        jaxsel.explore(history, [jaxsel.mopps()]).verdict[3].answer == "The worst prompt of mopps was as it believed."
    )
    found = tables(reports.material())
    sides = {
        (0.2,): "The worst prompt of good was harder than it believed.",
        (-0.2, -0.1): "The 2 worst of good were all easier than it believed.",
        (0.2, 0.3, -0.1): "Of the 3 worst of good, 2 were harder than it believed and 1 easier.",
        (0.2, 1e-8, -0.1): "Of the 3 worst of good, 1 was harder than it believed, 1 easier and 1 as it believed.",
        (1e-8, -0.1, -1e-8): "Of the 3 worst of good, 1 was easier than it believed and 2 as it believed.",
    }
    for gap, said in sides.items():
        some, here = found.worst["good"], np.zeros(len(gap), int)
        worst = Mispredicted(here, 0.5 + np.array(gap), np.full(len(gap), 0.5), some.groups[here], some.rollouts[here])
        assert verdict(found._replace(worst=found.worst | {"good": worst}))[3].answer == said


def test_an_order_needs_prompts_enough():
    history = jaxsel.make_history([0, 0], [0, 1], [8, 8], 8, num_prompts=2)
    report = jaxsel.explore(history, {"mopps": jaxsel.mopps(), "dps": jaxsel.dps()})
    assert report.verdict[2].answer == "dps has the best score, but mopps may be as good."
    assert "beyond doubt" not in str(report.verdict)
    assert "Yes" not in report.verdict[0].answer


@pytest.mark.slow
def test_a_right_method_is_right_for_groups_of_any_size(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rng = np.random.default_rng(0)
    number, steps = 400, 30
    rate, ids, size = rng.beta(1, 1, number), np.tile(np.arange(number), steps), rng.choice([2, 16], steps * number)
    step = np.repeat(np.arange(steps), number)
    history = jaxsel.make_history(step, ids, rng.binomial(size, rate[ids]), size, num_prompts=number)
    exact = jaxsel.mopps(decay=1.0)
    report = jaxsel.explore(history, {"exact": exact})
    trust, where, _, _, advice, _ = report.verdict
    assert trust.answer == "Yes."
    said = "It predicts for groups of 8 rollouts, and 12,000 of 12,000 groups had another number"
    assert said in trust.details[0]
    assert "clearly wrong nowhere" in where.answer
    assert "recalibrated" not in str([advice.answer, *advice.details])
    from jaxsel.integrations.history import HistoryLog

    rows = jaxsel.replay(history, exact, num_prompts=number)
    log = HistoryLog(tmp_path, num_prompts=number, spec=exact.spec)
    for at in range(steps):
        mask = history.step == at
        prediction = jax.tree.map(lambda field, mask=mask: np.asarray(field)[mask], rows.prediction)
        log.observed(at, (history.prompt_ids[mask], history.successes[mask], history.group_size[mask]), prediction)
    log.flush()
    recorded = jaxsel.explore(tmp_path).verdict[0]
    assert recorded.answer == "Yes."
    assert said in recorded.details[0]


@pytest.mark.slow
def test_early_steps_are_those_of_the_groups_that_are_counted():
    step, ids = np.repeat(np.arange(240), 20), np.tile(np.arange(20), 240)
    history = jaxsel.make_history(step, ids, np.full(len(ids), 8), 8, num_prompts=20)
    where = jaxsel.explore(history, [jaxsel.mopps()]).verdict[1]
    (early,) = (said for said in where.details if "arly in the run" in said)
    assert "(steps 0 to 79), it expects" in early
    assert "of 1,600 groups" in early


def test_no_method_is_best_where_scores_are_equal():
    history = reports.material().history
    report = jaxsel.explore(history, {"a": jaxsel.mopps(), "b": jaxsel.mopps(), "far": _constant(0.01)})
    which, advice = report.verdict[2], report.verdict[4]
    assert which.answer == "a and b have the same score."
    assert which.details[0].startswith("a against b: both gave what happened the same probability")
    assert "The Brier score of a mixed group is the same." in which.details[0]
    assert " 0.000 worse" not in str(report.verdict)
    assert advice.answer.startswith("Take a or b")


def test_a_probability_of_one_half_is_not_more_often_than_not():
    selector = jaxsel.PromptSelector(jaxsel.mopps(group_size=3), num_prompts=10, seed=0)
    assert "0 prompts to be mixed more often than not" in jaxsel.explore(selector).verdict[0].details[1]


def test_single_rollouts_are_replayed_with_the_default_methods_that_take_them():
    history = jaxsel.make_history([0, 0, 1, 1], [0, 1, 2, 3], [1, 0, 0, 1], 1, num_prompts=4)
    assert list(default_methods(history)) == ["mopps", "adaptive"]
    assert list(default_methods(history._replace(group_size=history.group_size + 1))) == ["mopps", "dps", "adaptive"]


def test_a_recorded_run_shows_its_own_predictions(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    run = reports.material()
    reports.record(run, tmp_path / "history")
    found = jaxsel.explore(tmp_path)  # the folder of the run, which holds the folder `history`
    assert found._found.methods == ["uniform (recorded)"]
    assert found._found.judged["uniform (recorded)"].groups == 60
    assert found._found.material.texts == run.texts


def test_recorded_predictions_that_are_not_finite_are_left_out(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    run = reports.material()
    ahead = run.seen["good"].ahead
    rate = ahead.prediction.success_rate.copy()
    rate[:3] = np.nan
    broken = run.seen["good"]._replace(ahead=ahead._replace(prediction=ahead.prediction._replace(success_rate=rate)))
    reports.record(run._replace(seen={"good": broken}), tmp_path)
    with pytest.warns(UserWarning, match="3 of [0-9]+ recorded predictions are not finite, so they are left out"):
        found = jaxsel.explore(tmp_path)
    assert len(found._found.material.seen["uniform (recorded)"].ahead.step) == len(ahead.step) - 3
    assert found.html


def test_the_steps_of_a_selector_include_those_without_a_judged_rollout():
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=3, seed=0)
    selector.observe([0], [1], 8)
    for _ in range(3):
        selector.observe([1], [0], 0)
    report = jaxsel.explore(selector)
    assert report.verdict[0].details[0] == "mopps has visited 1 of 3 prompts in 4 steps."


@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments_are_refused_before_any_work():
    history = reports.material().history
    with pytest.raises(ValueError, match="source is a int; give a folder, a recorded history"):
        jaxsel.explore(3)
    with pytest.raises(ValueError, match=r"methods\['m'\] is a str; give a Selector"):
        jaxsel.explore(history, {"m": "mopps"})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"methods has the name '\\x01'; give a text whose characters a chart can"):
        jaxsel.explore(history, {"\x01": jaxsel.mopps()})
    with pytest.raises(ValueError, match="methods are named mopps, mopps; give a dictionary"):
        jaxsel.explore(history, [jaxsel.mopps(), jaxsel.mopps(decay=0.9)])
    with pytest.raises(ValueError, match="texts has 2 entries for a pool of 60 prompts"):
        jaxsel.explore(history, [jaxsel.mopps()], texts=["a", "b"])
    with pytest.raises(ValueError, match=r"strata has 62 entries for a pool of 60 .*, or num_prompts=62 if the last"):
        jaxsel.explore(history, [jaxsel.mopps()], strata=["a"] * 62)
    with pytest.raises(ValueError, match=r"in the order of the pool$"):  # a selector knows its pool
        jaxsel.explore(jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=2, seed=0), texts=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"embeddings\[1\] is not finite"):
        jaxsel.explore(history, [jaxsel.mopps()], embeddings=np.where(np.eye(60) * np.arange(60) == 1, np.nan, 1.0))
    with pytest.raises(ValueError, match="embeddings is not an array of numbers"):
        jaxsel.explore(history, [jaxsel.mopps()], embeddings=[["a"]] * 60)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"texts": 5}, "texts is 5; give one per prompt"),
        ({"strata": 3}, "strata is 3; give one per prompt"),
        ({"methods": {}}, r"methods is \{\}; give at least one method, or None for the usual ones"),
        ({"methods": []}, r"methods is \[\]; give at least one method"),
        ({"texts": dict.fromkeys(range(60), "a")}, "texts is a dict without one order; give a list, one per prompt"),
        ({"texts": {str(i) for i in range(60)}}, "texts is a set without one order; give a list"),
        ({"texts": (str(i) for i in range(60))}, "texts is a generator without one order; give a list"),
        ({"strata": np.zeros((60, 2))}, "strata is a ndarray without one order; give a list"),
        ({"embeddings": 3}, r"embeddings has shape \(\); give one vector per prompt"),
        ({"embeddings": np.zeros((60, 0))}, r"embeddings has shape \(60, 0\); give one vector per prompt"),
        ({"embeddings": np.full((60, 2), 1e300)}, r"embeddings\[0\] is not finite in 32 bits; embed that prompt"),
        ({"title": 5}, "title is 5; give a text"),
        ({"title": "\ud800 x"}, r"title is '\\ud800 x', which holds half of a surrogate pair; give whole characters"),
        ({"methods": 5}, "methods is 5; give methods by name, or a list of methods"),
        ({"seed": -1}, "seed is -1; give an integer from 0 to 4294967295"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            jaxsel.explore(history, **options)
    with pytest.raises(ValueError, match="num_prompts is 9, and the source knows the size of its pool; leave it out"):
        jaxsel.explore(jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=2, seed=0), num_prompts=9)
    with pytest.raises(ValueError, match="the history has no judged rollouts"):
        jaxsel.explore(jaxsel.make_history([], [], [], [], num_prompts=3))
