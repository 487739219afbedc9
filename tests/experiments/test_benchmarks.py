"""The benchmark of selection. Its contenders are the calls of jaxsel and peers: the same methods without jaxsel."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks import (
    checkpoints,
    contenders,
    figure,
    gpu,
    handoff,
    memory,
    run,
    streaming,
    tables,
    targets,
    timing,
)
from experiments.benchmarks.jaxsel_calls import SELECTORS, FusedKernels, Kernels, PublicClass
from experiments.benchmarks.peers import common, jax_peers, kalman_peers, numpy_peers, python_peers, torch_peers
from jaxsel.predictors.beta import posterior
from jaxsel.predictors.hidden_markov import predicted, transition_counts
from jaxsel.predictors.kalman import SCALES, believed

pytestmark = pytest.mark.slow

N = 60
BATCH = {"select": 16, "observe": 8, "repeats": 2, "seconds": 1.0}
CONFIG = {"sizes": [N], "methods": ["dps"], "seed": 0, "largest_slow": N, **BATCH}


def observe_all(*everyone, steps=30, seed=0):
    """Let all contenders (jaxsel and other implementations of a method) observe the same random batches."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids = rng.choice(N, 8, replace=False).astype(np.int32)
        successes = rng.binomial(8, rng.beta(0.5, 0.5, 8)).astype(np.int32)
        for contender in everyone:
            contender.observe(*contender.place(ids, successes, common.GROUP_SIZE))


def state_of(ours):
    return ours.state if isinstance(ours, Kernels) else ours.selector._belief.state


@pytest.fixture(scope="module", params=SELECTORS)
def everyone(request):
    """Return a method and all its contenders after five steps. Tests must not let them observe more."""
    made = contenders.make_contenders(request.param, N, 0, largest_slow=N)
    observe_all(*made.values(), steps=5)
    return request.param, made


# The other implementations of a method agree with jaxsel


def test_all_mopps_implementations_have_the_same_posterior():
    ours = [make("mopps", N, 0) for make in (PublicClass, Kernels)]
    numpy, loops = numpy_peers.NumpyMopps(N, 0), python_peers.DictionaryMopps(N, 0)
    others = [numpy, numpy_peers.NumpyUniform(N, 0), torch_peers.TorchMopps(N, 0), jax_peers.JaxMopps(N, 0)]
    observe_all(*ours, loops, *others)
    for one in ours:
        expected = np.stack(posterior(state_of(one), 1.0, None))
        for peer in others:
            np.testing.assert_allclose(np.stack([peer.alpha, peer.beta]), expected, rtol=1e-5)
        np.testing.assert_allclose(np.array([loops.posterior[i] for i in range(N)]).T, expected, rtol=1e-5)


def test_all_dps_implementations_have_the_same_belief_and_choice():
    ours, loops = [make("dps", N, 0) for make in (PublicClass, Kernels, FusedKernels)], python_peers.DictionaryDps(N, 0)
    arrays = [numpy_peers.NumpyDps(N, 0), torch_peers.TorchDps(N, 0), jax_peers.JaxDps(N, 0)]
    observe_all(*ours, loops, *arrays)
    for one in ours:
        belief, counts = np.asarray(predicted(state_of(one))), np.asarray(transition_counts(state_of(one)))
        for peer in arrays:
            np.testing.assert_allclose(peer.predicted, belief, atol=1e-4)
            np.testing.assert_allclose(peer.counts, counts, atol=1e-4)
        np.testing.assert_allclose(np.array([loops.predicted[i] for i in range(N)]).T, belief, atol=1e-4)
        np.testing.assert_allclose(np.stack([loops.counts[i] for i in range(N)], axis=2), counts, atol=1e-4)
        # The choice is clear: the fourth and the fifth largest P(mixed) differ by more than twice the tolerance above.
        ranked = np.sort(belief[1])[::-1]
        assert ranked[3] - ranked[4] > 2e-4
    chosen = {frozenset(np.asarray(contender.select(4)).tolist()) for contender in (*ours, loops, *arrays)}
    assert len(chosen) == 1


def test_all_contenders_predict_the_same(everyone):
    method, made = everyone
    public = made["jaxsel"].predict()
    expected = public.success_rate
    if method == "dps":
        expected = np.stack([public.unsolved, public.mixed, public.solved])
    # trinity discounts prompts without visits too; the list predicts a prompt's last success rate, not a posterior mean
    for name in made.keys() - {"jaxsel", "trinity", "list"}:
        given = made[name].predict()
        if isinstance(given, dict):
            given = np.array(list(given.values())).T
        given = np.stack([np.asarray(part) for part in given])
        np.testing.assert_allclose(given, expected, atol=1e-4)


@pytest.mark.parametrize("make", [kalman_peers.NumpyKalman, kalman_peers.SimdKalman])
def test_all_kalman_filters_have_the_same_belief(make):
    ours, peer = Kernels("kalman", N, 0), make(N, 0)
    observe_all(ours, peer)
    expected = believed(ours.state, ours.state.step, common.KALMAN_STEP_VARIANCE, SCALES["arcsine"], None)
    np.testing.assert_allclose(np.stack(peer.believed()), np.stack(expected), rtol=1e-4)


def test_trinity_equals_mopps_where_every_prompt_is_visited_at_every_step():
    trinity, mopps = numpy_peers.TrinityMopps(N, 0), numpy_peers.NumpyMopps(N, 0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        successes = rng.integers(0, 9, N)
        for peer in (trinity, mopps):
            peer.observe(np.arange(N), successes, common.GROUP_SIZE)
    for name in ("alpha", "beta"):
        np.testing.assert_allclose(getattr(trinity, name), getattr(mopps, name), rtol=1e-6)


def test_tensorflow_probability_draws_from_the_posterior():
    if jax_peers.tfp is None:
        pytest.skip("no TensorFlow Probability that fits this JAX")
    peer = jax_peers.TfpMopps(20_000, 0)
    with jax.numpy_rank_promotion("allow"):
        draws = peer.beta_draw(peer.key, 3 * peer.alpha, peer.beta)
    assert abs(float(draws.mean()) - 0.75) < 5 * np.sqrt(3 / 80 / 20_000)


def test_dynamax_and_numpy_filter_alike():
    if jax_peers.hmm_filter is None:
        pytest.skip("no Dynamax that fits this JAX")
    peer, numpy = jax_peers.DynamaxDps(N, 0), numpy_peers.NumpyDps(N, 0)
    observe_all(peer, numpy)
    np.testing.assert_allclose(peer.predicted, numpy.predicted, atol=1e-4)
    np.testing.assert_allclose(peer.filtered, numpy.filtered, atol=1e-4)


# Choices


def test_contenders_choose_prompts_of_the_pool_and_all_but_the_list_distinct_ones(everyone):
    _, made = everyone
    for name, contender in made.items():
        ids = np.asarray(contender.select(16))
        assert len(ids) == 16
        assert ids.min() >= 0
        assert ids.max() < N
        assert name == "list" or len(set(ids.tolist())) == 16


@pytest.mark.parametrize(
    "make",
    [
        *(numpy_peers.NumpyMopps, numpy_peers.ThreadedNumpyMopps, numpy_peers.TrinityMopps),
        *(python_peers.DictionaryMopps, jax_peers.JaxMopps, torch_peers.TorchMopps),
    ],
)
def test_thompson_sampling_finds_the_prompts_near_one_half(make):
    contender = make(N, 0)
    successes = np.where(np.arange(N) < 10, 4, 8).astype(np.int32)
    for _ in range(10):
        contender.observe(*contender.place(np.arange(N), successes, common.GROUP_SIZE))
    assert (np.asarray(contender.select(10)) < 10).mean() >= 0.9


def test_a_band_with_too_few_prompts_is_filled_up():
    contender = numpy_peers.NumpyThreshold(N, 0)
    for _ in range(10):
        contender.observe(np.arange(N), np.full(N, 8, np.int32), common.GROUP_SIZE)
    assert len(set(contender.select(50).tolist())) == 50


def test_the_list_sampler_prefers_prompts_in_the_band():
    contender = python_peers.ListSampler(N, 0)
    contender.observe(np.arange(N), np.where(np.arange(N) < 30, 4, 8), common.GROUP_SIZE)
    chosen = contender.select(1100)
    # 30 prompts have weight 1 and 30 have weight 0.1: 10/11 of the draws, within five standard deviations
    assert abs((chosen < 30).sum() - 1000) < 5 * np.sqrt(1100 * 10 / 121)


def test_slow_peers_are_left_out_of_large_pools():
    everyone = contenders.make_contenders("mopps", N, 0, largest_slow=N - 1)
    assert {"jaxsel", "kernels", "numpy", "torch"} <= everyone.keys()
    assert not {"dictionary", "jax", "tfp"} & everyone.keys()
    assert "jax" in contenders.make_contenders("dps", N, 0, largest_slow=N - 1)


# Timing


def test_contenders_observe_the_same_data_and_stop_when_their_time_is_over():
    data = timing.make_data(N, 8, 0)
    everyone: dict[str, common.Peer] = {"a": numpy_peers.NumpyMopps(N, 0), "b": numpy_peers.NumpyMopps(N, 1)}
    times = timing.take_turns(everyone, data, select_size=4, repeats=5, seconds=0.0)
    assert [len(taken) for taken in times.values()] == [1, 1]
    np.testing.assert_array_equal(everyone["a"].predict(), everyone["b"].predict())
    times = timing.take_turns(everyone, data, select_size=4, repeats=5, seconds=1000.0)
    assert [len(taken) for taken in times.values()] == [5, 5]


def test_rows_are_medians_and_fused_peers_have_no_row_for_predict():
    times = {"numpy": [(1.0, 20.0, 0.1), (3.0, 10.0, 0.3), (2.0, 90.0, 0.2)]}
    found = {row["operation"]: row for row in timing.rows(times, set(), method="dps", num_prompts=N)}
    medians = {operation: row["ms"] for operation, row in found.items()}
    assert medians == pytest.approx(
        {"select": 2, "observe": 20, "predict": 0.2, "select + observe": 21, "observe + predict": 20.1}
    )
    assert found["select"]["quartiles"] == [1.5, 2.5]
    assert found["select"]["repeats"] == 3
    fused = timing.rows(times, {"numpy"}, method="dps", num_prompts=N)
    assert [row["operation"] for row in fused] == ["select", "observe", "select + observe", "observe + predict"]


def test_data_of_large_pools_repeats_its_outcomes(monkeypatch):
    monkeypatch.setattr(timing, "OUTCOMES", 25)
    monkeypatch.setattr(timing, "LARGEST_HISTORY", 7)
    data = timing.make_data(N, 8, 0)
    np.testing.assert_array_equal(data.successes[:25], data.successes[25:50])
    assert [len(set(ids.tolist())) for ids in data.history] == [7] * timing.HISTORY


def test_small_pools_select_as_many_prompts_as_they_observe():
    config = {"select": 8192, "observe": 1024}
    assert [run.select_size(n, config) for n in (10**4, 10**5, 10**7)] == [1024, 8192, 8192]


# The limit of the machine


def test_bytes_moved_by_every_operation():
    assert streaming.bytes_moved("dps", "observe + predict", 10**6) == 96_000_000
    assert streaming.bytes_moved("mopps", "select", 1000) == 16_000
    assert streaming.bytes_moved("mopps", "observe", 1000) == 0
    assert streaming.streams("dps", "select + observe")
    assert not streaming.streams("mopps", "select + observe")


@pytest.mark.parametrize("kind", [streaming.CopyTo, streaming.InPlace, streaming.OutOfPlace])
def test_a_copy_reads_half_of_the_bytes_and_writes_the_other_half(kind):
    stream = kind(8000)
    stream()
    assert stream.source.nbytes + stream.target.nbytes == 8000 if kind is streaming.CopyTo else True
    assert kind is streaming.CopyTo or stream.array.nbytes == 4000
    assert streaming.fastest_stream(8000)[0] in {"CopyTo", "InPlace", "OutOfPlace"}


# Memory and disk


@pytest.mark.slow
def test_the_peak_of_a_step_holds_the_state():
    measured = memory.measure("mopps", 2_000_000, select_size=16, observe_size=8)
    assert measured["state_bytes"] >= 12 * 2_000_000
    assert measured["peak_bytes"] > measured["state_bytes"]
    assert measured["before_bytes"] > 0


def test_a_failed_measurement_of_memory_gives_the_reason():
    with pytest.raises(RuntimeError, match="invalid choice"):
        memory.measure("nonsense", N, select_size=4, observe_size=4)


@pytest.mark.parametrize(("method", "state"), [("mopps", 12), ("dps", 60)])
def test_checkpoints_have_times_and_sizes(method, state):
    rows, sizes = checkpoints.time_checkpoints(method, 1000, timing.make_data(1000, 8, 0), seed=0)
    assert [row["operation"] for row in rows] == ["save", "load"]
    assert all(row["ms"] > 0 for row in rows)
    assert state <= sizes["state"] < state + 0.1
    assert sizes["all"] == pytest.approx(sizes["state"] + 8)  # visits and last step: 8 bytes a prompt
    assert sizes["disk"] > 0


def test_keys_cost_time_to_hash_and_eight_bytes_each():
    data = timing.make_data(1000, 8, 0)
    rows, sizes = checkpoints.time_keys(1000, data, seed=0)
    assert [row["operation"] for row in rows] == ["save, keys", "load, keys", "keys alone"]
    assert all(row["ms"] > 0 for row in rows)
    assert sizes["all"] == pytest.approx(sizes["state"] + 16)  # as without keys, and a hash of 64 bits
    without = checkpoints.time_checkpoints("mopps", 1000, data, seed=0)[1]
    table = tables.bytes_table([without, sizes], [{"method": "mopps", "num_prompts": 1000, "peak_bytes": 2**20}])
    assert [line.split()[1:3] for line in table.splitlines()[-2:]] == [["1,000", "-"], ["1,000", "40"]]


# Targets


def made_up(method, operation, num_prompts, **times):
    labels = {"method": method, "operation": operation, "num_prompts": num_prompts}
    return [{**labels, "implementation": name.replace("_", " "), "ms": ms} for name, ms in times.items()]


def verdicts(found):
    return {target.text: (target.verdict(target.kernels), target.verdict(target.public)) for target in found}


def test_targets_hold_or_are_missed():
    rows = [
        *made_up("mopps", "select", 10**6, kernels=20.0, jaxsel=21.0, numpy=50.0, jax=1030.0),
        *made_up("dps", "observe + predict", 10**6, kernels=4.0, fused_kernels=2.0, jaxsel=6.0, numpy=10.0),
        *made_up("dps", "observe + predict", 10**6, dictionary=5000.0),
        *made_up("mopps", "observe", 10**4, kernels=0.1, jaxsel=0.1),
        *made_up("mopps", "observe", 10**7, kernels=0.19, jaxsel=0.21),
        *made_up("dps", "select + observe", 10**6, kernels=10.0, jaxsel=10.0),
        *made_up("dps", "select + observe", 10**7, kernels=119.0, jaxsel=121.0),
    ]
    peak = [{"method": "mopps", "num_prompts": 10**7, "peak_bytes": 2**30}]
    assert verdicts(targets.cpu_targets(rows, peak)) == {
        "Thompson selection at 1e6: share of NumPy's time": ("holds", "missed"),
        "Thompson selection at 1e6: times as fast as jax.random.beta": ("holds", "missed"),
        "dps observe + predict at 1e6: share of NumPy's time": ("holds", "missed"),
        "dps observe + predict at 1e6: times as fast as the dictionary": ("holds", "missed"),
        "beta observe: time at 1e7 over time at 1e4": ("holds", "missed"),
        "mopps select + observe: time at 1e7 over time at 1e6": ("not measured", "not measured"),
        "mopps at 1e7: peak memory of a step, GiB": ("not measured", "holds"),
        "dps select + observe: time at 1e7 over time at 1e6": ("holds", "missed"),
        "dps at 1e7: peak memory of a step, GiB": ("not measured", "not measured"),
    }


def test_targets_without_rows_are_not_measured():
    found = targets.cpu_targets([], []) + targets.gpu_targets([])
    assert set(verdicts(found).values()) == {("not measured", "not measured")}


def test_targets_of_a_gpu():
    rows = [
        *made_up("mopps", "select + observe", 10**7, kernels=4.9, jaxsel=5.1),
        *made_up("dps", "observe + predict", 10**7, kernels=4.0, fused_kernels=1.9, jaxsel=2.1, copy=1.0),
    ]
    assert verdicts(targets.gpu_targets(rows)) == {
        "mopps select + observe at 1e7, ms": ("holds", "missed"),
        "dps select + observe at 1e7, ms": ("not measured", "not measured"),
        "dps observe + predict at 1e7: share of the copy bandwidth": ("holds", "missed"),
    }


# Tables and figure


def test_the_table_of_targets_shows_limit_number_and_verdict():
    shown = tables.targets_table(
        [targets.Target("a", 0.4, 0.35, 0.5), targets.Target("b", 50, None, 60.0, at_least=True)]
    )
    assert [line.split() for line in shown.splitlines()[3:]] == [
        ["a", "<=", "0.4", "0.35", "holds", "0.5", "missed"],
        ["b", ">=", "50", "-", "not", "measured", "60", "holds"],
    ]


def test_tables_of_times_give_ratios_to_the_kernels_and_leave_gaps():
    rows = made_up("mopps", "select", 10**6, kernels=10.0, numpy=25.0) + made_up("mopps", "save", 10**6, jaxsel=7.0)
    (shown,) = tables.time_tables(rows)
    assert [line.split() for line in shown.splitlines()[3:]] == [
        ["select", "1,000,000", "-", "10", "25", "(2.5)"],
        ["save", "1,000,000", "7", "-", "-"],
    ]


def test_the_share_of_the_limit_leaves_out_contenders_that_move_other_bytes():
    rows = [
        {**row, "fused": row["implementation"] in ("numpy", "fused kernels")}
        for operation in ("observe", "observe + predict")
        for row in made_up("dps", operation, 10**6, kernels=4.0, fused_kernels=2.0, numpy=8.0, copy=1.0)
    ]
    shown = tables.streaming_table(rows)
    assert [line.split()[-4:] for line in shown.splitlines()[3:]] == [
        ["25%", "-", "-", "-"],
        ["25%", "50%", "-", "12%"],
    ]


def test_the_figure_leaves_gaps(tmp_path):
    rows = made_up("mopps", "select", 100, kernels=1.0) + made_up("dps", "observe", 100, copy=1.0)
    path = figure.draw(rows, tmp_path / "figure.png", title="made up")
    assert path.stat().st_size > 10_000


# The two commands


@pytest.mark.slow
def test_the_benchmark_writes_tables_a_figure_and_numbers(tmp_path, capsys, monkeypatch):
    peak = {"peak_bytes": 2**20, "state_bytes": 0, "before_bytes": 0}
    monkeypatch.setattr(memory, "measure", lambda method, n, **_: {"method": method, "num_prompts": n, **peak})
    options = ["--sizes", str(N), "--select", "16", "--observe", "8", "--repeats", "2", "--methods", "mopps", "dps"]
    benchmarks.main([*options, "--output", str(tmp_path)])
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    assert result["config"]["sizes"] == [N]
    assert {"seed", "versions", "git", "device", "load_average", "bars"} <= result.keys()
    times = result["results"]["times"]
    assert {"jaxsel", "kernels", "numpy", "torch", "jax", "dictionary", "copy"} <= {
        row["implementation"] for row in times if row["method"] == "mopps"
    }
    assert all(row["ms"] > 0 for row in times)
    for method in ("mopps", "dps"):
        ours = {r["operation"] for r in times if (r["method"], r["implementation"]) == (method, "jaxsel")}
        keys = {"keys alone", "save, keys", "load, keys"} if method == "mopps" else set()
        assert ours == {*timing.OPERATIONS, "save", "load", *keys}
    shown = capsys.readouterr().out
    for title in ("dps, ms", "share of the streaming limit", "bytes per prompt", "targets"):
        assert f"\n{title}" in shown


def test_without_a_gpu_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(SystemExit, match="JAX sees no GPU") as stopped:
        gpu.main(["--output", str(tmp_path)])
    assert stopped.value.code not in (0, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_gpu_lane_from_end_to_end(tmp_path, capsys):
    gpu.lane({**CONFIG, "largest_parity": N}, tmp_path, torch_device="cpu")
    result = json.loads((tmp_path / "benchmark_gpu.json").read_text())
    assert [row["same"] for row in result["results"]["parity"]] == [1.0]
    assert {row["implementation"] for row in result["results"]["times"]} >= {
        "kernels",
        "fused kernels",
        "torch",
        "copy",
    }
    assert "prompts chosen by the GPU and by the CPU" in capsys.readouterr().out


def test_the_gpu_lane_does_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "figure", None)
    rows = [{**row, "fused": False} for row in made_up("dps", "observe + predict", N, kernels=2.0, copy=1.0)]
    gpu._write(CONFIG, {"times": rows, "streams": [], "parity": []}, tmp_path, "a GPU")
    assert "no figure: matplotlib is not installed" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark_gpu.json"]


def test_pools_that_do_not_fit_are_left_out_and_other_errors_are_raised(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(message)

    monkeypatch.setattr(run, "time_method", fail)
    message = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"
    with pytest.raises(SystemExit, match="no pool fits"):
        gpu.lane({**CONFIG, "largest_parity": 0}, tmp_path, torch_device="cpu")
    assert f"dps, {N} prompts: left out" in capsys.readouterr().out
    message = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        gpu.lane({**CONFIG, "largest_parity": 0}, tmp_path, torch_device="cpu")


def test_the_hand_off_from_end_to_end(tmp_path, capsys):
    handoff.main(["--sizes", "10", "1000", "--repeats", "2", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "handoff.json").read_text())
    found = [(row["direction"], row["elements"]) for row in result["rows"]]
    assert found == [(way, size) for size in (10, 1000) for way in ("torch to JAX", "JAX to torch")]
    assert all(row[way] > 0 for row in result["rows"] for way in handoff.WAYS)
    assert result["config"] == {"sizes": [10, 1000], "repeats": 2}
    assert "through the host" in capsys.readouterr().out
