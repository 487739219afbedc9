"""Tests of `reference_models`, which samples the posterior of a state-space model of success rates by MCMC.

The posterior is compared with filters on a grid of logits, and checked on data that the model itself generates.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import stats

import jaxsel
from jaxsel import make_history, metrics, reference_models
from jaxsel.evaluation.reference_models.model import tabulated

pytestmark = pytest.mark.slow

KNOWN = {"mean": -0.5, "spread": 1.5, "drift": 0.1, "volatility": 0.6}
GRID = np.linspace(-12, 12, 1201)


def sampled(history, num_prompts, seed=0, **options):
    settings: dict[str, Any] = {"num_warmup": 200, "num_samples": 1000, "num_chains": 2} | options
    return reference_models.sample(jax.random.key(seed), history, num_prompts=num_prompts, **settings)


def walks(seed, num_prompts, steps, *, mean, spread, drift, volatility):
    """Return success rates [steps + 1, N] that move at every step; the model has latents at observed steps only."""
    rng = np.random.default_rng(seed)
    x = [mean + spread * rng.normal(size=num_prompts)]
    for _ in range(steps):
        x.append(x[-1] + drift + volatility * rng.normal(size=num_prompts))
    return 1 / (1 + np.exp(-np.array(x)))


def visited_at_random(seed, rates, batch):
    """Return a history of random batches that never contain the last prompt."""
    rng = np.random.default_rng([seed, 1])
    steps, num_prompts = len(rates) - 1, rates.shape[1]
    ids = np.stack([rng.choice(num_prompts - 1, batch, replace=False) for _ in range(steps)])
    step = np.repeat(np.arange(steps), batch)
    successes = rng.binomial(8, rates[step, ids.ravel()])
    return make_history(step, ids.ravel(), successes, 8, num_prompts=num_prompts)


def filtered_on_a_grid(history, prompt, step, *, mean, spread, drift, volatility):
    """Return the distribution of a prompt's logit before the step, from a hidden Markov model on the grid."""
    density = stats.norm.pdf(GRID, mean, spread)
    move = stats.norm.pdf(GRID[:, None], GRID[None] + drift, volatility)
    for t in range(step):
        here = (history.step == t) & (history.prompt_ids == prompt)
        for s, n in zip(history.successes[here], history.group_size[here], strict=True):
            density = density * stats.binom.pmf(s, n, 1 / (1 + np.exp(-GRID)))
        density = move @ density
    return density / density.sum()


def moments(density):
    p = 1 / (1 + np.exp(-GRID))
    mean = density @ p
    return mean, np.sqrt(density @ (p - mean) ** 2), density @ (1 - p) ** 8, density @ p**8


RATES = walks(0, 20, 6, **KNOWN)
HISTORY = visited_at_random(0, RATES, 8)


@pytest.fixture(scope="module")
def given_hyperparameters():
    return sampled(HISTORY, 20, fixed=KNOWN)


@pytest.mark.parametrize("prompt", [0, 3, 7, 11, 19])
def test_the_filtering_posterior_equals_a_filter_on_a_grid(given_hyperparameters, prompt):
    """Prompt 19 is not in the history."""
    density = filtered_on_a_grid(HISTORY, prompt, 6, **KNOWN)
    mean, deviation, unsolved, solved = moments(density)
    found = given_hyperparameters.prediction(8)
    assert found.success_rate[prompt] == pytest.approx(mean, abs=0.02)
    assert found.variance[prompt] ** 0.5 == pytest.approx(deviation, rel=0.1)
    assert found.unsolved[prompt] == pytest.approx(unsolved, abs=0.03)
    assert found.solved[prompt] == pytest.approx(solved, abs=0.03)
    low, high = given_hyperparameters.intervals([0.8])
    logit = np.interp([0.1, 0.9], density.cumsum(), GRID)
    np.testing.assert_allclose([low[0, prompt], high[0, prompt]], 1 / (1 + np.exp(-logit)), atol=0.04)


def test_without_volatility_all_visits_share_one_rate():
    still = KNOWN | {"drift": 0.0, "volatility": 1e-4}
    history = make_history([0, 2, 9], [1, 1, 1], [2, 5, 3], 8, num_prompts=3)
    density = stats.norm.pdf(GRID, -0.5, 1.5) * stats.binom.pmf(10, 24, 1 / (1 + np.exp(-GRID)))
    mean, deviation, *_ = moments(density / density.sum())
    found = sampled(history, 3, fixed=still, prompt_ids=[1]).prediction(8)
    assert found.success_rate[0] == pytest.approx(mean, abs=0.01)
    assert found.variance[0] ** 0.5 == pytest.approx(deviation, rel=0.1)


def test_an_earlier_step_does_not_see_later_visits(given_hyperparameters):
    early = sampled(HISTORY, 20, fixed=KNOWN, step=3).prediction(8)
    late = given_hyperparameters.prediction(8)
    for prompt in (0, 3, 7):
        mean, *_ = moments(filtered_on_a_grid(HISTORY, prompt, 3, **KNOWN))
        assert early.success_rate[prompt] == pytest.approx(mean, abs=0.02)
    assert np.abs(early.success_rate - late.success_rate).max() > 0.1


def test_a_history_without_a_visit_leaves_the_prior():
    empty = make_history([], [], [], 8, num_prompts=4)
    found = sampled(empty, 4, embeddings=np.eye(4, 2, dtype=np.float32), num_samples=2000)
    assert found.success_rate.shape == (4000, 4)
    for name, prior in {"mean": stats.norm(0, 2), "spread": stats.halfnorm(0, 3), "drift": stats.norm(0, 0.3)}.items():
        assert stats.kstest(np.asarray(found.hyperparameters[name]), prior.cdf).statistic < 0.08, name


@pytest.fixture(scope="module")
def inferred():
    """Return embeddings, a history and a posterior of 40 prompts, with unknown hyperparameters.

    The embeddings explain 70% of the variance of the logits. The last 10 prompts are not in the history.
    """
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(40, 3)).astype(np.float32)
    x = KNOWN["mean"] + 1.5 * embeddings[:, 0] + rng.normal(size=40)
    rates = 1 / (1 + np.exp(-np.stack([x] * 9)))
    ids = np.concatenate([rng.choice(30, 12, replace=False) for _ in range(8)])
    step = np.repeat(np.arange(8), 12)
    history = make_history(step, ids, rng.binomial(8, rates[step, ids]), 8, num_prompts=40)
    return embeddings, history, sampled(history, 40, embeddings=embeddings)


def test_shapes_and_diagnostics(inferred):
    *_, posterior = inferred
    assert posterior.success_rate.shape == (2000, 40)
    shapes = {name: draws.shape for name, draws in posterior.hyperparameters.items()}
    scalars = dict.fromkeys(("mean", "spread", "drift", "volatility", "weight_scale"), (2000,))
    assert shapes == scalars | {"weights": (2000, 3)}
    assert posterior.diagnostics.divergences == 0
    assert 0.99 < posterior.diagnostics.largest_r_hat < 1.05
    assert posterior.diagnostics.smallest_effective_sample_size > 50
    prediction = posterior.prediction(4)
    assert all(field.shape == (40,) for field in prediction)
    np.testing.assert_allclose(prediction.unsolved + prediction.mixed + prediction.solved, 1, atol=1e-5)
    low, high = posterior.intervals([0.5, 0.9])
    assert low.shape == (2, 40)
    assert (low[1] < low[0]).all()
    assert (high[0] < high[1]).all()
    assert float(metrics.rate_coverage(prediction, prediction.success_rate, [0.5])[0]) > 0.9


def test_unvisited_prompts_are_predicted_from_their_embeddings(inferred):
    embeddings, _, posterior = inferred
    mean = np.asarray(posterior.prediction(8).success_rate)
    assert np.corrcoef(mean[30:], embeddings[30:, 0])[0, 1] > 0.9
    assert posterior.hyperparameters["weights"][:, 0].mean() == pytest.approx(1.5, abs=0.6)
    variance = np.asarray(posterior.prediction(8).variance)
    assert variance[:30].mean() < variance[30:].mean()


def test_the_order_of_rows_and_of_prompts_does_not_matter(inferred):
    embeddings, history, posterior = inferred
    order = np.random.default_rng(0).permutation(len(history.step))
    shuffled = make_history(*(column[order] for column in history), num_prompts=40)
    # `sample` standardises embeddings, so the factor 4 must not matter
    found = sampled(shuffled, 40, embeddings=4 * embeddings, prompt_ids=[35, 2])
    np.testing.assert_allclose(found.success_rate, posterior.success_rate[:, np.array([35, 2])], atol=1e-5)


@pytest.mark.slow
def test_a_wrong_volatility_shows_in_pit_and_coverage():
    """If the model is right, the PIT (probability integral transform) of the true rates is uniform.

    For 120 prompts, chance alone gives a Kolmogorov distance from uniformity above 0.13 in 3% of cases only.
    """
    rates = walks(5, 121, 6, **KNOWN)
    history = visited_at_random(5, rates, 40)
    right, wrong = (
        sampled(history, 121, fixed=KNOWN | {"volatility": volatility}, prompt_ids=range(120), num_samples=400)
        for volatility in (KNOWN["volatility"], KNOWN["volatility"] / 20)
    )
    truth = rates[-1, :120].astype(np.float32)
    assert metrics.uniformity(right.pit(truth)).distance < 0.13
    assert metrics.uniformity(wrong.pit(truth)).distance > 0.13
    covered = [float(((low[0] <= truth) & (truth <= high[0])).mean()) for low, high in
               (posterior.intervals([0.9]) for posterior in (right, wrong))]  # fmt: skip
    assert abs(covered[0] - 0.9) < 5 * np.sqrt(0.09 / 120)
    assert covered[1] < 0.9 - 5 * np.sqrt(0.09 / 120)


def test_the_log_density_equals_the_formulas():
    """Compare with SciPy: three groups of two prompts, one embedding feature, and latent variables set by hand."""
    visits = tabulated(make_history([1, 4, 0], [0, 0, 2], [3, 8, 0], 8, num_prompts=3))[1]
    features = jnp.array([[1.0], [-2.0]])
    values = {"mean": 0.3, "spread": 1.2, "drift": 0.1, "volatility": 0.5, "weight_scale": 0.7}
    values |= {"raw_weights": np.array([0.4], np.float32), "eps": np.array([0.5, -1.0, 2.0], np.float32)}
    eps = dict(zip(zip(visits.row.tolist(), visits.column.tolist(), strict=True), (0.5, -1.0, 2.0), strict=True))
    first = 0.3 + 0.28 + 0.1 + np.sqrt(1.44 + 0.25) * eps[0, 0]
    second = first + 0.3 + 0.5 * np.sqrt(3) * eps[0, 1]
    other = 0.3 - 0.56 + 1.2 * eps[1, 0]
    expected = sum(s * np.log(1 / (1 + np.exp(-x))) + (8 - s) * np.log(1 / (1 + np.exp(x)))
                   for s, x in ((3, first), (8, second), (0, other)))  # fmt: skip
    expected += stats.norm.logpdf(0.3, 0, 2) + stats.halfnorm.logpdf(1.2, 0, 3) + stats.norm.logpdf(0.1, 0, 0.3)
    expected += stats.halfnorm.logpdf(0.5, 0, 0.5) + stats.halfnorm.logpdf(0.7, 0, 1)
    expected += stats.norm.logpdf([0.4, 0.5, -1.0, 2.0]).sum()
    model = reference_models.state_space_model
    found = jax.jit(lambda values: log_density(model, (visits, features), {}, values)[0])(values)
    assert float(found) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"num_prompts": 5}, r"prompt_ids\[\d+\] is \d+; give integers from 0 to 4"),
        ({"prompt_ids": [3, 20]}, r"prompt_ids\[1\] is 20; give integers from 0 to 19"),
        ({"step": -1}, "step is -1"),
        ({"step": 1.5}, "step is 1.5"),
        ({"embeddings": np.ones((3, 2), np.float32)}, "embeddings has 3 rows for 20 prompts"),
        ({"embeddings": np.full((20, 2), np.nan, np.float32)}, r"embeddings\[0\] has a norm that is not finite"),
        ({"fixed": {"decay": 0.5}}, "fixed is 'decay'; give one of 'mean', 'spread', 'drift', 'volatility'"),
        ({"fixed": {"volatility": 0.0}}, "volatility is 0.0; give a finite number above 0"),
        ({"fixed": {"mean": np.inf}}, "mean is inf; give a finite number"),
        ({"num_chains": 0}, "num_chains is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"num_warmup": 0}, "num_warmup is 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        reference_models.sample(jax.random.key(0), HISTORY, **{"num_prompts": 20} | options)


def test_bad_questions_are_refused(given_hyperparameters):
    with pytest.raises(ValueError, match="group_size is 0"):
        given_hyperparameters.prediction(0)
    with pytest.raises(ValueError, match=r"levels is 1\.5"):
        given_hyperparameters.intervals([1.5])


def test_the_package_holds_reference_models():
    assert jaxsel.reference_models is reference_models
