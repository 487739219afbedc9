import json

import numpy as np
import pytest

from experiments.benchmarks import peers, report, select_observe
from jaxsel import hmm
from jaxsel.beta import posterior

N = 60


def observe_all(*contenders, steps=30, seed=0):
    """Everyone observes the same random batches."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids = rng.choice(N, 8, replace=False).astype(np.int32)
        successes = rng.binomial(8, rng.beta(0.5, 0.5, 8)).astype(np.int32)
        for contender in contenders:
            contender.observe(ids, successes, peers.GROUP_SIZE)


def test_every_mopps_has_the_same_posterior():
    ours = select_observe.Ours(select_observe.METHODS["mopps"](), N, 0)
    numpy, loops, jax_beta = peers.NumpyMopps(N, 0), peers.DictionaryMopps(N, 0), peers.JaxBetaMopps(N, 0)
    observe_all(ours, numpy, loops, jax_beta)
    expected = np.stack(posterior(ours.state, 1.0, None))
    np.testing.assert_allclose(np.stack([numpy.alpha, numpy.beta]), expected, rtol=1e-5)
    np.testing.assert_allclose(np.stack([jax_beta.alpha, jax_beta.beta]), expected, rtol=1e-5)
    np.testing.assert_allclose(np.array([loops.posterior[i] for i in range(N)]).T, expected, rtol=1e-5)


def test_every_dps_has_the_same_belief_and_the_same_choice():
    ours = select_observe.Ours(select_observe.METHODS["dps"](), N, 0)
    numpy, loops = peers.NumpyDps(N, 0), peers.DictionaryDps(N, 0)
    observe_all(ours, numpy, loops)
    belief, counts = np.asarray(hmm.predicted(ours.state)), np.asarray(hmm.transition_counts(ours.state))
    np.testing.assert_allclose(numpy.predicted, belief, atol=1e-4)
    np.testing.assert_allclose(numpy.counts, counts, atol=1e-4)
    np.testing.assert_allclose(np.array([loops.predicted[i] for i in range(N)]).T, belief, atol=1e-4)
    np.testing.assert_allclose(np.stack([loops.counts[i] for i in range(N)], axis=2), counts, atol=1e-4)
    # the gap between the fourth and the fifth is wider than twice the error allowed above
    ranked = np.sort(belief[1])[::-1]
    assert ranked[3] - ranked[4] > 2e-4
    chosen = {frozenset(contender.select(4).tolist()) for contender in (ours, numpy, loops)}
    assert len(chosen) == 1


@pytest.mark.parametrize("method", select_observe.METHODS)
def test_everyone_chooses_distinct_prompts_of_the_pool(method):
    contenders = select_observe.make_contenders(method, N, 0, with_dictionary=True)
    observe_all(*contenders.values(), steps=5)
    for contender in contenders.values():
        ids = contender.select(16)
        assert len(set(ids.tolist())) == len(ids) == 16
        assert ids.min() >= 0
        assert ids.max() < N


@pytest.mark.parametrize("name", ["NumpyMopps", "DictionaryMopps", "JaxBetaMopps"])
def test_thompson_sampling_finds_the_prompts_near_one_half(name):
    contender = getattr(peers, name)(N, 0)
    successes = np.where(np.arange(N) < 10, 4, 8).astype(np.int32)
    for _ in range(10):
        contender.observe(np.arange(N), successes, peers.GROUP_SIZE)
    assert (contender.select(10) < 10).mean() >= 0.9


def test_the_band_is_filled_by_the_nearest_when_too_few_lie_in_it():
    contender = peers.NumpyThreshold(N, 0)
    for _ in range(10):
        contender.observe(np.arange(N), np.full(N, 8, np.int32), peers.GROUP_SIZE)
    assert len(set(contender.select(50).tolist())) == 50


def test_large_pools_have_no_dictionary():
    assert "dictionary" not in select_observe.make_contenders("dps", N, 0, with_dictionary=False)


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_a_table_a_figure_and_numbers(tmp_path, capsys):
    options = ["--sizes", "60", "--batch-size", "8", "--repeats", "2", "--output", str(tmp_path)]
    select_observe.main(options)
    result = json.loads((tmp_path / "benchmark_select_observe.json").read_text())
    assert (tmp_path / "benchmark_select_observe.png").stat().st_size > 10_000
    assert result["config"]["sizes"] == [60]
    assert result["seed"] == 0
    assert {"versions", "git", "device", "load_average"} <= result.keys()
    steps = result["results"]["steps"]
    assert {row["method"] for row in steps} == set(select_observe.METHODS)
    assert [row["method"] for row in steps if row["implementation"] == "dictionary"] == ["mopps", "dps"]
    for row in steps:
        assert row["select"] > 0
        assert row["observe"] >= 0
        assert row["quartiles"][0] <= row["both"] <= row["quartiles"][1]
    sizes = {row["method"]: row["state_bytes_per_prompt"] for row in result["results"]["checkpoints"]}
    assert 12 <= sizes["mopps"] < 13
    assert 48 <= sizes["dps"] < 50
    shown = capsys.readouterr().out
    assert "select + observe, ms" in shown
    assert "bytes/prompt" in shown


def test_who_has_had_his_time_takes_no_further_turn():
    rows = select_observe.time_steps("uniform", N, batch_size=4, repeats=5, seconds=0.0)
    assert [row["repeats"] for row in rows] == [1, 1]


def test_comparisons_keep_the_order_and_leave_gaps():
    rows = [
        {"method": method, "implementation": name, "both": both}
        for method, name, both in [("b", "numpy", 2.0), ("a", "jaxsel", 3.0), ("b", "jaxsel", 1.0)]
    ]
    table = report.comparison_rows(rows, ("method",))
    assert table == [(("b",), {"numpy": 2.0, "jaxsel": 1.0}), (("a",), {"jaxsel": 3.0})]
