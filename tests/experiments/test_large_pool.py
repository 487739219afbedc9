import json
from dataclasses import asdict, replace
from functools import cache, partial

import numpy as np
import pytest

import jaxsel
from experiments.large_pool import __main__ as large_pool
from experiments.large_pool.runs import LEARNERS, ORACLE, Config, run
from experiments.large_pool.summary import find, summarise

pytestmark = pytest.mark.slow

TINY = Config(steps=12, batch_size=8, group_size=4, subset=3, num_features=4)
finished = cache(run)  # compiles and runs once; tests must not change the numbers


@pytest.mark.parametrize("among", ["pool", "subset"])
@pytest.mark.parametrize("name", [ORACLE, "mopps_top_mixed", "dps"])
def test_the_numbers_of_a_run_are_consistent(name, among):
    found = finished(TINY, name, 200, 0, among)
    assert len(found["mixed_shares"]) == 2
    assert (10 * found["mixed_shares"][0] + 2 * found["mixed_shares"][1]) / 12 == pytest.approx(found["mixed_share"])
    visits = 12 * 8
    assert found["coverage"] * 200 == pytest.approx((1 - found["visited_before"]) * visits)
    assert (found["spearman"] == pytest.approx(1)) == (name == ORACLE)
    assert found["seconds_a_step"] > 0


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_oracle_is_calibrated_and_random_prompts_are_not(learner):
    config = replace(TINY, steps=40, batch_size=32, learner=learner)
    oracle, uniform = (run(config, name, 600, 0, "pool") for name in (ORACLE, "uniform"))
    for number in ("calibration_error", "calibration_error_of_batches"):
        assert oracle[number] < 0.06
        assert uniform[number] > 0.1


def test_the_learner_that_interferes_loses_what_the_other_one_keeps():
    kept, lost = (run(replace(TINY, steps=40, learner=name), "uniform", 200, 0, "pool") for name in LEARNERS)
    assert lost["mixed_share"] < kept["mixed_share"]


def test_gps_is_given_the_embeddings_of_its_learner(monkeypatch):
    small = {"width": 16, "num_heads": 1, "latent_size": 0, "num_draws": 2, "history": 8}  # compiles faster
    monkeypatch.setattr(jaxsel, "gps", partial(jaxsel.gps, **small))
    config = Config(steps=8, batch_size=32, group_size=8, num_features=40)
    assert run(config, "gps", 300, 0, "pool")["spearman"] > 0.3


@pytest.mark.parametrize("name", ["state_space", "adaptive"])
def test_the_state_space_model_is_given_the_embeddings_of_its_learner(name):
    config = Config(steps=8, batch_size=32, group_size=8, num_features=40)
    assert run(config, name, 300, 0, "pool")["spearman"] > 0.3


def test_the_same_seed_is_the_same_run_and_the_oracle_is_best():
    one, again, other = (run(TINY, "uniform", 200, seed, "pool") for seed in (0, 0, 1))
    assert one["mixed_shares"] == again["mixed_shares"] != other["mixed_shares"]
    assert finished(TINY, ORACLE, 200, 0, "pool")["mixed_share"] > one["mixed_share"]


def pretended(share):
    names = ("mixed_share", "mixed_share_late", "mean_success_rate", "coverage", "visited_before", "spearman")
    names += ("calibration_error", "calibration_error_of_batches", "mean_absolute_error", "seconds_a_step")
    return dict.fromkeys(names, share) | {"mixed_shares": [share, share]}


def test_finished_runs_are_reused_and_regret_compares_equal_seeds(tmp_path, monkeypatch, capsys):
    calls = []

    def pretend(config, name, size, seed, among):
        calls.append((name, size, seed))
        return pretended({ORACLE: 0.9, "dps": 0.5 + 0.1 * seed, "mopps": 0.3, "uniform": 0.2 + 0.1 * seed}[name])

    monkeypatch.setattr(large_pool, "run", pretend)
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--among", "pool"]
    large_pool.main([*places, "--sizes", "1e3", "--methods", "dps", "uniform", "--seeds", "0", "1"])
    large_pool.main([*places, "--sizes", "1e3", "2e3", "--methods", "dps", "mopps", "--seeds", "0"])
    assert len(calls) == len(set(calls)) == 10
    written = json.loads((tmp_path / "out" / "large_pool.json").read_text())["summary"]
    small, large = written["1,000 prompts, among the whole pool"], written["2,000 prompts, among the whole pool"]
    assert list(small) == [ORACLE, "uniform", "mopps", "dps"]
    assert small["dps"]["gain"] == {"mean": pytest.approx(0.3), "standard_error": pytest.approx(0)}
    assert small["dps"]["seeds"] == [0, 1]
    assert small["dps"]["regret"] == {"mean": pytest.approx(0.35), "standard_error": pytest.approx(0.05)}
    assert large["mopps"]["regret"]["mean"] == pytest.approx(0.6)
    assert (tmp_path / "out" / "large_pool.png").stat().st_size > 10_000
    assert "revisits" in capsys.readouterr().out


def test_runs_of_other_settings_do_not_count(tmp_path):
    for steps in (10, 20):
        config = asdict(replace(TINY, steps=steps))
        one = {"config": config, "size": 10, "among": "pool", "method": "dps", "seed": 0}
        (tmp_path / f"{steps}.json").write_text(json.dumps(one | {"found": pretended(0.5)}))
    (methods,) = find(replace(TINY, steps=20), tmp_path).values()
    assert len(methods["dps"]) == 1
    numbers = summarise(methods)["dps"]
    assert np.isnan(numbers["regret"]["mean"])  # no runs of the oracle and of uniform to compare with
    assert np.isnan(numbers["gain"]["mean"])
