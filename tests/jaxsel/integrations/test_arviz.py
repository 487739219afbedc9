"""Tests of the form of ArviZ: names and dimensions, PSIS-LOO against exact leave-one-out, log scores and plots."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsel
from jaxsel import make_history, metrics, reference_models
from jaxsel.evaluation.reference_models.model import priors
from jaxsel.evaluation.replay import earlier_visits
from jaxsel.replay import Replay

azs = pytest.importorskip("arviz_stats", reason="needs the extra `arviz`")

from jaxsel.integrations.arviz import from_posterior, from_replay, one_step_ahead  # noqa: E402

KNOWN = {"spread": 1.5, "drift": 0.1, "volatility": 0.6}
GRID = np.linspace(-9, 9, 361)
MEANS = np.linspace(-4, 4, 81)
VISITS = make_history(
    [0, 0, 0, 1, 1, 2, 3, 3, 3, 4], [0, 1, 2, 0, 3, 1, 0, 2, 3, 1], [1, 8, 4, 0, 3, 6, 2, 5, 0, 8], 8, num_prompts=5
)
KEYS = [f"task/{i}" for i in range(5)]


def by_hand(*, with_weights=True):
    """Return a posterior of two chains with three draws, without sampling."""
    rng = np.random.default_rng(0)
    names = ("mean", "spread", "drift", "volatility", *(["weight_scale"] if with_weights else []))
    draws = {name: jnp.asarray(np.abs(rng.normal(size=6)), jnp.float32) for name in names}
    draws["volatility"] = jnp.full(6, 0.5, jnp.float32)
    if with_weights:
        draws["weights"] = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    location = jnp.asarray(rng.normal(size=(6, 10)), jnp.float32)
    visits = reference_models.VisitPosterior(VISITS, location, jnp.ones_like(location))
    rates = jnp.asarray(rng.uniform(size=(6, 3)), jnp.float32)
    diagnostics = reference_models.Diagnostics(1, 1.0, 6.0)
    diverging = jnp.zeros((2, 3), bool).at[1, 2].set(True)
    ids = np.array([4, 0, 2])
    return reference_models.ReferencePosterior(rates, draws, diagnostics, ids, 5, diverging, visits)


def predicted(mean, variance, history=VISITS):
    """Return a replay whose predictions have these moments."""
    size = len(history.step)
    fields: Any = [np.broadcast_to(np.asarray(a, np.float32), (size,)) for a in (mean, variance, mean, 0, 0, 0)]
    prediction = jaxsel.Prediction(*fields)
    return Replay(prediction, *earlier_visits(history, history.prompt_ids, history.step), {})


def test_a_posterior_has_the_groups_and_dimensions_of_arviz():
    posterior = by_hand()
    tree = from_posterior(posterior, keys=KEYS)
    found = {group: {str(name): data.dims for name, data in tree[group].data_vars.items()} for group in tree.children}
    draws = ("chain", "draw")
    scalars = dict.fromkeys(("mean", "spread", "drift", "weight_scale"), draws)
    rest = {"success_rate": (*draws, "prompt"), "weights": (*draws, "feature")}
    per_visit = {"successes": (*draws, "visit")}
    assert found == {
        "posterior": scalars | rest,
        "prior": scalars,
        "sample_stats": {"diverging": draws},
        "log_likelihood": per_visit,
        "posterior_predictive": per_visit,
        "observed_data": {"successes": ("visit",)},
        "constant_data": dict.fromkeys(("step", "prompt_id", "group_size", "key"), ("visit",)),
    }
    assert dict(tree["posterior"].sizes) == {"chain": 2, "draw": 3, "prompt": 3, "feature": 4}
    assert tree["posterior"].prompt.values.tolist() == ["task/4", "task/0", "task/2"]
    assert tree["posterior"].attrs.items() >= {"step": 5, "fixed_volatility": 0.5}.items()
    np.testing.assert_array_equal(tree["posterior"].success_rate[1, 0], posterior.success_rate[3])
    np.testing.assert_array_equal(tree["log_likelihood"].successes[1, 2], posterior.visits.log_likelihood()[5])
    assert tree["sample_stats"].diverging.values.tolist() == [[False] * 3, [False, False, True]]
    np.testing.assert_array_equal(tree["observed_data"].successes, VISITS.successes)
    assert tree["constant_data"].key.values[:3].tolist() == ["task/0", "task/1", "task/2"]
    assert tree["posterior_predictive"].successes.dtype == np.int32


def test_without_keys_and_embeddings_prompts_are_numbers():
    tree = from_posterior(by_hand(with_weights=False))
    assert tree["posterior"].prompt.values.tolist() == [4, 0, 2]
    assert "weights" not in tree["posterior"]
    assert "key" not in tree["constant_data"]


def test_the_prior_is_the_prior_of_the_model():
    posterior = by_hand()
    many = posterior._replace(
        success_rate=jnp.tile(posterior.success_rate, (500, 1)),
        hyperparameters={name: jnp.tile(draws, (500, *[1] * (draws.ndim - 1)))
                         for name, draws in posterior.hyperparameters.items()},
        diverging=jnp.zeros((2, 1500), bool),
        visits=posterior.visits._replace(location=jnp.tile(posterior.visits.location, (500, 1)),
                                         scale=jnp.tile(posterior.visits.scale, (500, 1))),
    )  # fmt: skip
    prior = from_posterior(many)["prior"]
    expected = {"mean": stats.norm(0, 2), "spread": stats.halfnorm(0, 3), "drift": stats.norm(0, 0.3)}
    assert set(priors()) == {*expected, "volatility", "weight_scale"}
    for name, distribution in expected.items():
        assert stats.kstest(np.asarray(prior[name]).ravel(), distribution.cdf).pvalue > 1e-4, name


def probabilities(history, prompt, left_out=None):
    """Return P(all outcomes of the prompt | mean) for each of MEANS, from a filter on a grid of logits."""
    move = stats.norm.pdf(GRID[:, None], GRID[None] + KNOWN["drift"], KNOWN["volatility"]) * (GRID[1] - GRID[0])
    density = stats.norm.pdf(GRID[:, None], MEANS[None], KNOWN["spread"]) * (GRID[1] - GRID[0])
    for t in range(history.num_steps):
        for row in np.flatnonzero((history.step == t) & (history.prompt_ids == prompt)):
            if row != left_out:
                outcome = stats.binom.pmf(history.successes[row], history.group_size[row], 1 / (1 + np.exp(-GRID)))
                density = density * outcome[:, None]
        density = move @ density
    return density.sum(0)


def exact_leave_one_out(history):
    """Return log p(s_i | all other visits) of every visit, with an unknown mean."""
    prior = stats.norm.pdf(MEANS, 0, 2)
    full = {prompt: probabilities(history, prompt) for prompt in np.unique(history.prompt_ids)}
    together = prior * np.prod(list(full.values()), axis=0)
    scores = []
    for row, prompt in enumerate(history.prompt_ids):
        without = probabilities(history, prompt, left_out=row)
        scores.append(np.log(together.sum() / (together / full[prompt] * without).sum()))
    return np.array(scores)


@pytest.fixture(scope="module")
def sampled():
    return reference_models.sample(
        jax.random.key(0), VISITS, num_prompts=5, fixed=KNOWN, num_warmup=300, num_samples=1500, num_chains=2
    )


@pytest.mark.slow
def test_psis_loo_equals_exact_leave_one_out(sampled):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one visit has a Pareto k of about 0.7, from which on ArviZ warns
        found = azs.loo(from_posterior(sampled), pointwise=True)
    exact = exact_leave_one_out(VISITS)
    np.testing.assert_allclose(found.elpd_i, exact, atol=0.1)
    assert found.elpd == pytest.approx(exact.sum(), abs=0.3)
    assert float(found.pareto_k.max()) < 1


@pytest.mark.slow
def test_loo_pit_and_summary_work(sampled):
    tree = from_posterior(sampled, keys=KEYS)
    pit = azs.loo_pit(tree).successes
    assert pit.dims == ("visit",)
    assert ((pit >= 0) & (pit <= 1)).all()
    table = azs.summary(tree, var_names=["mean", "success_rate"])
    assert list(table.index) == ["mean", *(f"success_rate[{key}]" for key in KEYS)]


def test_a_replay_has_the_groups_and_dimensions_of_arviz():
    tree = from_replay(VISITS, predicted(0.5, 0.05), keys=KEYS, num_draws=7)
    found = {group: {str(name): data.dims for name, data in tree[group].data_vars.items()} for group in tree.children}
    known = ("step", "prompt_id", "group_size", "key", "visits", "waiting")
    assert found == {
        "posterior_predictive": {"successes": ("chain", "draw", "visit")},
        "observed_data": {"successes": ("visit",)},
        "constant_data": dict.fromkeys(known, ("visit",)),
    }
    assert tree["posterior_predictive"].successes.shape == (1, 7, 10)
    np.testing.assert_array_equal(tree["constant_data"].visits, [0, 0, 0, 1, 0, 1, 2, 1, 1, 2])
    again = from_replay(VISITS, predicted(0.5, 0.05), num_draws=7)
    np.testing.assert_array_equal(again["posterior_predictive"].successes, tree["posterior_predictive"].successes)


@pytest.mark.parametrize(
    "keys",
    [[("gsm8k", i) for i in range(5)], [0, "a", 2.5, None, "0"], list(range(10, 15)), KEYS],
    ids=["pairs", "mixed", "integers", "texts"],
)
def test_keys_stay_what_they_are(keys):
    found = from_replay(VISITS, predicted(0.5, 0.05), keys=keys, num_draws=1)["constant_data"].key
    assert found.dims == ("visit",)
    assert found.dtype == (object if keys[0] != 10 else np.int64)  # NumPy's texts are all as long as the longest
    assert found.values.tolist() == [keys[i] for i in VISITS.prompt_ids]
    assert from_posterior(by_hand(), keys=keys).posterior["prompt"].values.tolist() == [keys[4], keys[0], keys[2]]


def test_draws_of_a_replay_are_beta_binomial():
    mean, variance, draws = 0.3, 0.06, 20_000
    total = mean * (1 - mean) / variance - 1
    found = from_replay(VISITS, predicted(mean, variance), num_draws=draws)["posterior_predictive"].successes.values
    for s in (0, 3, 8):
        p = stats.betabinom.pmf(s, 8, mean * total, (1 - mean) * total)
        assert abs((found == s).mean() - p) < 5 * np.sqrt(p * (1 - p) / (draws * 10))


@pytest.mark.parametrize(
    ("mean", "variance", "possible"), [(0.0, 0.0, {0}), (1.0, 0.0, {8}), (0.5, 0.25, {0, 8}), (0.5, 0.3, {0, 8})]
)
def test_draws_of_certain_predictions(mean, variance, possible):
    tree = from_replay(VISITS, predicted(mean, variance), num_draws=100)
    assert set(np.unique(tree["posterior_predictive"].successes)) == possible


def test_one_step_ahead_has_the_log_scores_of_mopps():
    """Under Beta(1, 1) and without forgetting, the scores are Beta-Binomial with the counts of earlier visits."""
    seen = jaxsel.replay(VISITS, jaxsel.mopps(decay=1.0), num_prompts=5)
    found = one_step_ahead(VISITS, seen)
    expected, counts = [], np.ones((5, 2))
    for i, s, n in zip(VISITS.prompt_ids, VISITS.successes, VISITS.group_size, strict=True):
        expected.append(stats.betabinom.logpmf(s, n, *counts[i]))
        counts[i] += (s, n - s)
    np.testing.assert_allclose(found.elpd_i, expected, atol=1e-4)
    assert found.kind == "lfo_cv"
    assert found.n_data_points == 10
    assert found.elpd == pytest.approx(sum(expected), abs=1e-3)
    assert found.se == pytest.approx(10**0.5 * np.std(expected), abs=1e-3)
    score = metrics.beta_binomial_log_score(seen.prediction, VISITS.successes, VISITS.group_size)
    assert found.elpd / 10 == pytest.approx(float(score), abs=1e-4)
    assert "lfo" in str(found)


def test_methods_are_compared_in_pairs():
    rates = VISITS.successes / VISITS.group_size
    scores = {
        "better": one_step_ahead(VISITS, predicted(np.clip(rates, 0.1, 0.9), 0.02)),
        "worse": one_step_ahead(VISITS, predicted(0.5, 0.02)),
    }
    table = azs.compare(scores)
    assert list(table.index) == ["better", "worse"]
    difference = np.asarray(scores["better"].elpd_i - scores["worse"].elpd_i)
    assert table.dse["worse"] == pytest.approx(10**0.5 * difference.std(), rel=0.05)


def test_arviz_refuses_what_has_no_meaning():
    replayed = predicted(0.5, 0.05)
    with pytest.raises(TypeError, match=r"log.likelihood"):
        azs.loo(from_replay(VISITS, replayed))
    left_out = azs.loo(from_posterior(enough_draws()), pointwise=True)
    with pytest.raises(ValueError, match=r"[Cc]annot compare"):
        azs.compare({"model": left_out, "method": one_step_ahead(VISITS, replayed)})


def enough_draws():
    """Return a posterior by hand with a hundred draws per chain, the least that PSIS needs being five tail draws."""
    posterior, rng = by_hand(), np.random.default_rng(1)
    location = jnp.asarray(rng.normal(size=(200, 10)), jnp.float32)
    return posterior._replace(
        success_rate=jnp.asarray(rng.uniform(size=(200, 3)), jnp.float32),
        hyperparameters={"mean": jnp.asarray(rng.normal(size=200), jnp.float32)},
        diverging=jnp.zeros((2, 100), bool),
        visits=posterior.visits._replace(location=location, scale=jnp.ones_like(location)),
    )


@pytest.mark.usefixtures("unchecked_types")
def test_bad_input_is_refused():
    replayed = predicted(0.5, 0.05)
    swapped = VISITS._replace(prompt_ids=VISITS.prompt_ids[[0, 1, 2, 4, 3, 5, 6, 7, 8, 9]])  # as many visits
    for ask in (from_replay, one_step_ahead):
        with pytest.raises(ValueError, match=r"replay has other visits than history, so it is of another; replay this"):
            ask(swapped, replayed)
    with pytest.raises(ValueError, match="keys has 3 entries, but there is a prompt 3; give a key per prompt"):
        from_replay(VISITS, replayed, keys=KEYS[:3])
    with pytest.raises(ValueError, match="keys has 4 entries, but there is a prompt 4"):
        from_posterior(by_hand(), keys=KEYS[:4])
    with pytest.raises(ValueError, match="num_draws is 0"):
        from_replay(VISITS, replayed, num_draws=0)
    for ask in (from_replay, one_step_ahead):
        with pytest.raises(ValueError, match="replay has predictions for 10 visits, but history has 6"):
            ask(VISITS.before(3), replayed)


@pytest.fixture
def azp(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs Matplotlib")
    if not hasattr(
        pyplot.style, "core"
    ):  # Matplotlib 3.11 moved its names; the ArviZ of Python 3.11 looks for them here
        monkeypatch.setattr(pyplot.style, "core", pyplot.style, raising=False)
    yield pytest.importorskip("arviz_plots", reason="needs the extra `arviz`")
    pyplot.close("all")


@pytest.mark.parametrize(
    "name", ["plot_loo_pit", "plot_ppc_pit", "plot_ppc_rootogram", "plot_forest", "plot_trace_dist", "plot_rank"]
)
@pytest.mark.slow
def test_plots_of_a_posterior_are_drawn(azp, name):
    if name in ("plot_trace_dist", "plot_rank") and azp.__version__.startswith("0."):
        pytest.skip(
            "ArviZ 0.8, the newest for Python 3.11, does not draw this plot with the newest xarray and Matplotlib"
        )
    assert getattr(azp, name)(from_posterior(enough_draws(), keys=KEYS)).viz


@pytest.mark.slow
def test_pareto_k_is_drawn(azp):
    assert azp.plot_khat(azs.loo(from_posterior(enough_draws()), pointwise=True)).viz


@pytest.mark.parametrize("name", ["plot_ppc_pit", "plot_ppc_rootogram"])
@pytest.mark.slow
def test_plots_of_a_replay_are_drawn(azp, name):
    assert getattr(azp, name)(from_replay(VISITS, predicted(0.5, 0.05))).viz


def test_a_missing_package_names_its_extra(monkeypatch):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "arviz_base", None)
    monkeypatch.delitem(sys.modules, "jaxsel.integrations.arviz")
    with pytest.raises(ImportError, match=r'arviz_base.* is not installed; pip install "jaxsel\[arviz\]"'):
        importlib.import_module("jaxsel.integrations.arviz")
