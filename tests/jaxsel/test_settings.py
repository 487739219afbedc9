"""Under other settings of JAX, all methods make the same choices and predict in float32."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jaxtyping import Array

import jaxsel
from jaxsel import metrics
from tests.support.small_gps import EMBEDDINGS, TINY, N

ONE_ENCODER: dict[str, Any] = TINY | {"history_conditioned": False}
METHODS = {
    "uniform": jaxsel.uniform,
    "threshold": jaxsel.threshold,
    "mopps": jaxsel.mopps,
    "mopps by step": lambda: jaxsel.mopps(ageing="step"),
    "dps": lambda: jaxsel.dps(entropy_weight=0.1),
    # gps with one of its two encoders, because compiling them takes most of the time
    "gps": lambda: jaxsel.gps(EMBEDDINGS, **ONE_ENCODER),
    "state space": lambda: jaxsel.make_selector(
        jaxsel.state_space(EMBEDDINGS), jaxsel.expected_variance(), jaxsel.top_k()
    ),
    "frozen": lambda: jaxsel.make_selector(
        jaxsel.state_space(EMBEDDINGS, frozen=True), jaxsel.expected_signal(), jaxsel.top_k()
    ),
    "stratified": lambda: jaxsel.dps(rule=jaxsel.stratified(jaxsel.gumbel_top_k(), np.arange(N) % 3)),
    "exploring": lambda: jaxsel.exploring(
        jaxsel.mopps(acquisition=jaxsel.mixed_near_target(log=True)), share=0.3, after=1
    ),
    "paced": lambda: jaxsel.paced(jaxsel.kalman(), target=0.3),
    "arcus": lambda: jaxsel.arcus(target=0.3),
    "recalibrated": lambda: jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.hidden_markov()), jaxsel.mixed_probability(), jaxsel.top_k()
    ),
}


@contextlib.contextmanager
def strict_and_without_nans():
    """Apply two settings of JAX that only raise errors. The run under them is the one that others are compared with."""
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        yield


@contextlib.contextmanager
def strict_and_in_64_bits():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


def choices(method: str, setting) -> tuple[list[list[int]], jaxsel.Prediction]:
    with setting():
        live, chosen = jaxsel.PromptSelector(METHODS[method](), num_prompts=N, seed=0), []
        live.observe([], [], 8)
        live.metrics()
        for step in range(3):
            chosen.append(live.select(4).tolist())
            live.observe(chosen[-1], [step, 8, 0, 3], 8)
        return chosen, live.predict()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_choices_do_not_depend_on_settings(method):
    expected, prediction = choices(method, strict_and_without_nans)
    found, again = choices(method, strict_and_in_64_bits)
    assert found == expected
    for one, other in zip(prediction, again, strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-6)


LARGE = 70_000  # prompts, of which a choice takes other branches than of few
COLUMNS: Any = np.array([[1, 2, 1], [0, 8, 3], [8, 8, 8]])  # integers of 64 bits
COUNTS = jaxsel.Rollouts(*COLUMNS)
# methods with a setting of every kind, given the types of the settings
WITH_NUMBERS: dict[str, Callable[[Any, Any], jaxsel.Selector]] = {
    "thompson": lambda f, i: jaxsel.mopps(target=f(0.4), decay=f(0.6), group_size=i(20)),
    "ageing": lambda f, i: jaxsel.uniform(decay=f(0.6), prior_alpha=f(1.2), group_size=i(8)),
    "bounds": lambda f, i: jaxsel.threshold(lower=f(0.2), upper=f(0.8)),
    "entropy": lambda f, i: jaxsel.dps(decay=f(0.6), entropy_weight=f(0.1), prior_alpha=f(2), group_size=i(8)),
    "temperature": lambda f, i: jaxsel.adaptive(group_size=i(8), temperature=f(0.3)),
    "target": lambda f, i: jaxsel.mopps(acquisition=jaxsel.target_success_rate(f(0.4))),
    "near target": lambda f, i: jaxsel.mopps(acquisition=jaxsel.mixed_near_target(f(0.4))),
    "signal": lambda f, i: jaxsel.mopps(acquisition=jaxsel.expected_signal(i(8), log=True)),
    "exploring": lambda f, i: jaxsel.exploring(jaxsel.mopps(), share=f(0.3), after=i(2)),
    "paced": lambda f, i: jaxsel.paced(
        jaxsel.kalman(step_variance=f(0.003), group_size=i(8)),
        target=f(0.3),
        temperature=f(0.3),
        tolerance=f(0.03),
        max_step=f(0.01),
    ),
    "recalibrated": lambda f, i: jaxsel.make_selector(
        jaxsel.recalibrated(jaxsel.hidden_markov(decay=f(0.6)), window=i(64)),
        jaxsel.mixed_probability(),
        jaxsel.stratified(jaxsel.top_k(), np.arange(LARGE) % 2, shares={0: f(0.2), 1: f(0.8)}),
    ),
    "diverse": lambda f, i: jaxsel.adaptive(
        EMBEDDINGS, screened=f(0.3), rule=jaxsel.diverse(weight=f(0.3), anchor_batches=i(0), shortlist=i(2))
    ),
    "gps": lambda f, i: jaxsel.gps(
        EMBEDDINGS,
        target=f(0.4),
        diversity_weight=f(0.2),
        anchor_batches=i(2),
        decay=f(0.6),
        learning_rate=f(1e-3),
        shrinkage=f(0.9),
        **{name: i(value) if isinstance(value, int) else value for name, value in TINY.items()},
        history_conditioned=False,
    ),
}


def step_of(method: jaxsel.Selector, num_prompts: int, key) -> Any:
    state = method.init(key, num_prompts)
    chosen = method.select(key, state, 4)
    after = method.update(key, method.update(key, state, COUNTS), COUNTS._replace(prompt_ids=chosen.prompt_ids[:3]))
    return state, after, chosen, method.predict(key, after, None)


def check_types(method: str, float_type, int_type) -> None:
    made, num_prompts = WITH_NUMBERS[method], N if method in ("diverse", "gps") else LARGE
    with strict_and_in_64_bits():
        selector = made(float_type, int_type)
        assert selector.spec == made(float, int).spec
        # the trace of a step shows every type, and compiles nothing
        traced = jax.eval_shape(functools.partial(step_of, selector, num_prompts), jax.random.key(0))
    assert not [leaf for leaf in jax.tree.leaves(traced) if leaf.dtype in (np.float64, np.int64)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", WITH_NUMBERS)
def test_settings_may_be_numpy_floats(method):
    check_types(method, np.float64, int)


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("unchecked_types")  # beartype admits NumPy's floats, and not its integers
@pytest.mark.parametrize("method", WITH_NUMBERS)
def test_settings_may_be_numpy_integers(method):
    check_types(method, np.float64, np.int64)


@pytest.mark.usefixtures("unchecked_types")
def test_settings_of_metrics_may_be_numpy_integers():
    for call in all_metrics(np.float32, np.int32, np.int64).values():
        jax.eval_shape(call)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rule", [jaxsel.top_k(), jaxsel.gumbel_top_k(0.3), jaxsel.within_bounds(0.1, 0.5)])
def test_acquisitions_may_return_64_bits(rule):
    own = jaxsel.Acquisition({"name": "own"}, lambda prediction: prediction.success_rate.astype(np.float64))
    with strict_and_in_64_bits():
        selector = jaxsel.mopps(acquisition=own, rule=rule)
        select = functools.partial(selector.select, state=selector.init(jax.random.key(0), LARGE), batch_size=4)
        assert jax.eval_shape(select, jax.random.key(0)).prompt_ids.dtype == np.int32


class Whole(NamedTuple):
    """A state that every device holds as a whole."""

    rate: Array

    def partition_specs(self) -> Any:
        return Whole(PartitionSpec())  # pyright: ignore[reportArgumentType]


def test_a_state_without_an_axis_is_sharded_in_64_bits():
    def predict(key, state, prompt_ids, first_id=0):
        return jaxsel.Prediction(*[jnp.full(prompt_ids.shape, state.rate)] * 6)

    functions: Any = lambda key, _: Whole(jnp.float32(0.5)), predict, lambda key, state, _: state
    method = jaxsel.make_selector(jaxsel.Predictor({}, *functions), jaxsel.thompson(np.float64(0.4)), jaxsel.top_k())
    with strict_and_in_64_bits():
        select = jaxsel.shard(method, jaxsel.prompts_mesh(), num_prompts=N).select
        chosen = jax.eval_shape(lambda key: select(key, Whole(jnp.float32(0.5)), 4), jax.random.key(0))
    assert chosen.prompt_ids.dtype == np.int32


def all_metrics(float_type, int_type, i: Any = int) -> dict[str, Callable[[], Any]]:
    """Return a call of every metric, on columns of these types, and with integers of the type `i` as settings."""
    rows, rng, key = 30, np.random.default_rng(0), jax.random.key(0)
    columns: Any = rng.random((6, rows)).astype(float_type)
    truth, rate = columns[:2]
    predicted = jaxsel.Prediction(rate, rate * (1 - rate) / 9, *columns[2:])
    s, n = np.full(rows, 3, int_type), np.full(rows, 8, int_type)
    on_counts = {
        "mean_at_k": metrics.mean_at_k,
        "pass_at_k": functools.partial(metrics.pass_at_k, k=i(3)),
        "mixed_share": metrics.mixed_share,
        "pearson_ceiling": metrics.pearson_ceiling,
    }
    on_predictions = {
        name: getattr(metrics, name)
        for name in (
            "success_coverage",
            "beta_binomial_log_score",
            "mixed_shares",
            "confusion_matrix",
            "solve_state_accuracy",
            "solve_state_log_score",
            "solve_state_f1",
        )
    }
    calls: dict[str, Callable[[], Any]] = {
        "reliability": lambda: metrics.reliability(rate, s > 2, num_bins=i(9), binning="mass"),
        "expected_calibration_error": lambda: metrics.expected_calibration_error(rate, s),
        "brier_score": lambda: metrics.brier_score(rate, s > 2),
        "randomised_pit": lambda: metrics.randomised_pit(key, predicted, s, n),
        "uniformity": lambda: metrics.uniformity(rate, num_bins=i(9)),
        "rate_coverage": lambda: metrics.rate_coverage(predicted, truth, list(np.array([0.5, 0.9]))),
        "spearman": lambda: metrics.spearman(rate, truth),
        "spearman_ceiling": lambda: metrics.spearman_ceiling(key, s, n, num_draws=i(9)),
        "mean_absolute_error": lambda: metrics.mean_absolute_error(rate, truth),
        "binomial_log_score": lambda: metrics.binomial_log_score(rate, s, n),
        "slices": lambda: metrics.slices(s, n, np.array(60), visit_edges=(i(1), i(3))),
        "bootstrap": lambda: metrics.bootstrap(key, metrics.mean_at_k, s, n, num_resamples=i(3)),
    }
    for name, metric in on_counts.items():
        calls[name] = functools.partial(metrics.estimate, metric, s, n, clusters=np.arange(rows) // 3)
    for name, metric in on_predictions.items():
        calls[name] = functools.partial(metrics.estimate, metric, predicted, s, n)
    return calls


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("types", [(np.float32, np.int32), (np.float64, np.int64)], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("in_64_bits", [False, True])
def test_metrics_are_of_32_bits(types, in_64_bits):
    with jax.enable_x64(in_64_bits), jax.numpy_dtype_promotion("strict"):
        for name, call in all_metrics(*types).items():
            kinds = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(call))}
            assert kinds <= {np.dtype(np.float32), np.dtype(bool)}, name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("in_64_bits", [False, True])
def test_a_simulation_is_of_32_bits(in_64_bits):
    spread = np.float64(2.0)

    def run(key):
        learner = jaxsel.simulate.make_learner(key, 40, difficulty_mean=spread, difficulty_spread=spread, signal=spread)
        given = jaxsel.simulate.embed(key, learner, num_features=3, noise=spread)
        selector = jaxsel.simulate.oracle(learner, group_size=8)
        return given, jaxsel.simulate.simulate(key, selector, learner, num_steps=2, batch_size=4, candidate_ratio=2)

    with jax.enable_x64(in_64_bits), jax.numpy_dtype_promotion("strict"):
        leaves = jax.tree.leaves(jax.eval_shape(run, jax.random.key(0)))
    assert all(leaf.dtype.itemsize == 4 for leaf in leaves)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", [jaxsel.beta_bernoulli, jaxsel.hidden_markov])
def test_a_fit_does_not_depend_on_settings(family):
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.permutation(20)[:5] for _ in range(6)])
    history = jaxsel.make_history(np.repeat(np.arange(6), 5), ids, rng.integers(0, 9, 30), 8, num_prompts=20)
    expected = jaxsel.fit(history, family, num_prompts=20, prior_width=1.0, max_steps=3)
    with strict_and_in_64_bits():
        found = jaxsel.fit(history, family, num_prompts=20, prior_width=np.float64(1), max_steps=3)
    assert found.parameters == expected.parameters
    assert found.standard_errors == expected.standard_errors
