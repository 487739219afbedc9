"""Tests of `fit`, which fits a predictor's parameters to a recorded history of groups of rollouts.

The fits are compared with independent computations: closed-form likelihoods in SciPy, and filters written as loops.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from scipy.special import betaln, gammaln

import jaxsel
from jaxsel import metrics
from jaxsel.evaluation.fitting import fit as fitting
from jaxsel.predictors import hidden_markov
from tests.support.reference import DpsModel, MoppsModel, solve_state

pytestmark = pytest.mark.slow

N = 60


def recorded(seed: int, *, steps: int = 30, batch: int = 12, concentration: float = 2.0, drift: float = 0.0):
    """Return a history of prompts 0 to 39 of 60, in random batches. With `drift`, the rates change at every step."""
    rng = np.random.default_rng(seed)
    logit = np.log(rng.gamma(concentration * 0.3, size=40)) - np.log(rng.gamma(concentration * 0.7, size=40))
    rows = []
    for step in range(steps):
        logit = logit + drift * rng.normal(size=40)
        ids = rng.permutation(40)[: rng.integers(1, batch + 1)]
        sizes = rng.choice([4, 8], len(ids))
        rows += [np.stack([np.full(len(ids), step), ids, rng.binomial(sizes, 1 / (1 + np.exp(-logit[ids]))), sizes])]
    return jaxsel.make_history(*np.concatenate(rows, 1), num_prompts=N)


def marginal_log_likelihood(history, alpha, beta) -> np.ndarray:
    """Return, for every prompt in the history, the log likelihood of all its counts under one Beta prior.

    It is the sum of the log scores of the one-step-ahead predictions of a predictor that forgets nothing.
    """
    ids = np.unique(history.prompt_ids)
    s, n = (
        np.array([column[history.prompt_ids == i].sum() for i in ids])
        for column in (history.successes, history.group_size)
    )
    orders = gammaln(history.group_size + 1) - gammaln(history.successes + 1)
    orders = orders - gammaln(history.group_size - history.successes + 1)
    ways = np.array([orders[history.prompt_ids == i].sum() for i in ids])
    return ways + betaln(alpha + s, beta + n - s) - betaln(alpha, beta)


def derivatives(function, x, step=1e-4):
    """Return the derivatives of `function` at x as central differences, in float64."""
    return np.stack([(function(x + d) - function(x - d)) / (2 * step) for d in step * np.eye(len(x))], -1)


def test_without_forgetting_the_fit_maximises_the_beta_binomial_likelihood():
    history = recorded(0)
    fitted = jaxsel.fit(
        history, jaxsel.beta_bernoulli, num_prompts=N, decay=1.0, prior_width=1e3
    )  # fmt: skip

    def per_prompt(free):
        return marginal_log_likelihood(history, *np.exp(free))

    found = scipy.optimize.minimize(lambda free: -per_prompt(free).sum(), [0.0, 0.0], method="BFGS")
    np.testing.assert_allclose([*fitted.parameters.values()], np.exp(found.x), rtol=5e-3)
    np.testing.assert_allclose(fitted.log_score * fitted.num_rows, -found.fun, rtol=1e-5)
    np.testing.assert_allclose(fitted.by_hand * fitted.num_rows, per_prompt(np.zeros(2)).sum(), rtol=1e-5)
    assert fitted.converged

    gradients = derivatives(per_prompt, found.x)
    bread = np.linalg.inv(-derivatives(lambda x: derivatives(per_prompt, x).sum(0), found.x))
    covariance = bread @ gradients.T @ gradients @ bread
    errors = np.exp(found.x) * np.sqrt(np.diag(covariance))
    np.testing.assert_allclose([*fitted.standard_errors.values()], errors, rtol=0.02)


@functools.cache
def fitted_beta(ageing: str):
    """Return a history whose success rates change at every step, and the fit of `beta_bernoulli` to it."""
    history = recorded(1, drift=0.3)
    return history, jaxsel.fit(history, jaxsel.beta_bernoulli, num_prompts=N, ageing=ageing, prior_width=1e3)


@pytest.mark.parametrize("ageing", ["visit", "step"])
def test_fitted_decay_and_prior_of_beta_posteriors_maximise_the_score(ageing):
    history, fitted = fitted_beta(ageing)

    def score(values) -> float:
        return beta_score(history, ageing=ageing, **dict(zip(fitted.parameters, values, strict=True)))

    best = np.array([*fitted.parameters.values()])
    np.testing.assert_allclose(fitted.log_score, score(best), rtol=1e-5)
    np.testing.assert_allclose(fitted.by_hand, score([0.5, 1.0, 1.0]), rtol=1e-5)
    assert_largest(score, best)
    assert 0.3 < fitted.parameters["decay"] < 0.99


def beta_score(history, **parameters) -> float:
    model, total = MoppsModel(N, **parameters), 0.0
    for ids, s, n in history.batches():
        alpha, beta = (column[ids] for column in model.posterior())
        total += scipy.stats.betabinom.logpmf(s, n, alpha, beta).sum()
        model.observe(ids, s, n)
    return total / len(history.step)


def state_score(history, **parameters) -> float:
    model, total = DpsModel(N, **parameters), 0.0
    for ids, s, n in history.batches():
        predicted = model.predicted()
        total += sum(np.log(predicted[solve_state(*counts), i]) for i, *counts in zip(ids, s, n, strict=True))
        model.observe(ids, s, n)
    return total / len(history.step)


def assert_largest(score, best: np.ndarray) -> None:
    """Check that changing one parameter by a tenth gives no higher score."""
    top = score(best)
    for factor in (0.9, 1.1):
        for i in range(len(best)):
            other = best.copy()
            other[i] = min(other[i] * factor, 1 - (1 - other[i]) * factor) if i == 0 else other[i] * factor
            assert score(other) < top + 1e-5, (i, factor)


def test_fitted_parameters_of_the_hidden_markov_model_maximise_the_score():
    history = recorded(2, steps=20, drift=0.3, concentration=0.5)
    fitted = jaxsel.fit(history, jaxsel.hidden_markov, num_prompts=N, prior_width=1e3)
    found = fitted.parameters
    assert np.sum(found["initial_belief"]) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(fitted.by_hand, state_score(history, decay=0.7), rtol=1e-5)
    np.testing.assert_allclose(fitted.log_score, state_score(history, **found), rtol=1e-4)
    assert fitted.log_score > fitted.by_hand

    def score(values) -> float:
        decay, belief, counts = values[0], values[1:4], values[4:].reshape(3, 3)
        return state_score(history, decay=decay, initial_belief=belief / belief.sum(), prior_counts=counts)

    assert_largest(score, np.concatenate([[found["decay"]], found["initial_belief"], np.ravel(found["prior_counts"])]))


def test_the_returned_predictor_has_the_reported_score():
    """A replay of the history gives the score that the fit reports."""
    history, fitted = fitted_beta("visit")
    selector = jaxsel.make_selector(fitted.predictor, jaxsel.thompson(), jaxsel.top_k())
    for method in (selector, jaxsel.mopps(**fitted.parameters)):
        prediction = jaxsel.replay(history, method, num_prompts=N).prediction
        score = metrics.beta_binomial_log_score(prediction, history.successes, history.group_size)
        np.testing.assert_allclose(score, fitted.log_score, rtol=1e-5)


def test_never_visited_prompts_and_their_prior_do_not_change_the_fit():
    history = recorded(4)
    prior = np.linspace(0.5, 2, N)
    one = jaxsel.fit(history, jaxsel.beta_bernoulli, num_prompts=N, parameters=["decay"], prior_alpha=prior)
    large = np.concatenate([prior, np.ones(1000)])
    other = jaxsel.fit(history, jaxsel.beta_bernoulli, num_prompts=N + 1000, parameters=["decay"], prior_alpha=large)
    assert one.parameters == other.parameters
    assert one.by_hand == other.by_hand
    assert other.predictor.init(jax.random.key(0), N + 1000).prior_alpha.shape == (N + 1000,)


def test_parameters_without_evidence_stay_near_their_start_with_a_wide_error():
    """No group is unsolved (without a success), so the history tells nothing about transitions from UNSOLVED."""
    ids = np.tile(np.arange(20), 10)
    successes = np.random.default_rng(0).integers(1, 9, len(ids))
    history = jaxsel.make_history(np.repeat(np.arange(10), 20), ids, successes, 8, num_prompts=20)
    fitted = jaxsel.fit(history, jaxsel.hidden_markov, num_prompts=20, start={"prior_counts": "stability"})
    counts, errors = (np.array(of["prior_counts"]) for of in (fitted.parameters, fitted.standard_errors))
    assert np.isfinite(counts).all()
    assert np.isfinite(errors).all()
    # relative errors of the counts from UNSOLVED; the fit's prior of log(count) has a standard deviation of 3
    assert (errors / counts)[0].min() > 1
    assert counts[1, 0] < 0.1  # from MIXED to UNSOLVED, which never happens in the history


def test_a_custom_family_with_a_custom_parameter_is_fitted():
    def constant(*, rate) -> Any:
        def predict(key, state, prompt_ids, first_id=0):
            p = jnp.broadcast_to(rate, prompt_ids.shape)
            return jaxsel.Prediction(p, jnp.zeros_like(p), p, (1 - p) ** 8, 1 - (1 - p) ** 8 - p**8, p**8)

        functions: Any = (lambda key, size: jnp.zeros(size), predict, lambda key, state, rollouts: state)
        return jaxsel.Predictor({}, *functions)

    history = recorded(5)
    fitted = jaxsel.fit(
        history, constant, num_prompts=N, parameters=["rate"], domains={"rate": fitting.UNIT}, start={"rate": 0.5},
        prior_width=1e3,
    )  # fmt: skip
    assert fitted.parameters["rate"] == pytest.approx(history.successes.sum() / history.group_size.sum(), abs=1e-3)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        (jaxsel.state_space, "prior_alpha", {}),
        (jaxsel.kalman, "step_variance", {"domains": {"step_variance": fitting.POSITIVE}}),
    ],
)
def test_a_family_that_takes_no_traced_values_is_named(family, name, options):
    message = f"family is {family.__name__}, which takes no traced values of {name}, .*; fit beta_bernoulli or hidden_"
    with pytest.raises(ValueError, match=message):
        jaxsel.fit(recorded(0), family, num_prompts=N, parameters=[name], **options)


def test_a_start_at_the_end_of_its_interval_moves():
    fitted = jaxsel.fit(
        recorded(6, drift=0.5), jaxsel.beta_bernoulli, num_prompts=N, parameters=["decay"], start={"decay": 1.0}
    )
    assert fitted.parameters["decay"] < 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": ["ageing"]}, "parameters holds 'ageing'; give names out of decay"),
        ({"parameters": []}, "parameters is empty"),
        ({"parameters": ["decay"], "decay": 0.5}, "decay is 0.5, but parameters holds it too; give it in start"),
        ({"start": {"memory": 1.0}}, "start holds 'memory', which is not fitted"),
        ({"start": {"decay": 1.5}}, "decay is 1.5; give a number from 0 to 1"),
        ({"start": {"prior_alpha": -1.0}}, "prior_alpha is -1.0; give numbers above 0 and up to 1e30"),
        ({"parameters": ["decay", "decay"]}, "parameters holds decay, decay; give every name once"),
        ({"num_prompts": 30}, "num_prompts is 30, but the history visits prompt 39"),
        ({"score": "rates"}, "score is 'rates'; give one of 'counts', 'states'"),
        ({"prior_width": 0.0}, "prior_width is 0.0"),
        ({"decay": 2.0, "parameters": ["prior_alpha"]}, "decay is 2.0; give a number from 0 to 1"),
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"start": ["decay"]}, r"start is \['decay'\]; give values by name"),
        ({"domains": {"decay": 1}}, r"domains\['decay'\] is 1, which is not a Domain"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.fit(recorded(0), jaxsel.beta_bernoulli, **{"num_prompts": N, **options})


def test_one_large_batch_before_many_steps_is_refused():
    """Every step would be padded to its 70,000 prompts."""
    step = np.concatenate([np.zeros(70_000, int), np.arange(1, 1000)])
    history = jaxsel.make_history(step, np.arange(len(step)) % 70_000, np.ones(len(step), int), 2, num_prompts=70_000)
    with pytest.raises(ValueError, match=r"history has 70000 rows in step 0 and 1000 steps, .* leave this step out"):
        jaxsel.fit(history, jaxsel.beta_bernoulli, num_prompts=70_000)


def test_a_start_belief_need_not_sum_to_1():
    history = recorded(0, steps=6)
    one, other = (
        jaxsel.fit(
            history, jaxsel.hidden_markov, num_prompts=N, parameters=["initial_belief"], start=start, max_steps=2
        )
        for start in ({}, {"initial_belief": (2, 2, 2)})
    )
    assert other.by_hand == pytest.approx(one.by_hand, rel=1e-5)
    assert other.by_hand == pytest.approx(state_score(history, decay=0.7), rel=1e-5)


def test_a_start_belief_may_have_one_row_per_prompt():
    history = recorded(0, steps=6)
    options = {"num_prompts": N, "parameters": ["decay"], "max_steps": 2}
    one, other = (
        jaxsel.fit(history, jaxsel.hidden_markov, **options, initial_belief=belief)
        for belief in (np.full(3, 1 / 3), np.full((N, 3), 1 / 3))
    )
    assert other.by_hand == pytest.approx(one.by_hand, rel=1e-5)


def test_an_unknown_name_of_prior_counts_is_refused():
    with pytest.raises(ValueError, match="prior_counts is 'flat'; give one of 'ones'"):
        jaxsel.fit(recorded(0), jaxsel.hidden_markov, num_prompts=N, start={"prior_counts": "flat"})


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="history has no rows"):
        jaxsel.fit(jaxsel.make_history([], [], [], [], num_prompts=N), jaxsel.hidden_markov, num_prompts=N)


def test_an_observed_jump_with_start_probability_0_is_refused():
    history = jaxsel.make_history([0, 1], [0, 0], [0, 8], 8, num_prompts=N)
    with pytest.raises(ValueError, match="an outcome with probability 0 occurred; give values above 0"):
        jaxsel.fit(
            history, jaxsel.hidden_markov, num_prompts=N, start={"prior_counts": hidden_markov.PRIOR_COUNTS["local"]}
        )
